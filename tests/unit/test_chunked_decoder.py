"""`ChunkedDecoder`: the windows of the ordinary codec, the state of a causal one, and misuse.

That streams do not depend on how they are cut is in tests/property/test_decoder_streaming.py.
"""

import io

import numpy as np
import pytest
import torch

from tests.tiny import tiny_causal_model, tiny_model
from tests.unit.test_attention import LargestTensor, random_codes
from wavtokenizer_hf import WavTokenizerDecoderModel, WavTokenizerEncoderModel
from wavtokenizer_hf.streaming import ChunkedDecoder
from wavtokenizer_hf.streaming.decoder import CHUNK_FRAMES, CONTEXT_FRAMES, LOOKAHEAD_FRAMES
from wavtokenizer_hf.streaming.window_decoding import CROSSFADE_FRAMES

HOP = 80
FRAMES = {"chunk_frames": 10, "context_frames": 7, "lookahead_frames": 6}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def causal_model():
    return tiny_causal_model()


@torch.no_grad()
def whole(model, audio_codes, **kwargs):
    return model.decode(audio_codes, **kwargs).audio_values


def streamed(decoder: ChunkedDecoder, audio_codes: torch.Tensor, size: int = 1) -> torch.Tensor:
    pieces = [decoder.push(codes) for codes in audio_codes.split(size, dim=-1)]
    return torch.cat([*pieces, decoder.flush()], dim=-1)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------- the ordinary codec


def windows_by_hand(model, audio_codes, chunk, context, lookahead, fade):
    """Each chunk from its window, its first frames faded over from the window before by a raised cosine."""
    num_codes = audio_codes.shape[-1]
    starts = list(range(0, num_codes, chunk))
    while len(starts) > 1 and starts[-1] + lookahead >= num_codes:
        starts.pop()  # the window before reaches the end
    expected = np.zeros(num_codes * HOP)
    rise = np.sin(np.pi / 2 * (np.arange(fade * HOP) + 0.5) / (fade * HOP)) ** 2
    for start in starts:
        first, end = max(0, start - context), num_codes
        if start != starts[-1]:
            end = start + chunk + lookahead
        window = whole(model, audio_codes[..., first:end])[0, 0].double().numpy()[(start - first) * HOP :]
        if start:
            old = expected[start * HOP : (start + fade) * HOP]
            window[: fade * HOP] = old * (1 - rise) + window[: fade * HOP] * rise
        expected[start * HOP : end * HOP] = window
    return torch.from_numpy(expected).float()[None, None]


@pytest.mark.parametrize("num_codes", [17, 20, 26, 27, 36, 61])
@pytest.mark.parametrize(
    ("chunk", "context", "lookahead", "fade"),
    [(10, 7, 6, 3), (10, 0, 6, 3), (10, 100, 6, 3), (4, 7, 3, 2), (10, 7, 1, 1), (1, 5, 20, 3), (7, 3, 0, 0)],
)
def test_samples_are_those_of_windows_faded_into_one_another(model, num_codes, chunk, context, lookahead, fade):
    assert CROSSFADE_FRAMES == 3
    codes = random_codes(1, num_codes)
    actual = streamed(ChunkedDecoder(model, chunk, context, lookahead), codes)
    assert_close(actual, windows_by_hand(model, codes, chunk, context, lookahead, fade))


@pytest.mark.parametrize("num_codes", [1, 9, 10, 15, 16])
def test_a_clip_that_fits_the_first_window_is_decoded_as_a_whole(model, num_codes):
    codes = random_codes(1, num_codes)
    assert torch.equal(streamed(ChunkedDecoder(model, **FRAMES), codes), whole(model, codes))


def test_a_longer_clip_is_not():
    model, codes = tiny_model(), random_codes(1, 17)
    assert (streamed(ChunkedDecoder(model, **FRAMES), codes) - whole(model, codes)).abs().max() > 1e-2


