"""The search along principal axes finds what the comparison with all entries finds, whatever the entries are like."""

import copy
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import noise, tiny_config, tiny_model
from wavtokenizer_hf import arithmetic_wavtokenizer, nearest_wavtokenizer
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCodebook
from wavtokenizer_hf.nearest_wavtokenizer import CodebookIndex

SIZE, WIDTH = 1000, 40  # no multiple of a group, and more numbers than axes


def codebook_of(entries: torch.Tensor) -> WavTokenizerCodebook:
    codebook = WavTokenizerCodebook(tiny_config(codebook_size=len(entries), hidden_size=entries.shape[1]))
    codebook.embed.copy_(entries)
    return codebook


def both(entries: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Codes by comparison with all entries, and by the index."""
    codebook = codebook_of(entries)
    return codebook(vectors.T[None])[0], CodebookIndex(codebook.embed).nearest(vectors, codebook.embed)


def anisotropic(*shape: int, seed: int = 0) -> torch.Tensor:
    """Noise that lies along few axes, as latents do, in some rotation."""
    rotation = torch.linalg.qr(noise(WIDTH, WIDTH, seed=99))[0]
    return (noise(*shape, WIDTH, seed=seed) * torch.logspace(0, -2, WIDTH)) @ rotation


ENTRIES = {
    "along few axes": anisotropic(SIZE),
    "with duplicates": anisotropic(SIZE // 4).repeat(4, 1),
    "with near duplicates": anisotropic(SIZE // 4).repeat(4, 1) + 1e-8 * noise(SIZE, WIDTH),
    "far from the origin": 100 + anisotropic(SIZE),
    "far away and alike to float32": 3000 + anisotropic(SIZE),
    "of norms that differ widely": anisotropic(SIZE) * torch.logspace(-4, 4, SIZE)[:, None],
    "with zeros": anisotropic(SIZE) * (torch.arange(SIZE) % 3 > 0)[:, None],
    "on one line": torch.linspace(-1, 1, SIZE)[:, None] * noise(1, WIDTH),
    "narrow": noise(SIZE, 8),
}


@pytest.fixture
def _never_given_up(monkeypatch):
    monkeypatch.setattr(nearest_wavtokenizer, "_COMPARED_AT_MOST", 1)


@pytest.mark.usefixtures("_never_given_up")
@pytest.mark.parametrize("kind", ENTRIES)
def test_codes_equal_those_of_a_comparison_with_all_entries(kind):
    entries = ENTRIES[kind]
    width = entries.shape[1]
    where = entries[torch.arange(300) * 7 % len(entries)]
    other = entries[torch.arange(300) * 11 % len(entries)]
    vectors = torch.cat([where, (where + other) / 2, where + 0.05 * noise(300, width), 0 * where[:1], 1e4 * where[:5]])
    expected, codes = both(entries, vectors)
    assert torch.equal(codes, expected)
    if kind == "with duplicates":
        assert expected.max() < SIZE // 4


@pytest.mark.usefixtures("_never_given_up")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 300),
    width=st.integers(1, 70),
    decay=st.floats(-3, 0),
    middle=st.sampled_from([0.0, 1.0, 50.0, 1e3]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    is_coarse=st.booleans(),
)
def test_codes_are_equal_for_any_codebook(seed, size, width, decay, middle, scale, is_coarse):
    generator = torch.Generator().manual_seed(seed)
    profile = torch.logspace(0, decay, width)
    entries, vectors = ((torch.randn(n, width, generator=generator) * profile + middle) * scale for n in (size, 40))
    if is_coarse:  # many entries at equal distances
        entries, vectors = ((tensor / scale * 2).round() / 2 * scale for tensor in (entries, vectors))
    expected, codes = both(entries, vectors)
    if codes is None:  # as of numbers whose squares are none of float32
        assert not entries.any()
    else:
        assert torch.equal(codes, expected)


def test_a_few_entries_are_compared_in_full_where_they_lie_along_few_axes(monkeypatch):
    pairs = []
    scores = nearest_wavtokenizer._scores
    monkeypatch.setattr(nearest_wavtokenizer, "_scores", lambda *given: pairs.append(len(given[1])) or scores(*given))
    entries, vectors = anisotropic(20_000), anisotropic(500, seed=1)
    _, codes = both(entries, vectors)
    assert codes is not None
    assert sum(pairs) < 20 * len(vectors)


@pytest.mark.parametrize(
    ("entries", "vectors"),
    [
        (noise(SIZE, 300), noise(300, 300, seed=1)),  # alike in all directions
        (anisotropic(1).repeat(SIZE, 1), anisotropic(300, seed=1)),  # all the same
        (anisotropic(SIZE), anisotropic(0)),
    ],
)
def test_all_entries_are_compared_where_axes_tell_too_little(entries, vectors):
    expected, codes = both(entries, vectors)
    assert codes is None
    assert len(expected) == len(vectors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_numbers_that_are_not_finite_or_too_large_get_what_they_get_without_an_index(value, monkeypatch):
    entries, vectors = anisotropic(SIZE), anisotropic(20, seed=1)
    bad_vectors, bad_entries = vectors.clone(), entries.clone()
    bad_vectors[3, 5], bad_entries[500, 7] = value, value
    for book, asked in ((entries, bad_vectors), (bad_entries, vectors), (0 * entries, vectors)):
        expected, codes = both(book, asked)
        assert codes is None
        monkeypatch.setattr(nearest_wavtokenizer, "INDEXED_FROM", 1)
        assert torch.equal(codebook_of(book)(asked.T[None])[0], expected)
        monkeypatch.undo()


@pytest.fixture
def _indexed(monkeypatch):
    monkeypatch.setattr(nearest_wavtokenizer, "INDEXED_FROM", 1)


@pytest.mark.usefixtures("_indexed")
@pytest.mark.parametrize(
    "change",
    [
        lambda codebook, entries: codebook.embed.copy_(entries),
        lambda codebook, entries: torch.inference_mode()(codebook.embed.copy_)(entries),
        lambda codebook, entries: codebook.embed.data.copy_(entries),
        lambda codebook, entries: codebook.embed.__setitem__(slice(None), entries),
        lambda codebook, entries: setattr(codebook, "embed", entries.clone()),
        lambda codebook, entries: codebook.load_state_dict(codebook.state_dict() | {"embed": entries}),
    ],
    ids=["in place", "in inference mode", "through data", "by index", "another tensor", "loaded"],
)
def test_entries_that_change_are_found_at_once(change):
    codebook, vectors = codebook_of(anisotropic(SIZE)), anisotropic(50, seed=1)
    before = codebook(vectors.T[None])
    with torch.no_grad():
        change(codebook, anisotropic(SIZE, seed=2))
    after = codebook(vectors.T[None])
    assert torch.equal(after, codebook_of(anisotropic(SIZE, seed=2))(vectors.T[None]))
    assert not torch.equal(after, before)


@pytest.mark.usefixtures("_indexed")
def test_an_index_is_no_part_of_the_module():
    codebook = codebook_of(anisotropic(SIZE))
    expected = codebook(anisotropic(5, seed=1).T[None])
    assert codebook in nearest_wavtokenizer._indices
    assert set(codebook.state_dict()) == {"inited", "cluster_size", "embed", "embed_avg"}
    for other in (copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook))):
        assert other not in nearest_wavtokenizer._indices
        assert torch.equal(other(anisotropic(5, seed=1).T[None]), expected)


@pytest.mark.usefixtures("_indexed")
def test_entries_made_in_inference_mode_tell_of_no_change_and_get_no_index():
    with torch.inference_mode():
        codebook = codebook_of(anisotropic(SIZE))
        codebook.embed = anisotropic(SIZE)
        codebook(anisotropic(5, seed=1).T[None])
    assert codebook not in nearest_wavtokenizer._indices


@pytest.mark.parametrize("numbers_at_once", [1, 64 * 256, 2**20])
def test_the_size_of_pieces_changes_no_code(numbers_at_once, monkeypatch):
    expected, _ = both(anisotropic(SIZE), anisotropic(300, seed=1))
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", numbers_at_once)
    embed = anisotropic(SIZE)
    assert torch.equal(CodebookIndex(embed).nearest(anisotropic(300, seed=1), embed), expected)


@pytest.mark.usefixtures("_indexed")
@torch.no_grad()
def test_a_model_gives_the_same_codes_alone_and_in_a_batch_with_and_without_an_index(monkeypatch):
    model = tiny_model(use_causal_conv=True, adanorm_num_embeddings=1)
    clips = noise(3, 1, 4000)
    batch = model.encode(clips).audio_codes
    assert torch.equal(torch.cat([model.encode(clip[None]).audio_codes for clip in clips]), batch)
    monkeypatch.setattr(nearest_wavtokenizer, "INDEXED_FROM", 2**30)
    assert torch.equal(model.encode(clips).audio_codes, batch)
