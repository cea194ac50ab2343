"""Recordings under the weights of the released geometries: each has its codes alone, in a batch, and in a stream."""

from pathlib import Path

import pytest
import torch

from tests.parity.conftest import ARCHITECTURES
from wavtokenizer_hf import WavTokenizerFeatureExtractor, arithmetic_wavtokenizer
from wavtokenizer_hf.streaming import StreamingEncoder

RECORDINGS = sorted((Path(__file__).parents[1] / "golden" / "audio").glob("*.flac"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, reference_model):
    return reference_model(request.param)


@pytest.fixture(scope="module")
def clips():
    """Recordings cut to lengths from 1 sample to 2.4 s."""
    extractor = WavTokenizerFeatureExtractor()
    whole = [extractor(path, return_tensors="pt")["input_values"] for path in RECORDINGS]
    lengths = [None, None, 30001, 24000, 5000, 601, 100, 1]
    return [clip[..., :length] for clip, length in zip(whole, lengths, strict=True)]


@pytest.fixture(scope="module")
@torch.no_grad()
def alone(model, clips):
    """What each clip gets by itself, computed in one piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", 2**40)
        return [model.encode(clip, output_latents=True) for clip in clips]


@torch.no_grad()
def test_a_padded_batch_in_pieces_gives_each_recording_its_own_codes_and_sound(model, clips, alone, monkeypatch):
    monkeypatch.setattr(arithmetic_wavtokenizer, "_NUMBERS_AT_ONCE_ON_CPU", 2**18)
    batch = WavTokenizerFeatureExtractor()([clip[0, 0].numpy() for clip in clips], return_tensors="pt")
    encoded = model.encode(**batch, output_latents=True)
    decoded = model.decode(encoded.audio_codes, audio_codes_mask=encoded.audio_codes_mask).audio_values
    for row, single in enumerate(alone):
        num_codes = single.audio_codes.shape[-1]
        assert torch.equal(encoded.audio_codes[row, :, :num_codes], single.audio_codes[0])
        latents = encoded.encoder_latents[row, :, :num_codes]
        torch.testing.assert_close(latents, single.encoder_latents[0], rtol=0, atol=1e-4)
        audio_values = decoded[row, :, : model.num_samples(num_codes)]
        expected = model.decode(single.audio_codes).audio_values[0]
        torch.testing.assert_close(audio_values, expected, rtol=0, atol=1e-4)


def test_a_stream_of_twentieths_of_a_second_gives_each_recording_its_own_codes(model, clips, alone):
    for clip, single in zip(clips, alone, strict=True):
        stream = StreamingEncoder(model)
        codes = [stream.push(piece) for piece in clip.split(1200, dim=-1)] + [stream.flush()]
        assert torch.equal(torch.cat(codes, dim=-1), single.audio_codes)