def test_a_chunk_comes_with_the_last_code_of_its_lookahead(model):
    decoder = ChunkedDecoder(model, **FRAMES)
    counts = [decoder.push(code).shape[-1] for code in random_codes(1, 40).split(1, dim=-1)]
    assert [number for number, count in enumerate(counts, start=1) if count] == [16, 26, 36]
    assert set(counts) == {0, 10 * HOP}
    assert decoder.flush().shape == (1, 1, 10 * HOP)
    assert decoder.latency_s == pytest.approx(16 / 300)  # 300 codes a second


def test_the_defaults_are_those_that_were_measured(model):
    state = ChunkedDecoder(model).state
    chosen = state["chunk_frames"], state["context_frames"], state["lookahead_frames"]
    assert chosen == (CHUNK_FRAMES, CONTEXT_FRAMES, LOOKAHEAD_FRAMES)


def test_memory_does_not_grow_with_the_stream(model):
    decoder = ChunkedDecoder(model, **FRAMES)
    sizes = []
    for codes in random_codes(1, 400).split(40, dim=-1):
        decoder.push(codes)
        sizes.append(stored_bytes(decoder.state))
    assert len(set(sizes[1:])) == 1
    decoder.reset()
    with LargestTensor() as mode:
        for codes in random_codes(1, 400).split(40, dim=-1):
            decoder.push(codes)
    assert mode.largest <= 40 * 4 * HOP


def stored_bytes(state) -> int:
    return sum(value.untyped_storage().nbytes() for value in state.values() if isinstance(value, torch.Tensor))


# -------------------------------------------------------------------------------------------------- the causal codec


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_causal_codec_is_decoded_exactly(window, attention):
    model = tiny_causal_model(attention_window=window)
    model.set_attn_implementation(attention)
    codes = random_codes(2, 50)
    expected = whole(model, codes)
    for size in (1, 7, 50):
        assert_close(streamed(ChunkedDecoder(model, batch_size=2), codes, size), expected)


def test_more_codes_than_go_through_the_layers_at_once_are_decoded_exactly(causal_model):
    codes = random_codes(1, 700)
    assert_close(streamed(ChunkedDecoder(causal_model), codes, 700), whole(causal_model, codes))
    with LargestTensor() as mode:
        streamed(ChunkedDecoder(causal_model), codes, 700)
    assert mode.largest <= 256 * (4 * HOP + 2)  # what the head makes of so many frames


