"""`decode_long`: what it takes, what it gives, and what it needs."""

import numpy as np
import pytest
import soundfile
import torch

from tests.tiny import tiny_causal_model, tiny_model
from tests.unit.test_attention import LargestTensor, random_codes
from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.streaming import ChunkedDecoder, decode_long
from wavtokenizer_hf.streaming.decoder import (
    LONG_CHUNK_FRAMES,
    LONG_CONTEXT_FRAMES,
    LONG_LOOKAHEAD_FRAMES,
)

HOP = 80
FRAMES = {"chunk_frames": 20, "context_frames": 7, "lookahead_frames": 6, "progress": False}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def streamed(decoder: ChunkedDecoder, audio_codes: torch.Tensor) -> torch.Tensor:
    return torch.cat([decoder.push(audio_codes), decoder.flush()], dim=-1)


def joined(samples) -> torch.Tensor:
    return torch.cat(list(samples), dim=-1)


def code_file(audio_codes: torch.Tensor, **changes) -> CodeFile:
    fields = {"sampling_rate": 24000, "hop_length": HOP, "codebook_size": 64, "num_samples": audio_codes.numel() * HOP}
    return CodeFile(audio_codes=audio_codes.flatten().numpy(), **(fields | changes))


# ------------------------------------------------------------------------------------------------- what goes in


def test_a_tensor_blocks_and_files_give_the_same_samples(model, tmp_path):
    codes = random_codes(1, 70)
    expected = streamed(ChunkedDecoder(model, 20, 7, 6), codes)
    code_file(codes).save(tmp_path / "codes.npz")
    code_file(codes).save(tmp_path / "codes.json")
    np.save(tmp_path / "flat.npy", codes.flatten().numpy().astype(np.uint16))
    np.save(tmp_path / "batch.npy", codes.numpy())
    sources = [
        codes,
        codes.split([0, 1, 50, 19], dim=-1),
        (block for block in codes.split(9, dim=-1)),
        tmp_path / "codes.npz",
        str(tmp_path / "codes.json"),
        tmp_path / "flat.npy",
        tmp_path / "batch.npy",
    ]
    for source in sources:
        blocks = list(decode_long(model, source, **FRAMES))
        assert torch.equal(joined(blocks), expected)
        assert all(block.shape[:2] == (1, 1) and block.shape[-1] for block in blocks)


@pytest.mark.parametrize("num_samples", [69 * HOP + 1, 70 * HOP - 1, 70 * HOP])
def test_a_file_of_codes_comes_out_at_the_length_of_its_clip(model, tmp_path, num_samples):
    codes = random_codes(1, 70)
    code_file(codes, num_samples=num_samples).save(tmp_path / "codes.npz")
    samples = joined(decode_long(model, tmp_path / "codes.npz", **FRAMES))
    assert torch.equal(samples, streamed(ChunkedDecoder(model, 20, 7, 6), codes)[..., :num_samples])


def test_the_defaults_are_longer_than_those_of_a_stream(model):
    codes = random_codes(1, LONG_CHUNK_FRAMES + LONG_LOOKAHEAD_FRAMES + 40)
    decoder = ChunkedDecoder(model, LONG_CHUNK_FRAMES, LONG_CONTEXT_FRAMES, LONG_LOOKAHEAD_FRAMES)
    assert torch.equal(joined(decode_long(model, codes, progress=False)), streamed(decoder, codes))


