"""Long recordings: blocks in, the codes of the whole out."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import noise, tiny_model
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.audio_preparation import resample, resample_blocks
from wavtokenizer_hf.streaming import encode_long


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def feature_extractor(model):
    return WavTokenizerFeatureExtractor(hop_length=model.config.hop_length)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]),
    lengths=st.lists(st.integers(0, 3000), max_size=6),
)
def test_resampling_in_blocks_equals_resampling_the_whole(rate, lengths):
    signal = noise(sum(lengths), seed=rate).numpy()
    blocks = np.split(signal, np.cumsum(lengths)[:-1]) if lengths else []
    resampled = [*resample_blocks(blocks, rate, 24000), np.zeros(0, dtype=np.float32)]
    expected = resample(signal, rate, 24000) if len(signal) else signal
    np.testing.assert_allclose(np.concatenate(resampled), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"), [(24000, 1, "wav"), (44100, 2, "flac"), (16000, 1, "ogg"), (22050, 1, "mp3")]
)
@pytest.mark.parametrize("block_s", [0.013, 0.5, 60])
def test_a_file_gets_the_codes_that_it_gets_in_one_piece(
    model, feature_extractor, tmp_path, rate, channels, suffix, block_s
):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, noise(rate, channels).numpy(), rate)
    inputs = feature_extractor(path, resample=True, return_tensors="pt")
    encoded = encode_long(model, path, block_s=block_s, progress=False)
    codes, num_samples = encoded
    assert torch.equal(encoded[0, 0], codes[0, 0])
    assert num_samples == inputs["input_values"].shape[-1]
    assert torch.equal(codes, model.encode(**inputs).audio_codes)


def test_blocks_from_an_iterator_are_scaled_downmixed_and_resampled(model, feature_extractor):
    clip = (noise(2, 5000).clamp(-1, 1) * 32767).short().numpy()
    blocks = (clip[:, begin : begin + 700] for begin in range(0, 5000, 700))
    inputs = feature_extractor(clip, sampling_rate=48000, resample=True, return_tensors="pt")
    codes, _ = encode_long(model, blocks, sampling_rate=48000, progress=False)
    assert torch.equal(codes, model.encode(**inputs).audio_codes)


def test_progress_is_shown_in_seconds_of_audio(model, capsys):
    encode_long(model, [np.zeros(24000, dtype=np.float32)] * 3)
    assert "3.00" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], ValueError, "no samples"),
        ([np.zeros(0, dtype=np.float32)], ValueError, "no samples"),
        ([np.zeros(9), np.array([0, np.nan])], ValueError, "block 1 holds NaN"),
        ([np.zeros((2, 3, 4))], ValueError, "block 0: expected shape"),
        (["speech.flac"], ValueError, "block 0: expected a path"),
        ("nowhere.wav", FileNotFoundError, "nowhere.wav"),
    ],
)
def test_what_is_no_recording_is_refused(model, source, error, message):
    with pytest.raises(error, match=message):
        encode_long(model, source, progress=False)
