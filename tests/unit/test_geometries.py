"""Sampling rates and codebook sizes other than the released ones."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import noise, tiny_causal_model, tiny_config, tiny_model
from tests.unit.test_attention import LargestTensor
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel, arithmetic_wavtokenizer, fingerprint
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCodebook
from wavtokenizer_hf.training.losses import mel_loss

RATES = [  # Hz, strides, samples per code, codes per second
    (8000, [5, 4, 4, 2], 160, 50.0),
    (16000, [5, 4, 4, 4], 320, 50.0),
    (22050, [7, 7, 3, 2], 294, 75.0),
    (44100, [7, 7, 4, 3], 588, 75.0),
    (48000, [8, 5, 4, 4], 640, 75.0),
]
SIZES = [1024, 4096, 16384, 65536, 262144]


# ------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(("sampling_rate", "ratios", "hop_length", "frame_rate"), RATES)
@torch.no_grad()
def test_a_recording_of_any_rate_passes_through_a_codec_of_any_rate(
    tmp_path, sampling_rate, ratios, hop_length, frame_rate
):
    tiny_model(sampling_rate=sampling_rate, upsampling_ratios=ratios).save_pretrained(tmp_path)
    WavTokenizerFeatureExtractor(sampling_rate=sampling_rate, hop_length=hop_length).save_pretrained(tmp_path)
    model = WavTokenizerModel.from_pretrained(tmp_path)
    extractor = WavTokenizerFeatureExtractor.from_pretrained(tmp_path)
    config = model.config
    assert (config.sampling_rate, config.hop_length, config.frame_rate) == (sampling_rate, hop_length, frame_rate)

    recording = 0.3 * np.sin(2 * np.pi * 440 * np.arange(5500) / 11000)
    inputs = extractor(recording, sampling_rate=11000, resample=True, return_tensors="pt")
    num_samples = sampling_rate // 2
    assert inputs["input_values"].shape == (1, 1, num_samples)
    # 440 Hz in half a second: 220 periods at whatever rate.
    assert np.abs(np.fft.rfft(inputs["input_values"][0, 0])).argmax() == 220

    output = model(**inputs)
    num_codes = math.ceil(num_samples / hop_length)
    assert output.audio_codes.shape == (1, 1, num_codes)
    assert model.num_codes(num_samples) == extractor.get_num_audio_codes(num_samples) == num_codes
    assert output.audio_values.shape == (1, 1, num_samples)
    assert model.decode(output.audio_codes).audio_values.shape == (1, 1, num_codes * hop_length)
    with pytest.raises(ValueError, match=f"is at 11000 Hz and the codec works at {sampling_rate} Hz"):
        extractor(recording, sampling_rate=11000)


@pytest.mark.parametrize(("sampling_rate", "ratios"), [rate[:2] for rate in RATES])
@pytest.mark.parametrize("make_model", [tiny_model, tiny_causal_model])
def test_a_codec_of_any_rate_trains(make_model, sampling_rate, ratios):
    model = make_model(sampling_rate=sampling_rate, upsampling_ratios=ratios).train()
    clip = noise(2, 1, 4 * model.config.hop_length + 1024)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(8):
        loss = mel_loss(clip[:, 0], model(clip).audio_values[:, 0], sampling_rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_rate_is_part_of_what_a_fingerprint_identifies():
    model, other = (tiny_model(sampling_rate=rate) for rate in (24000, 16000))
    assert fingerprint(model) != fingerprint(other)


# --------------------------------------------------------------------------------------------------------- codebooks


def with_entries(codebook: WavTokenizerCodebook, entries: torch.Tensor) -> WavTokenizerCodebook:
    codebook.embed.copy_(entries)
    return codebook


@pytest.mark.parametrize("codebook_size", SIZES)
@torch.no_grad()
def test_a_codebook_of_any_size_gives_and_takes_its_whole_range_of_codes(codebook_size):
    model = WavTokenizerModel(tiny_config(codebook_size=codebook_size)).eval()
    clip = noise(1, 1, 20 * 80)
    codebook = with_entries(model.encoder_model.quantizer.codebook, noise(codebook_size, 16))
    latents = model.encode(clip, output_latents=True).encoder_latents
    expected = torch.linspace(0, codebook_size - 1, 20).long()
    codebook.embed[expected] = latents[0].T
    encoded = model.encode(clip, output_latents=True)
    assert torch.equal(encoded.audio_codes[0, 0], expected)
    assert torch.equal(encoded.quantized_latents, latents)
    assert torch.equal(model.codes_to_latents(encoded.audio_codes), latents)
    assert model.decode(encoded.audio_codes).audio_values.isfinite().all()
    for wrong in (-1, codebook_size):
        with pytest.raises(ValueError, match=rf"must lie in 0..{codebook_size - 1} .* holds {wrong} at frame 0"):
            model.decode(torch.tensor([[[wrong]]]))


@pytest.mark.parametrize("codebook_size", SIZES)
@torch.no_grad()
def test_the_search_for_the_nearest_entry_holds_a_bounded_matrix(codebook_size, monkeypatch):
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", 2**20)  # a small case will do
    codebook = with_entries(WavTokenizerCodebook(tiny_config(codebook_size=codebook_size)), noise(codebook_size, 16))
    num_frames = 2 * 2**20 // codebook_size + 3
    latents = noise(2, 16, num_frames, seed=1)
    with LargestTensor() as mode:
        codes = codebook(latents)
    assert mode.largest <= max(2**20, codebook.embed.numel())
    assert codes.shape == (2, num_frames)
    vectors, entries = latents.transpose(1, 2).double(), codebook.embed.double()
    distances = torch.cdist(vectors, entries)
    chosen = distances.gather(2, codes[..., None])
    assert (chosen <= distances.amin(dim=2, keepdim=True) * (1 + 1e-6)).all()
    assert len(codes.unique()) > min(num_frames, 20) / 2


@pytest.mark.parametrize("num_similarities", [1, 64 * 7, 64 * 50, 64 * 100, 64 * 1000])
@torch.no_grad()
def test_codes_are_the_same_whatever_the_bound(num_similarities, monkeypatch):
    codebook = with_entries(WavTokenizerCodebook(tiny_config()), noise(64, 16))
    latents = noise(2, 16, 50, seed=1)
    expected = codebook(latents)
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", num_similarities)
    assert torch.equal(codebook(latents), expected)
