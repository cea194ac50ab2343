"""Decoding a stream, for any partition of the codes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_causal_model, tiny_model
from tests.unit.test_attention import random_codes
from wavtokenizer_hf.streaming import ChunkedDecoder

# 8 frames are fewer than most clips here have, 64 more; the second ordinary codec has 40 codes a second.
CAUSAL = {window: tiny_causal_model(attention_window=window) for window in (None, 1, 8, 64)}
ORDINARY = [tiny_model(), tiny_model(upsampling_ratios=[6, 5, 5, 4])]


@st.composite
def partitions(draw, longest: int = 60) -> list[int]:
    """Sizes of pushes, some of them empty, most of one code or a few."""
    sizes = draw(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=20))
    while sum(sizes) > longest:
        sizes.pop()
    return sizes if sum(sizes) else [*sizes, 1]


def streamed(decoder: ChunkedDecoder, audio_codes: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Pushes of these sizes; between any two, the state moves to where a new decoder would find it."""
    pieces = []
    for codes in audio_codes.split(sizes, dim=-1):
        state = {
            name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in decoder.state.items()
        }
        decoder.reset()
        decoder.state = state
        pieces.append(decoder.push(codes))
    return torch.cat([*pieces, decoder.flush()], dim=-1)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(sizes=partitions(), window=st.sampled_from(list(CAUSAL)), batch_size=st.integers(1, 3))
@torch.no_grad()
def test_a_causal_stream_equals_the_whole_clip_for_any_partition(sizes, window, batch_size):
    model = CAUSAL[window]
    codes = random_codes(batch_size, sum(sizes))
    decoder = ChunkedDecoder(model, batch_size=batch_size)
    assert_close(streamed(decoder, codes, sizes), model.decode(codes).audio_values)


@settings(deadline=None, max_examples=30)
@given(
    sizes=partitions(),
    chunk=st.integers(1, 20),
    context=st.integers(0, 40),
    lookahead=st.integers(0, 12),
    model=st.sampled_from(ORDINARY),
)
@torch.no_grad()
def test_chunks_have_the_same_samples_for_any_partition(sizes, chunk, context, lookahead, model):
    codes = random_codes(1, sum(sizes))
    decoder = ChunkedDecoder(model, chunk, context, lookahead)
    samples = streamed(decoder, codes, sizes)
    assert samples.shape == (1, 1, model.num_samples(sum(sizes)))
    assert torch.equal(samples, streamed(ChunkedDecoder(model, chunk, context, lookahead), codes, [sum(sizes)]))
    if sum(sizes) <= chunk + lookahead:
        assert torch.equal(samples, model.decode(codes).audio_values)


@settings(deadline=None, max_examples=20)
@given(sizes=partitions(), chunk=st.integers(1, 20), lookahead=st.integers(0, 12))
def test_sound_lags_behind_the_codes_by_no_more_than_the_latency(sizes, chunk, lookahead):
    model = ORDINARY[0]
    frame_s, frame_samples = 1 / model.config.frame_rate, model.config.hop_length
    for decoder in (ChunkedDecoder(model, chunk, 5, lookahead), ChunkedDecoder(CAUSAL[8])):
        num_codes = num_samples = 0
        for codes in random_codes(1, sum(sizes)).split(sizes, dim=-1):
            num_codes += codes.shape[-1]
            num_samples += decoder.push(codes).shape[-1]
            # The sample that would come next has not yet been due.
            assert num_samples / frame_samples >= num_codes - decoder.latency_s / frame_s - 1e-9
            assert num_samples <= num_codes * frame_samples


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12),
    begin_anew=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), max_size=4),
    model=st.sampled_from([*CAUSAL.values(), ORDINARY[0]]),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_rows_that_begin_pause_and_end_apart_sound_as_each_alone(steps, begin_anew, model, attention):
    """Three rows, each with its own sizes of pushes; some end in between, and begin anew while the others go on."""
    model.set_attn_implementation(attention)
    frames = {} if model.config.is_causal else {"chunk_frames": 5, "context_frames": 4, "lookahead_frames": 3}
    decoder = ChunkedDecoder(model, **frames, batch_size=3)
    codes = random_codes(3, sum(map(max, steps)) + 1)
    places, heard, clips = [0] * 3, [[] for _ in range(3)], [[] for _ in range(3)]

    def end(rows: list[int]) -> None:
        samples, mask = decoder.flush(rows)
        for row in rows:
            sound = torch.cat([*heard[row], samples[row][mask[row]]])
            own = torch.cat([torch.zeros(1, 1, 0, dtype=torch.int64), *clips[row]], dim=-1)
            alone = ChunkedDecoder(model, **frames)
            assert_close(sound, torch.cat([alone.push(own), alone.flush()], dim=-1)[0, 0])
            heard[row], clips[row] = [], []
        assert not mask[[row for row in range(3) if row not in rows]].any()

    for number, counts in enumerate(steps):
        for row in {row for step, row in begin_anew if step == number}:
            end([row])
            decoder.reset([row])
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        taken = [codes[row : row + 1, :, places[row] : places[row] + count] for row, count in enumerate(counts)]
        batch = torch.full((3, 1, max(counts)), -1)  # what the mask hides may be anything
        for row, some in enumerate(taken):
            batch[row, :, : some.shape[-1]] = some[0]
            places[row] += some.shape[-1]
            clips[row].append(some)
        samples, samples_mask = decoder.push(batch, mask)
        assert (samples[~samples_mask] == 0).all()
        for row in range(3):
            heard[row].append(samples[row][samples_mask[row]])
        decoder.state = decoder.state
    end([0, 1, 2])
    model.set_attn_implementation("sdpa")