def test_the_delay_of_a_causal_codec_is_what_its_frames_overlap(causal_model):
    decoder = ChunkedDecoder(causal_model)
    num_samples = 0
    for number, code in enumerate(random_codes(1, 6).split(1, dim=-1), start=1):
        num_samples += decoder.push(code).shape[-1]
        assert num_samples == max(0, number * HOP - 3 * HOP // 2)
    assert decoder.flush().shape == (1, 1, 3 * HOP // 2)
    assert decoder.latency_s == pytest.approx(1.5 / 300)


@pytest.mark.parametrize("name", FRAMES)
def test_a_causal_codec_has_no_chunks(causal_model, name):
    with pytest.raises(ValueError, match=f"decoded exactly, code by code, and has no `{name}`. Leave it out, got 5"):
        ChunkedDecoder(causal_model, **{name: 5})


def test_the_state_of_a_causal_codec_grows_with_unbounded_attention_only():
    bounded, unbounded = [], []
    for window, sizes in ((8, bounded), (None, unbounded)):
        decoder = ChunkedDecoder(tiny_causal_model(attention_window=window))
        for codes in random_codes(1, 120).split(40, dim=-1):
            decoder.push(codes)
            sizes.append(stored_bytes(decoder.state))
    assert len(set(bounded)) == 1
    assert np.diff(unbounded).tolist() == [40 * 2 * 16 * 4] * 2  # keys and values of 16 numbers


# --------------------------------------------------------------------------------------------------------------- both


KINDS = {"ordinary": (tiny_model, FRAMES), "causal": (tiny_causal_model, {})}


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    make, frames = KINDS[request.param]
    return make(), frames


def test_rows_of_a_batch_get_what_each_gets_alone(kind):
    model, frames = kind
    codes = random_codes(3, 41)
    together = streamed(ChunkedDecoder(model, **frames, batch_size=3), codes, 5)
    for row in range(3):
        assert_close(together[row : row + 1], streamed(ChunkedDecoder(model, **frames), codes[row : row + 1], 5))


@pytest.mark.parametrize("bandwidth_id", [2, torch.tensor([0, 3])])
def test_bandwidth_ids_are_those_of_decode(kind, bandwidth_id):
    model, frames = kind
    codes = random_codes(2, 12)
    decoder = ChunkedDecoder(model, **frames, bandwidth_id=bandwidth_id, batch_size=2)
    assert_close(streamed(decoder, codes), whole(model, codes, bandwidth_id=bandwidth_id))


def test_a_decoder_alone_is_enough(kind):
    model, frames = kind
    half = WavTokenizerDecoderModel(model.config).eval()
    weights = {name.removeprefix("encoder_model."): value for name, value in model.state_dict().items()}
    half.load_state_dict({name: value for name, value in weights.items() if not name.startswith("encoder.")})
    codes = random_codes(1, 33)
    assert torch.equal(
        streamed(ChunkedDecoder(half, **frames), codes), streamed(ChunkedDecoder(model, **frames), codes)
    )


def test_a_half_precision_model_gives_float32_samples(kind):
    model, frames = kind
    codes = random_codes(1, 33)
    half = type(model)(model.config).eval().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    samples = streamed(ChunkedDecoder(half, **frames), codes, 4)
    assert samples.dtype == torch.float32
    expected = streamed(ChunkedDecoder(model, **frames), codes, 4)
    assert (samples - expected).square().mean() < 0.01 * expected.square().mean()


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int64])
def test_codes_of_every_integer_type_are_taken(kind, dtype):
    model, frames = kind
    codes = random_codes(1, 20)
    assert torch.equal(
        streamed(ChunkedDecoder(model, **frames), codes.to(dtype), 20),
        streamed(ChunkedDecoder(model, **frames), codes, 20),
    )


def test_no_gradient_is_kept(kind):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames)
    with torch.enable_grad():
        samples = streamed(decoder, random_codes(1, 20))
    assert not samples.requires_grad
    assert not any(value.requires_grad for value in decoder.state.values() if isinstance(value, torch.Tensor))


def test_a_stream_without_codes_is_silent(kind):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames, batch_size=2)
    assert decoder.push(torch.zeros(2, 1, 0, dtype=torch.int64)).shape == (2, 1, 0)
    assert decoder.flush().shape == (2, 1, 0)


def test_after_a_reset_nothing_is_left_of_the_clip_before(kind):
    model, frames = kind
    codes = random_codes(1, 30)
    expected = streamed(ChunkedDecoder(model, **frames), codes)
    decoder = ChunkedDecoder(model, **frames)
    streamed(decoder, random_codes(1, 25))
    decoder.reset()
    decoder.push(random_codes(1, 23))
    decoder.reset()
    assert torch.equal(streamed(decoder, codes), expected)


# -------------------------------------------------------------------------------------------------------------- state


def test_a_state_that_was_saved_goes_on_in_another_decoder(kind):
    model, frames = kind
    codes = random_codes(2, 45)
    expected = streamed(ChunkedDecoder(model, **frames, batch_size=2), codes)
    first = ChunkedDecoder(model, **frames, batch_size=2)
    before = [first.push(code) for code in codes[..., :22].split(1, dim=-1)]
    assert all(isinstance(value, (torch.Tensor, int)) for value in first.state.values())
    file = io.BytesIO()
    torch.save(first.state, file)
    size = file.tell()
    file.seek(0)
    second = ChunkedDecoder(model, **frames, batch_size=2)
    second.state = torch.load(file, weights_only=True)
    after = streamed(second, codes[..., 22:])
    assert torch.equal(torch.cat([*before, after], dim=-1), expected)
    assert size < 2 * stored_bytes(first.state) + 20_000  # views would have been saved with all that they look into