@torch.no_grad()
def test_a_causal_codec_is_decoded_exactly():
    model, codes = tiny_causal_model(), random_codes(1, 300)
    actual = joined(decode_long(model, codes, bandwidth_id=2, progress=False))
    torch.testing.assert_close(actual, model.decode(codes, bandwidth_id=2).audio_values, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_file_holds_the_samples(model, tmp_path, name):
    codes = random_codes(1, 70)
    expected = joined(decode_long(model, codes, **FRAMES))[0, 0].numpy()
    assert decode_long(model, codes, tmp_path / name, **FRAMES) == tmp_path / name
    samples, sampling_rate = soundfile.read(tmp_path / name, dtype="float32")
    assert (len(samples), sampling_rate) == (70 * HOP, 24000)
    np.testing.assert_allclose(samples, expected.clip(-1, 1), rtol=0, atol=2**-15)


def test_samples_beyond_full_scale_are_clipped_with_a_warning(tmp_path):
    model, codes = tiny_model(), random_codes(1, 30)
    with torch.no_grad():
        model.head.linear.bias[: model.config.n_fft // 2 + 1] += 3  # twenty times as loud
    num_beyond = int((joined(decode_long(model, codes, **FRAMES)).abs() > 1).sum())
    assert num_beyond > 100
    with pytest.warns(UserWarning, match=rf"^{num_beyond} samples of .*a\.wav went beyond full scale"):
        decode_long(model, codes, tmp_path / "a.wav", **FRAMES)


def test_nothing_is_decoded_before_it_is_asked_for(model):
    asked = []

    def blocks():
        for block in random_codes(1, 80).split(10, dim=-1):
            asked.append(block)
            yield block

    samples = decode_long(model, blocks(), **FRAMES)
    assert not asked
    assert next(samples).shape == (1, 1, 20 * HOP)
    assert len(asked) == 3
    assert joined(samples).shape == (1, 1, 60 * HOP)


def test_progress_counts_seconds(model, capsys):
    codes = random_codes(1, 60)  # 0.2 s
    joined(decode_long(model, codes, **(FRAMES | {"progress": True})))
    assert "Decoding: 100%" in capsys.readouterr().err
    joined(decode_long(model, iter([codes]), **(FRAMES | {"progress": True})))
    error = capsys.readouterr().err
    assert "200ms" in error or "0.20s" in error or "0.20/" in error, error
    joined(decode_long(model, codes, **FRAMES))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("make", [tiny_model, tiny_causal_model])
def test_memory_does_not_grow_with_the_length(make, tmp_path):
    model, largest = make(), []
    frames = {"progress": False}
    for num_codes in (3000, 6000):
        codes = random_codes(1, num_codes)
        with LargestTensor() as mode:
            decode_long(model, codes, tmp_path / "a.wav", **frames)
        largest.append(mode.largest)
    assert largest[0] == largest[1]


# --------------------------------------------------------------------------------------------------------- errors


def test_an_error_on_the_way_leaves_the_earlier_file_whole_and_nothing_else(model, tmp_path):
    decode_long(model, random_codes(1, 70), tmp_path / "a.wav", **FRAMES)
    before = (tmp_path / "a.wav").read_bytes()

    def blocks():
        yield random_codes(1, 70)
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        decode_long(model, blocks(), tmp_path / "a.wav", **FRAMES)
    with pytest.raises(ValueError, match="Codes must lie in"):
        decode_long(model, [random_codes(1, 70), torch.full((1, 1, 3), 64)], tmp_path / "a.wav", **FRAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("codes", [[], [torch.zeros(1, 1, 0, dtype=torch.int64)], torch.zeros(1, 1, 0).long()])
def test_no_codes_are_an_error(model, tmp_path, codes):
    with pytest.raises(ValueError, match="There are no codes to decode"):
        list(decode_long(model, codes, progress=False))
    with pytest.raises(ValueError, match="There are no codes to decode"):
        decode_long(model, codes, tmp_path / "a.wav", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 1, 4).long(), r"must be an integer tensor \(1, 1, k\), got \(2, 1, 4\)"),
        (torch.zeros(4).long(), r"got \(4,\)"),
        ([[1, 2, 3]], "got list"),
    ],
)
def test_what_is_no_clip_of_codes_is_refused(model, codes, message):
    with pytest.raises(ValueError, match=message):
        list(decode_long(model, codes, progress=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_length": 160, "num_samples": 160 * 70}, "was made with hop_length 160, and the model has 80"),
        ({"sampling_rate": 16000}, "was made with sampling_rate 16000, and the model has 24000"),
        ({"codebook_size": 4096}, r"codebook_size 4096, and the model has 64: decode it with .* \(unknown\)"),
    ],
)
def test_codes_of_another_geometry_are_refused(model, tmp_path, changes, message):
    code_file(random_codes(1, 70), **changes).save(tmp_path / "codes.npz")
    with pytest.raises(ValueError, match=message):
        decode_long(model, tmp_path / "codes.npz", progress=False)


def test_files_that_are_no_codes_are_refused(model, tmp_path):
    for name in ("nowhere.npy", "nowhere.npz"):
        with pytest.raises(FileNotFoundError, match=name):
            decode_long(model, tmp_path / name, progress=False)
    for name, array in (("floats", np.zeros(4)), ("table", np.zeros((2, 3), np.int64)), ("number", np.int64(3))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=rf"{name}\.npy must hold whole numbers \(L,\) or \(1, 1, L\)"):
            decode_long(model, tmp_path / f"{name}.npy", progress=False)
    with pytest.raises(ValueError, match=r"codes are stored as \.npz or \.json"):
        decode_long(model, tmp_path / "codes.txt", progress=False)


def test_an_output_that_cannot_be_written_is_told_before_decoding(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ChunkedDecoder, "push", lambda *arguments: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"audio is written as .*, got .*a\.txt"):
        decode_long(model, random_codes(1, 9), tmp_path / "a.txt", **FRAMES)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        decode_long(model, random_codes(1, 9), tmp_path / "nowhere" / "a.wav", **FRAMES)
