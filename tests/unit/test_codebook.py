"""The codebook's learning against its formulas in NumPy."""

import copy

import numpy as np
import pytest
import torch

from tests.tiny import noise, tiny_config
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCodebook
from wavtokenizer_hf.training.codebook import CodebookLearner, kmeans, quantize
from wavtokenizer_hf.training.learner import CodebookConfig
from wavtokenizer_hf.training.legacy import LegacyCodebookLearner

SIZE, WIDTH = 12, 6
NO_REVIVAL = CodebookConfig(revival_share=0)


def codebook_of(entries: torch.Tensor, counts: torch.Tensor | float = 5.0) -> WavTokenizerCodebook:
    """A codebook that has long been chosen as `counts` say."""
    codebook = WavTokenizerCodebook(tiny_config(codebook_size=len(entries), hidden_size=entries.shape[1]))
    codebook.embed.copy_(entries)
    codebook.cluster_size.copy_(torch.as_tensor(counts))
    codebook.embed_avg.copy_(entries * codebook.cluster_size[:, None])
    codebook.inited.fill_(1)
    return codebook


@pytest.fixture
def codebook() -> WavTokenizerCodebook:
    return codebook_of(noise(SIZE, WIDTH), torch.linspace(3, 8, SIZE))


@pytest.fixture
def latents() -> torch.Tensor:
    """(B, D, L)"""
    return noise(4, WIDTH, 10, seed=1)


def learn(codebook: WavTokenizerCodebook, latents: torch.Tensor, config: CodebookConfig, step: int = 0) -> int:
    """One update from one batch; how many entries it revived."""
    learner = (LegacyCodebookLearner if config.legacy else CodebookLearner)(codebook, config)
    learner.observe(latents, codebook(latents))
    return learner.update(step)["codebook/revived"]


def vectors_of(latents: torch.Tensor) -> np.ndarray:
    """(B, D, L) -> (B * L, D)"""
    return np.concatenate([clip.T for clip in latents.double().numpy()])


def assert_same(one: WavTokenizerCodebook, other: WavTokenizerCodebook, tolerance: float = 0) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------------------- quantize


