"""Downmix and resampling equal the original's."""

import numpy as np
import pytest

from tests.parity.conftest import GOLDEN
from wavtokenizer_hf import WavTokenizerFeatureExtractor

RATES = (16000, 22050, 24000, 44100, 48000)
TOLERANCE = 3e-6


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "preprocess.npz") as stored:
        return dict(stored)


def _prepare(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    extractor = WavTokenizerFeatureExtractor()
    return extractor(samples, sampling_rate=sampling_rate, resample=True)["input_values"][0]


@pytest.mark.parametrize("rate", RATES)
def test_stereo_becomes_the_mono_signal_of_the_original(rate, signals, expected):
    ours = _prepare(signals[f"stereo_{rate}"], rate)
    np.testing.assert_allclose(ours, expected[f"stereo_to_mono_{rate}"], rtol=0, atol=TOLERANCE)


def test_mono_is_resampled_as_in_the_original(signals, expected):
    ours = _prepare(signals["stereo_44100"][0], 44100)
    np.testing.assert_allclose(ours, expected["mono_to_mono_44100"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [1, 2, 100])
def test_clips_of_a_few_samples_are_resampled_as_in_the_original(length, signals, expected):
    ours = _prepare(signals["stereo_44100"][:, :length], 44100)
    np.testing.assert_allclose(ours, expected[f"stereo_to_mono_44100_len{length}"], rtol=0, atol=TOLERANCE)
