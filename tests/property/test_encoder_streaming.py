"""A stream gives the codes of the whole clip, however the audio arrives, and whoever else is in the batch."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import noise, tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerModel, arithmetic_wavtokenizer, bundled_checkpoint
from wavtokenizer_hf.streaming import StreamingEncoder

MODELS = {
    "hop 80": lambda: tiny_model(),
    "hop 600": lambda: tiny_model(upsampling_ratios=[6, 5, 5, 4]),
    "hop 320": lambda: tiny_model(upsampling_ratios=[8, 5, 4, 2]),
    "zero padding": lambda: tiny_model(pad_mode="constant"),
    "causal": lambda: tiny_causal_model(),
    "SimVQ": lambda: tiny_model(use_causal_conv=True, adanorm_num_embeddings=1),
    "long reach": lambda: tiny_model(upsampling_ratios=[2, 2], kernel_size=11, last_kernel_size=13),
    "two residual blocks": lambda: tiny_model(num_residual_layers=2, dilation_growth_rate=3),
    "bundled": lambda: WavTokenizerModel.from_pretrained(bundled_checkpoint()).eval(),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


@torch.no_grad()
def codes_of(model, samples: torch.Tensor) -> torch.Tensor:
    return model.encode(samples).audio_codes


def cuts(num_samples: int) -> st.SearchStrategy[list[int]]:
    """Where a clip may be cut: sorted positions, some of them equal."""
    return st.lists(st.integers(0, num_samples), max_size=12).map(sorted)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_streaming_equals_the_whole_clip_for_any_partition(model, data):
    num_samples = data.draw(st.integers(1, 12 * model.config.hop_length))
    samples = noise(2, 1, num_samples, seed=num_samples)
    edges = [0, *data.draw(cuts(num_samples)), num_samples]
    stream = StreamingEncoder(model, batch_size=2)
    codes = [stream.push(samples[..., begin:end]) for begin, end in itertools.pairwise(edges)]
    codes.append(stream.flush())
    assert torch.equal(torch.cat(codes, dim=-1), codes_of(model, samples))


@pytest.mark.parametrize("num_samples", [1, 79, 80, 81, 400, 741])
def test_streaming_equals_the_whole_clip_one_sample_at_a_time(num_samples):
    model = tiny_model()
    samples = noise(1, 1, num_samples)
    stream = StreamingEncoder(model)
    codes = [stream.push(samples[..., [position]]) for position in range(num_samples)]
    codes.append(stream.flush())
    assert torch.equal(torch.cat(codes, dim=-1), codes_of(model, samples))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_that_begin_and_end_at_different_times_get_what_they_get_alone(model, seed):
    """Three rows, each with one or two clips one after the other, pushed in uneven pieces with pauses."""
    chance = random.Random(seed)
    longest, batch_size = 8 * model.config.hop_length, 3
    clips = [
        [noise(1, 1, chance.randint(1, longest), seed=chance.randint(0, 99)) for _ in range(chance.randint(1, 2))]
        for _ in range(batch_size)
    ]
    expected = [[codes_of(model, clip)[0, 0].tolist() for clip in row] for row in clips]
    stream = StreamingEncoder(model, batch_size)
    queues = [list(row) for row in clips]
    got: list[list[list[int]]] = [[[]] for _ in range(batch_size)]

    def collect(result):
        codes, mask = result
        assert (codes[~mask] == 0).all()
        for row in range(batch_size):
            got[row][-1] += codes[row][mask[row]].tolist()

    while any(queues):
        counts = [chance.choice([0, chance.randint(0, longest)]) for _ in queues]
        counts = [min(count, queue[0].shape[-1]) if queue else 0 for count, queue in zip(counts, queues, strict=True)]
        samples = torch.full((batch_size, 1, max(counts)), 9.0)  # what the mask hides must not matter
        mask = torch.zeros(batch_size, max(counts), dtype=torch.int64)
        for row, count in enumerate(counts):
            if count:
                samples[row, :, :count] = queues[row][0][0, :, :count]
                mask[row, :count] = 1
                queues[row][0] = queues[row][0][..., count:]
        collect(stream.push(samples, mask))
        ending = [row for row, queue in enumerate(queues) if queue and queue[0].shape[-1] == 0]
        if ending:
            collect(stream.flush(ending))
            for row in ending:
                queues[row].pop(0)
                if queues[row]:
                    got[row].append([])
            stream.reset([row for row in ending if queues[row]])
    assert got == expected


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 2500), min_size=1, max_size=5),
    at_once=st.sampled_from([1, 4 * 80 * 3, 4 * 80 * 8]),
)
def test_the_size_of_pieces_changes_no_latent_of_any_clip(lengths, at_once):
    model = tiny_model()
    clips = [noise(1, 1, length, seed=index) for index, length in enumerate(lengths)]
    with torch.no_grad():
        expected = [model.encode(clip, output_latents=True) for clip in clips]
    batch = torch.full((len(clips), 1, max(lengths)), 7.0)
    mask = torch.zeros(len(clips), max(lengths))
    for row, clip in enumerate(clips):
        batch[row, :, : clip.shape[-1]] = clip[0]
        mask[row, : clip.shape[-1]] = 1
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", at_once)
        encoded = model.encode(batch, mask, output_latents=True)
    for row, alone in enumerate(expected):
        num_codes = alone.audio_codes.shape[-1]
        assert torch.equal(encoded.audio_codes[row, :, :num_codes], alone.audio_codes[0])
        assert (encoded.audio_codes[row, :, num_codes:] == 0).all()
        torch.testing.assert_close(
            encoded.encoder_latents[row, :, :num_codes], alone.encoder_latents[0], atol=1e-5, rtol=0
        )


def test_pieces_have_the_gradients_of_the_whole(monkeypatch):
    model = tiny_model()
    whole, pieces = (noise(1, 1, 3000).requires_grad_() for _ in range(2))
    model.encode(whole, output_latents=True).encoder_latents.square().sum().backward()
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", 4 * 80 * 4)
    model.encode(pieces, output_latents=True).encoder_latents.square().sum().backward()
    torch.testing.assert_close(pieces.grad, whole.grad, atol=1e-4, rtol=1e-4)
