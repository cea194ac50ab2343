"""A causal codec at any length: nothing depends on more of the future than documented, so that it can stream."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import noise, tiny_causal_model, tiny_model
from tests.unit.test_attention import random_codes
from wavtokenizer_hf import WavTokenizerFeatureExtractor

# The window of 8 frames is shorter than the longest clips here, and 64 is longer.
MODELS = {window: tiny_causal_model(attention_window=window) for window in (None, 1, 8, 64)}
MODEL = MODELS[8]
HOP = MODEL.config.hop_length
EXTRACTOR = WavTokenizerFeatureExtractor(hop_length=HOP)

windows = st.sampled_from(list(MODELS))
lengths = st.one_of(st.integers(1, 3 * HOP), st.integers(1, 40 * HOP))


def num_settled(num_codes: int) -> int:
    """Samples that nothing after `num_codes` codes can change: all but the last 1.5 hops."""
    return max(0, num_codes * HOP - 3 * HOP // 2)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(num_samples=lengths, data=st.data())
@torch.no_grad()
def test_a_code_depends_on_no_sample_past_its_own_frame(num_samples, data):
    changed = data.draw(st.integers(0, num_samples - 1))
    clip = noise(1, 1, num_samples)
    other = clip.clone()
    other[..., changed:] = torch.nan  # whatever reads one of these becomes NaN
    encoded = MODEL.encode(clip)
    reached = MODEL.encoder_model.encoder(other)[0].isnan().any(dim=1)[0]
    frames_before = changed // HOP
    assert not reached[:frames_before].any()
    assert reached[frames_before], "its own frame does depend on it"
    other[..., changed:] = noise(1, 1, num_samples - changed, seed=1)
    assert torch.equal(MODEL.encode(other).audio_codes[..., :frames_before], encoded.audio_codes[..., :frames_before])


@settings(deadline=None, max_examples=40)
@given(num_samples=lengths, data=st.data())
@torch.no_grad()
def test_whole_frames_have_their_codes_before_the_rest_of_the_clip_is_known(num_samples, data):
    known = data.draw(st.integers(0, num_samples // HOP))
    clip = noise(1, 1, num_samples)
    whole = MODEL.encode(clip, output_latents=True)
    if known:
        part = MODEL.encode(clip[..., : known * HOP], output_latents=True)
        assert_close(part.encoder_latents, whole.encoder_latents[..., :known])
        assert torch.equal(part.audio_codes, whole.audio_codes[..., :known])


@settings(deadline=None, max_examples=40)
@given(num_frames=st.integers(1, 60), window=windows, data=st.data())
@torch.no_grad()
def test_all_but_one_and_a_half_hops_are_settled_before_later_codes_are_known(num_frames, window, data):
    known = data.draw(st.integers(1, num_frames))
    model, codes = MODELS[window], random_codes(1, num_frames)
    whole = model.decode(codes).audio_values
    settled = num_settled(known)
    assert_close(model.decode(codes[..., :known]).audio_values[..., :settled], whole[..., :settled])
    other = torch.cat([codes[..., :known], 63 - codes[..., known:]], dim=-1)
    assert_close(model.decode(other).audio_values[..., :settled], whole[..., :settled])


@torch.no_grad()
def test_the_delay_of_one_and_a_half_hops_is_no_longer_than_it_must_be():
    codes = random_codes(1, 30)
    whole = MODEL.decode(codes).audio_values[0, 0]
    codes[..., 20:] = 63 - codes[..., 20:]
    first_changed = int((MODEL.decode(codes).audio_values[0, 0] != whole).nonzero()[0])
    # The window of a frame starts at 0: it is the frame's second sample that differs first.
    assert first_changed == num_settled(20) + 1


@torch.no_grad()
def test_the_other_codec_would_fail_these_tests():
    model, clip, codes = tiny_model(), noise(1, 1, 20 * HOP), random_codes(1, 20)
    latents = model.encode(clip, output_latents=True).encoder_latents
    prefix = model.encode(clip[..., : 10 * HOP], output_latents=True).encoder_latents
    assert (prefix - latents[..., :10]).abs().max() > 1e-2
    settled = num_settled(10)
    whole = model.decode(codes).audio_values[..., :settled]
    assert (model.decode(codes[..., :10]).audio_values[..., :settled] - whole).abs().max() > 1e-2


@settings(deadline=None, max_examples=25)
@given(num_frames=st.integers(1, 40), window=st.sampled_from([1, 8, 64]), data=st.data())
@torch.no_grad()
def test_a_frame_attends_to_itself_and_the_rest_of_its_window_only(num_frames, window, data):
    # The convolutions around the attention see far more, so this looks at the layer alone.
    attention = MODELS[window].backbone.pos_net[2]
    changed = data.draw(st.integers(0, num_frames - 1))
    hidden_states = noise(1, 16, num_frames)
    before, _ = attention(hidden_states)
    hidden_states[..., changed] += 1 + noise(16, seed=1)
    differs = (attention(hidden_states)[0] - before).abs().amax(dim=1)[0] > 1e-5
    frames = torch.arange(num_frames)
    assert not differs[(frames < changed) | (frames >= changed + window)].any()
    assert differs[changed]


@settings(deadline=None, max_examples=30)
@given(
    window=windows,
    sizes=st.lists(st.integers(1, 20 * HOP), min_size=2, max_size=5),
    garbage=st.sampled_from([0.0, -7.5, torch.nan]),
)
@torch.no_grad()
def test_every_clip_of_a_padded_batch_gets_what_it_gets_alone(window, sizes, garbage):
    model = MODELS[window]
    clips = [noise(size, seed=seed) for seed, size in enumerate(sizes)]
    inputs = EXTRACTOR(clips, return_tensors="pt")
    inputs["input_values"] = inputs["input_values"].masked_fill(inputs["padding_mask"][:, None] == 0, garbage)
    encoded = model.encode(**inputs, output_latents=True)
    mask = encoded.audio_codes_mask
    latents = encoded.quantized_latents.masked_fill(mask == 0, garbage)
    from_codes = model.decode(encoded.audio_codes, audio_codes_mask=mask).audio_values
    from_latents = model.decode(quantized_latents=latents, audio_codes_mask=mask).audio_values
    for row, clip in enumerate(clips):
        num_codes = model.num_codes(len(clip))
        alone = model.encode(clip[None, None])
        assert torch.equal(encoded.audio_codes[row, :, :num_codes], alone.audio_codes[0])
        assert not encoded.audio_codes[row, :, num_codes:].any()
        expected = model.decode(alone.audio_codes).audio_values[0]
        for decoded in (from_codes, from_latents):
            assert_close(decoded[row, :, : num_codes * HOP], expected)
            assert not decoded[row, :, num_codes * HOP :].any()
