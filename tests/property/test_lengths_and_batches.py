"""Properties over all lengths and batches."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import noise, tiny_config, tiny_model
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel

MODEL = tiny_model()
HOP = MODEL.config.hop_length
EXTRACTOR = WavTokenizerFeatureExtractor(hop_length=HOP)

lengths = st.one_of(st.integers(1, 3 * HOP), st.integers(1, 40 * HOP))


@settings(deadline=None)
@given(num_samples=st.integers(0, 10**9), ratios=st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_the_number_of_codes_is_the_number_of_samples_over_the_hop_rounded_up(num_samples, ratios):
    ratios.append(2)
    config = WavTokenizerConfig(upsampling_ratios=ratios)
    expected = math.ceil(num_samples / math.prod(ratios))
    with torch.device("meta"):
        model = WavTokenizerModel(tiny_config(upsampling_ratios=ratios[-1:]))
    model.config = config
    assert model.num_codes(num_samples) == expected
    assert model.num_codes(torch.tensor(num_samples)) == expected
    assert model.num_samples(expected) == expected * config.hop_length
    assert WavTokenizerFeatureExtractor(hop_length=config.hop_length).get_num_audio_codes(num_samples) == expected


@settings(deadline=None, max_examples=40)
@given(num_samples=lengths)
@torch.no_grad()
def test_any_length_encodes_to_its_number_of_codes_and_comes_back_at_its_length(num_samples):
    clip = noise(1, 1, num_samples)
    output = MODEL(clip)
    assert output.audio_codes.shape == (1, 1, MODEL.num_codes(num_samples))
    assert output.audio_codes_mask.all()
    assert output.audio_values.shape == clip.shape
    assert torch.isfinite(output.audio_values).all()
    decoded = MODEL.decode(output.audio_codes).audio_values
    assert decoded.shape[-1] == MODEL.num_samples(MODEL.num_codes(num_samples))
    torch.testing.assert_close(decoded[..., :num_samples], output.audio_values, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(lengths, min_size=2, max_size=6), garbage=st.sampled_from([0.0, 1.0, -7.5]))
@torch.no_grad()
def test_every_clip_of_a_padded_batch_gets_what_it_gets_alone(sizes, garbage):
    clips = [noise(size, seed=seed).numpy() for seed, size in enumerate(sizes)]
    inputs = EXTRACTOR(clips, return_tensors="pt")
    padding = inputs["padding_mask"][:, None] == 0
    inputs["input_values"] = inputs["input_values"].masked_fill(padding, garbage)
    encoded = MODEL.encode(**inputs, output_latents=True)
    output = MODEL(**inputs)
    decoded = MODEL.decode(encoded.audio_codes, audio_codes_mask=encoded.audio_codes_mask).audio_values
    assert encoded.audio_codes_mask.dtype == inputs["padding_mask"].dtype
    num_frames = encoded.audio_codes.shape[-1]
    for row, clip in enumerate(clips):
        num_samples, num_codes = len(clip), MODEL.num_codes(len(clip))
        alone = MODEL.encode(torch.from_numpy(clip)[None, None], output_latents=True)
        torch.testing.assert_close(encoded.audio_codes[row, :, :num_codes], alone.audio_codes[0], rtol=0, atol=0)
        for name in ("encoder_latents", "quantized_latents"):
            torch.testing.assert_close(encoded[name][row, :, :num_codes], alone[name][0], rtol=0, atol=1e-4)
            assert not encoded[name][row, :, num_codes:].any()
        assert encoded.audio_codes_mask[row, 0].tolist() == [1] * num_codes + [0] * (num_frames - num_codes)
        assert not encoded.audio_codes[row, :, num_codes:].any()
        audio_alone = MODEL.decode(alone.audio_codes).audio_values[0]
        torch.testing.assert_close(decoded[row, :, : num_codes * HOP], audio_alone, rtol=0, atol=1e-4)
        assert not decoded[row, :, num_codes * HOP :].any()
        reconstruction = output.audio_values[row, 0, :num_samples]
        torch.testing.assert_close(reconstruction, audio_alone[0, :num_samples], rtol=0, atol=1e-4)
        assert not output.audio_values[row, 0, num_samples:].any()


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 6 * HOP), min_size=2, max_size=5), order=st.randoms(use_true_random=False))
@torch.no_grad()
def test_the_order_of_a_batch_does_not_matter(sizes, order):
    clips = [noise(size, seed=seed).numpy() for seed, size in enumerate(sizes)]
    shuffled = list(range(len(clips)))
    order.shuffle(shuffled)
    one = MODEL.encode(**EXTRACTOR(clips, return_tensors="pt"))
    other = MODEL.encode(**EXTRACTOR([clips[i] for i in shuffled], return_tensors="pt"))
    np.testing.assert_array_equal(one.audio_codes[shuffled], other.audio_codes)