def test_a_state_stays_what_it_was_when_the_stream_goes_on(kind):
    model, frames = kind
    codes = random_codes(1, 45)
    decoder = ChunkedDecoder(model, **frames)
    decoder.push(codes[..., :22])
    state = decoder.state
    first = streamed(decoder, codes[..., 22:], 5)
    decoder.state = state
    assert torch.equal(streamed(decoder, codes[..., 22:], 5), first)


def test_a_state_of_inference_mode_goes_on_outside_it(kind):
    model, frames = kind
    codes = random_codes(1, 45)
    decoder = ChunkedDecoder(model, **frames)
    with torch.inference_mode():
        before = decoder.push(codes[..., :22])
    after = streamed(decoder, codes[..., 22:])
    assert_close(torch.cat([before, after], dim=-1), streamed(ChunkedDecoder(model, **frames), codes))


def test_what_is_no_state_of_this_stream_is_refused(kind):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames)
    good = decoder.state
    tensor = next(name for name, value in good.items() if isinstance(value, torch.Tensor) and value.ndim == 3)
    wrong = {
        r"has the keys batch_size, .*; got list": [],
        r"has the keys batch_size, .*; got tail": {"tail": good["tail"]},
        "`batch_size` of a state of this stream is 1, got 2": {**good, "batch_size": 2},
        r"`num_codes` of a state must be torch\.int64 \(1,\), got float": {**good, "num_codes": 0.5},
        rf"`{tensor}` of a state must be torch\.\w+ \(1, \d+, ('any'|80)\), got int": {**good, tensor: 3},
        rf"`{tensor}` of a state must be .* got torch\.\w+ \(2, ": {**good, tensor: torch.cat([good[tensor]] * 2)},
        rf"`{tensor}` of a state must be .* got torch\.bool": {**good, tensor: good[tensor].bool()},
    }
    for message, state in wrong.items():
        with pytest.raises(ValueError, match=message):
            decoder.state = state
    assert decoder.state.keys() == good.keys()


def test_a_state_of_other_chunks_is_refused(model):
    decoder = ChunkedDecoder(model, **FRAMES)
    with pytest.raises(ValueError, match="`context_frames` of a state of this stream is 7, got 8"):
        decoder.state = ChunkedDecoder(model, **(FRAMES | {"context_frames": 8})).state


# ------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_frames": 0}, "`chunk_frames` must be a whole number of 1 or more, got 0"),
        ({"chunk_frames": 2.5}, r"`chunk_frames` must be a whole number of 1 or more, got 2\.5"),
        ({"context_frames": -1}, "`context_frames` must be a whole number of 0 or more, got -1"),
        ({"lookahead_frames": -3}, "`lookahead_frames` must be a whole number of 0 or more, got -3"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more, got 0"),
        ({"bandwidth_id": 4}, r"`bandwidth_id` must lie in 0\.\.3"),
        ({"bandwidth_id": torch.tensor([0, 1])}, r"shape \(1,\), one per clip, got \(2,\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        ChunkedDecoder(model, **changes)


def test_a_model_without_decoder_is_refused(model):
    with pytest.raises(ValueError, match="needs a model with a decoder, got WavTokenizerEncoderModel"):
        ChunkedDecoder(WavTokenizerEncoderModel(model.config))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([1, 2, 3], r"must be an integer tensor \(1, 1, k\), got list"),
        (torch.zeros(4, dtype=torch.int64), r"must be an integer tensor \(1, 1, k\), got \(4,\)"),
        (torch.zeros(2, 1, 4, dtype=torch.int64), r"got \(2, 1, 4\)\. The batch size of a stream is set when"),
        (torch.zeros(1, 2, 4, dtype=torch.int64), r"got \(1, 2, 4\)"),
        (torch.zeros(1, 1, 4), r"must be integers, got torch\.float32"),
        (torch.full((1, 1, 4), 64), r"Codes must lie in 0\.\.63 .* clip 0 holds 64 at frame 0"),
        (torch.full((1, 1, 4), -1), r"Codes must lie in 0\.\.63 .* clip 0 holds -1 at frame 0"),
    ],
)
def test_what_is_no_batch_of_codes_is_refused_and_changes_nothing(kind, codes, message):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames)
    good = random_codes(1, 30)
    before = decoder.push(good[..., :11])
    with pytest.raises(ValueError, match=message):
        decoder.push(codes)
    after = streamed(decoder, good[..., 11:], 11)
    assert torch.equal(torch.cat([before, after], dim=-1), streamed(ChunkedDecoder(model, **frames), good, 11))