def test_quantized_latents_are_the_nearest_entries(codebook, latents):
    codes, quantized, commitment = quantize(codebook, latents)
    vectors, entries = vectors_of(latents), codebook.embed.double().numpy()
    distances = ((vectors[:, None] - entries) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(codes.flatten(), distances.argmin(axis=-1))
    np.testing.assert_array_equal(vectors_of(quantized), entries[distances.argmin(axis=-1)])
    assert commitment.item() == pytest.approx(distances.min(axis=-1).mean() / WIDTH, rel=1e-5)


def test_gradients_go_straight_through_the_quantizer(codebook, latents):
    latents.requires_grad_()
    _, quantized, _ = quantize(codebook, latents)
    gradient = noise(*latents.shape, seed=2)
    quantized.backward(gradient)
    torch.testing.assert_close(latents.grad, gradient, rtol=0, atol=0)


def test_the_commitment_loss_pulls_latents_to_their_entries(codebook, latents):
    latents.requires_grad_()
    _, quantized, commitment = quantize(codebook, latents)
    commitment.backward()
    torch.testing.assert_close(latents.grad, 2 * (latents - quantized).detach() / latents.numel())


def test_no_gradient_reaches_the_codebook(codebook, latents):
    assert not list(codebook.parameters())
    learn(codebook, latents.requires_grad_(), CodebookConfig())
    assert not any(buffer.requires_grad for buffer in codebook.buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_latents_are_quantized_in_float32(codebook, latents, dtype):
    latents = latents.to(dtype)
    codes, quantized, commitment = quantize(codebook, latents)
    in_full = quantize(codebook, latents.float())
    assert quantized.dtype == commitment.dtype == torch.float32
    torch.testing.assert_close((codes, quantized, commitment), in_full, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ update


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("decay", [0.99, 0.6])
def test_an_update_moves_sums_and_counts_and_divides_by_smoothed_counts(codebook, latents, decay, legacy):
    vectors, codes = vectors_of(latents), codebook(latents).flatten().numpy()
    chosen = np.eye(SIZE)[codes]  # (B * L, K)
    counts = decay * codebook.cluster_size.double().numpy() + (1 - decay) * chosen.sum(axis=0)
    sums = decay * codebook.embed_avg.double().numpy() + (1 - decay) * chosen.T @ vectors
    epsilon = 0.1
    probabilities = (counts + epsilon) / (counts.sum() + SIZE * epsilon)

    learn(codebook, latents, CodebookConfig(decay=decay, epsilon=epsilon, revival_share=0, legacy=legacy))
    np.testing.assert_allclose(codebook.cluster_size, counts, rtol=1e-6)
    np.testing.assert_allclose(codebook.embed_avg, sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(codebook.embed, sums / (probabilities * counts.sum())[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[1, 3], [2, 2], [1, 1, 1, 1]])
def test_a_batch_moves_the_codebook_alike_however_it_is_split(codebook, latents, sizes):
    whole = copy.deepcopy(codebook)
    learn(whole, latents, NO_REVIVAL)
    learner = CodebookLearner(codebook, NO_REVIVAL)
    for part in latents.split(sizes):
        learner.observe(part, codebook(part))
    learner.update(0)
    assert_same(codebook, whole, tolerance=1e-6)


def test_an_update_forgets_what_it_was_made_from(codebook, latents):
    afresh = copy.deepcopy(codebook)
    learner = CodebookLearner(codebook, NO_REVIVAL)
    for number, part in enumerate(latents.split(2)):
        learner.observe(part, codebook(part))
        learner.update(number)
        learn(afresh, part, NO_REVIVAL)
    assert_same(codebook, afresh)
    with pytest.raises(RuntimeError, match="Call `observe`"):
        learner.update(2)


# ----------------------------------------------------------------------------------------------------------- revival


def with_dead_entries(counts: float = 5.0) -> WavTokenizerCodebook:
    """Entries 3 and 7 are out of reach, and have hardly been chosen for long."""
    entries, chosen = noise(SIZE, WIDTH), torch.full((SIZE,), counts)
    entries[[3, 7]] += 100
    chosen[[3, 7]] = 0.01 * counts
    return codebook_of(entries, chosen)


def test_a_revived_entry_is_a_latent_of_the_batch_with_the_mean_count(latents):
    codebook, unrevived = with_dead_entries(), with_dead_entries()
    assert learn(unrevived, latents, NO_REVIVAL) == 0
    assert learn(codebook, latents, CodebookConfig()) == 2
    matches = (vectors_of(latents)[:, None] == codebook.embed[[3, 7]].double().numpy()).all(axis=-1)  # (B * L, 2)
    assert matches.sum(axis=0).tolist() == [1, 1]
    assert matches.any(axis=1).sum() == 2  # not the same latent twice
    mean_count = unrevived.cluster_size.mean()
    for dead in (3, 7):
        torch.testing.assert_close(codebook.cluster_size[dead], mean_count)
        torch.testing.assert_close(codebook.embed_avg[dead], codebook.embed[dead] * mean_count)
        unrevived.embed[dead], unrevived.embed_avg[dead] = codebook.embed[dead], codebook.embed_avg[dead]
        unrevived.cluster_size[dead] = codebook.cluster_size[dead]
    assert_same(codebook, unrevived)  # no other entry is touched


def test_a_revived_entry_is_chosen_and_stays_alive(latents):
    codebook = with_dead_entries()
    assert not np.isin([3, 7], codebook(latents)).any()
    learn(codebook, latents, CodebookConfig())
    assert np.isin([3, 7], codebook(latents)).all()
    assert learn(codebook, latents, CodebookConfig(), step=1) == 0
    assert codebook.embed[[3, 7]].abs().max() < 2


@pytest.mark.parametrize("batch_size", [1, 10, 1000])
def test_which_entries_are_dead_does_not_depend_on_the_batch_size(batch_size):
    """Of batches that are alike but for their size, the moving counts grow in proportion."""
    clip = noise(1, WIDTH, 10, seed=1)
    codebook = with_dead_entries(counts=10 / (SIZE - 2) * batch_size)
    assert learn(codebook, clip.expand(batch_size, -1, -1), CodebookConfig()) == 2


def test_an_entry_with_more_than_its_share_lives_on(latents):
    entries = noise(SIZE, WIDTH)
    entries[3] += 100
    counts = torch.full((SIZE,), 4.0)  # the 40 latents of a batch, about
    counts[3] = 0.5
    for share, num_revived in ((0.1, 0), (0.2, 1)):
        assert learn(codebook_of(entries, counts), latents, CodebookConfig(revival_share=share)) == num_revived


def test_no_more_entries_are_revived_than_there_are_latents(latents):
    entries, counts = noise(SIZE, WIDTH), torch.full((SIZE,), 1e-3)
    entries[1:] += 100
    counts[0] = 100
    codebook = codebook_of(entries, counts)
    assert learn(codebook, latents[:1, :, :5], CodebookConfig()) == 5
    assert (codebook.embed.abs().amax(dim=1) < 2).sum() == 1 + 5


def test_draws_follow_from_the_seed_and_the_step(latents):
    def revived(seed: int, step: int) -> WavTokenizerCodebook:
        codebook = with_dead_entries()
        torch.randn(seed + step)  # what else is drawn does not matter
        learn(codebook, latents, CodebookConfig(seed=seed), step)
        return codebook

    assert_same(revived(1, 2), revived(1, 2))
    for seed, step in ((1, 3), (2, 2), (2, 1)):
        assert not torch.equal(revived(1, 2).embed, revived(seed, step).embed)


def test_under_legacy_an_expired_entry_goes_on_as_if_nothing_had_replaced_it(latents):
    """An entry at 100, chosen 0.5 times; the original's threshold is 2, and running it gave the number below."""
    entries = noise(SIZE, WIDTH)
    entries[3] = 100
    counts = torch.full((SIZE,), 5.0)
    counts[3] = 0.5
    codebook = codebook_of(entries, counts)
    assert learn(codebook, latents, CodebookConfig(legacy=True, revival_share=0.5)) == 0
    assert codebook.embed[3].tolist() == pytest.approx([99.998] * WIDTH, abs=5e-4)
    assert codebook.cluster_size[3].item() == pytest.approx(0.99 * 0.5)


# ------------------------------------------------------------------------------------------------------------- start


def numpy_lloyd(vectors: np.ndarray, centres: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    centres = centres.copy()
    for _ in range(iterations):
        chosen = ((vectors[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)
        counts = np.bincount(chosen, minlength=len(centres))
        for entry in np.flatnonzero(counts):
            centres[entry] = vectors[chosen == entry].mean(axis=0)
    return centres, counts


@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_kmeans_is_lloyds_algorithm_for_any_number_of_vectors(iterations):
    vectors = noise(9000, 2).double()  # more than are compared at a time
    start = torch.cat([vectors[:6], torch.full((1, 2), 50.0)])  # nothing chooses the last
    centres, counts = kmeans(vectors, start, iterations)
    expected_centres, expected_counts = numpy_lloyd(vectors.numpy(), start.numpy(), iterations)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(centres, expected_centres, atol=1e-12)


def distortion(codebook: WavTokenizerCodebook, vectors: torch.Tensor) -> float:
    """Mean squared distance of vectors (N, D) to their entries."""
    return quantize(codebook, vectors.T[None])[2].item()


def test_a_start_by_kmeans_serves_latents_better_than_random_ones_of_them():
    vectors = noise(400, WIDTH)
    codebook = codebook_of(torch.zeros(SIZE, WIDTH))
    CodebookLearner(codebook, CodebookConfig()).start(vectors, vectors_per_update=400)
    others = [distortion(codebook_of(vectors[torch.randperm(400)[:SIZE]]), vectors) for _ in range(20)]
    assert distortion(codebook, vectors) < 0.95 * min(others)


def test_a_start_leaves_the_codebook_as_long_use_would(latents):
    codebook = codebook_of(torch.zeros(SIZE, WIDTH))
    codebook.inited.zero_()
    learner = CodebookLearner(codebook, CodebookConfig())
    assert not learner.is_started
    assert learner.num_vectors_to_start == 40 * SIZE
    vectors = noise(400, WIDTH)
    learner.start(vectors, vectors_per_update=100)
    assert learner.is_started
    assert codebook.cluster_size.sum().item() == pytest.approx(100)
    torch.testing.assert_close(codebook.embed_avg, codebook.embed * codebook.cluster_size[:, None])
    before = copy.deepcopy(codebook)
    learner.observe(vectors[:100].T[None], codebook(vectors[:100].T[None]))
    learner.update(0)
    assert codebook.cluster_size.sum().item() == pytest.approx(100)
    assert (codebook.embed - before.embed).norm() < 0.1 * before.embed.norm()


def test_a_start_follows_from_its_seed():
    def started(seed: int) -> WavTokenizerCodebook:
        codebook = codebook_of(torch.zeros(SIZE, WIDTH))
        torch.randn(seed)
        CodebookLearner(codebook, CodebookConfig(seed=seed)).start(noise(400, WIDTH), 400)
        return codebook

    assert_same(started(1), started(1))
    assert not torch.equal(started(1).embed, started(2).embed)


def test_a_start_from_equal_vectors_puts_every_entry_there():
    codebook = codebook_of(torch.zeros(SIZE, WIDTH))
    vector = noise(1, WIDTH)
    CodebookLearner(codebook, CodebookConfig()).start(vector.expand(50, -1), vectors_per_update=50)
    torch.testing.assert_close(codebook.embed, vector.expand(SIZE, -1))
    assert codebook.cluster_size.sum() == 50
    assert learn(codebook, vector[..., None].expand(2, -1, 25), CodebookConfig()) == SIZE - 1
    assert codebook.embed.isfinite().all()


def test_a_start_from_fewer_vectors_than_entries_is_refused():
    codebook = codebook_of(torch.zeros(SIZE, WIDTH))
    with pytest.raises(ValueError, match=f"start of {SIZE} entries needs at least as many latents, got {SIZE - 1}"):
        CodebookLearner(codebook, CodebookConfig()).start(noise(SIZE - 1, WIDTH), 100)


# --------------------------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [8, 1, 0, 3], [0, 0, 7, 0]])
def test_use_is_the_share_of_entries_and_the_entropy_of_the_codes(counts):
    use = codebook_use(torch.tensor(counts))
    shares = np.array([count for count in counts if count]) / sum(counts)
    entropy_bits = -(shares * np.log2(shares)).sum()
    assert use.usage == np.count_nonzero(counts) / len(counts)
    assert use.entropy_bits == pytest.approx(entropy_bits, abs=1e-12)
    assert use.perplexity == pytest.approx(2**entropy_bits)


def test_the_use_of_no_codes_is_refused():
    with pytest.raises(ValueError, match="undefined without codes"):
        codebook_use(torch.zeros(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, "`decay` must lie between 0 and 1, got 1.0"),
        ({"revival_share": 1.0}, "`revival_share` must lie from 0 to below 1, got 1.0"),
        ({"kmeans_iterations": 0}, "at least 1, got 0 and 40"),
        ({"kmeans_vectors_per_entry": 0}, "at least 1, got 200 and 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CodebookConfig(**settings)