def test_after_its_end_a_clip_takes_no_codes(kind):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames)
    decoder.push(random_codes(1, 5))
    decoder.flush()
    for call in (decoder.flush, lambda: decoder.push(random_codes(1, 5))):
        with pytest.raises(RuntimeError, match=r"Row 0 was flushed .*`reset\(\[0\]\)`"):
            call()
    ended = ChunkedDecoder(model, **frames)
    ended.state = decoder.state
    with pytest.raises(RuntimeError, match="Row 0 was flushed"):
        ended.push(random_codes(1, 5))


def test_a_decoder_that_fails_stays_where_it_was(kind, monkeypatch):
    model, frames = kind
    codes = random_codes(1, 30)
    decoder = ChunkedDecoder(model, **frames)
    before = decoder.push(codes[..., :11])
    with monkeypatch.context() as patched:
        patched.setattr(model.head, "forward", None)
        patched.setattr(model.head, "frames", None)
        with pytest.raises(TypeError):
            decoder.push(codes[..., 11:])
    after = decoder.push(codes[..., 11:])
    rest = decoder.flush()
    expected = ChunkedDecoder(model, **frames)
    pieces = [expected.push(codes[..., :11]), expected.push(codes[..., 11:]), expected.flush()]
    assert torch.equal(torch.cat([before, after, rest], dim=-1), torch.cat(pieces, dim=-1))


def test_a_state_of_whole_numbers_for_all_rows_is_taken(kind):
    """As streams kept it whose rows all ran together."""
    model, frames = kind
    codes = random_codes(2, 40)
    decoder = ChunkedDecoder(model, **frames, batch_size=2)
    before = decoder.push(codes[..., :22])
    state = decoder.state
    counts = {name for name, value in state.items() if isinstance(value, torch.Tensor) and value.ndim == 1}
    decoder.state = {name: int(value[0]) if name in counts else value for name, value in state.items()}
    assert decoder.state.keys() == state.keys()
    samples = torch.cat([before, streamed(decoder, codes[..., 22:], 9)], dim=-1)
    assert_close(samples, streamed(ChunkedDecoder(model, **frames, batch_size=2), codes))


def test_rows_apart_are_refused_where_no_mask_could_be_returned(kind):
    model, frames = kind
    decoder = ChunkedDecoder(model, **frames, batch_size=2)
    decoder.push(random_codes(2, 9))
    decoder.reset([1])
    with pytest.raises(ValueError, match=r"`num_codes` differ: \[9, 0\]\. Call `push\(audio_codes, mask\)`"):
        decoder.push(random_codes(2, 3))
    with pytest.raises(ValueError, match=r"Call `flush\(rows\)`"):
        decoder.flush()
    decoder.flush([0])
    with pytest.raises(RuntimeError, match="Row 0 was flushed and takes no more codes"):
        decoder.push(random_codes(2, 3), torch.ones(2, 3))
    samples, mask = decoder.push(random_codes(2, 3), torch.tensor([[0] * 3, [1] * 3]))
    assert samples.shape == mask.shape
