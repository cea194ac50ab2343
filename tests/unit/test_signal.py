"""Waveform distances against the same formulas written out in NumPy."""

import importlib
import math

import numpy as np
import pytest
import torch

from wavtokenizer_hf.evaluation.signal import log_mel_l1, mel_spectrogram, si_sdr_db, signal_distances, snr_db


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    times_s = torch.arange(6000, dtype=torch.float64) / 24000
    reference = 0.4 * torch.sin(2 * math.pi * 440 * times_s) + 0.05 * torch.randn(6000, generator=generator).double()
    estimate = 0.7 * reference + 0.02 * torch.randn(6000, generator=generator).double() + 0.01
    return reference, estimate


def numpy_log_mel(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Frame by frame: reflect, periodic Hann, magnitude, HTK triangles of height one, natural logarithm."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.pad(samples, 512, mode="reflect")
    frames = np.stack([padded[start : start + 1024] for start in range(0, len(padded) - 1023, 256)])
    magnitudes = np.abs(np.fft.rfft(frames * window))
    top_mel = 2595 * np.log10(1 + sampling_rate / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, 102) / 2595) - 1)
    bins_hz = np.arange(513) * sampling_rate / 1024
    filters = np.stack([np.interp(bins_hz, corners_hz[k : k + 3], [0, 1, 0], 0, 0) for k in range(100)])
    return np.log(np.maximum(magnitudes @ filters.T, 1e-7)).T


@pytest.mark.parametrize("sampling_rate", [24000, 16000])
def test_the_log_mel_distance_is_the_mean_difference_of_floored_log_mel_magnitudes(pair, sampling_rate):
    reference, estimate = pair
    expected = np.abs(
        numpy_log_mel(reference.numpy(), sampling_rate) - numpy_log_mel(estimate.numpy(), sampling_rate)
    ).mean()
    assert log_mel_l1(reference, estimate, sampling_rate=sampling_rate) == pytest.approx(expected, rel=1e-5)


def test_the_mel_spectrogram_keeps_leading_axes_and_passes_gradients(pair):
    clips = torch.stack(pair).float().reshape(2, 1, -1).requires_grad_()
    mel = mel_spectrogram(clips, 24000)
    assert mel.shape == (2, 1, 100, 24)
    np.testing.assert_allclose(mel[1, 0].log().detach(), numpy_log_mel(pair[1].numpy(), 24000), atol=1e-3)
    mel.sum().backward()
    assert clips.grad is not None
    assert clips.grad.abs().sum() > 0


def test_silence_against_a_tone_counts_from_the_floor():
    tone = torch.sin(torch.arange(4000, dtype=torch.float64) / 3)
    expected = np.abs(numpy_log_mel(tone.numpy(), 24000) - math.log(1e-7)).mean()
    assert log_mel_l1(tone, torch.zeros(4000), sampling_rate=24000) == pytest.approx(expected, rel=1e-5)


def test_si_sdr_is_the_ratio_of_the_projection_to_the_rest(pair):
    reference, estimate = (clip.numpy() - clip.numpy().mean() for clip in pair)
    slope = np.polyfit(reference, estimate, 1)[0]  # least squares is the projection
    expected = 10 * np.log10(np.var(slope * reference) / np.var(estimate - slope * reference))
    assert si_sdr_db(*pair) == pytest.approx(expected, abs=1e-6)


def test_snr_is_the_ratio_of_the_reference_to_the_difference(pair):
    reference, estimate = (clip.numpy() for clip in pair)
    expected = 20 * np.log10(np.linalg.norm(reference) / np.linalg.norm(reference - estimate))
    assert snr_db(*pair) == pytest.approx(expected, abs=1e-6)


def test_si_sdr_ignores_level_and_offset_where_snr_does_not(pair):
    reference, estimate = pair
    assert si_sdr_db(reference, 3 * estimate + 0.2) == pytest.approx(si_sdr_db(reference, estimate), abs=1e-6)
    assert snr_db(reference, 3 * estimate) < snr_db(reference, estimate) - 5


def test_equal_clips_are_at_no_distance(pair):
    distances = signal_distances(pair[0], pair[0].clone(), sampling_rate=24000, frame_rate=300.0)
    assert (distances.level_db, distances.frame_tone_db) == (0.0, 0.0)
    assert (distances.log_mel_l1, distances.si_sdr_db, distances.snr_db) == (0.0, math.inf, math.inf)
    assert distances.skipped == {}


def test_an_estimate_without_any_of_the_reference_scores_minus_infinity():
    reference, estimate = torch.tensor([1.0, -1, 1, -1]), torch.tensor([1.0, 1, -1, -1])
    assert si_sdr_db(reference, estimate) == -math.inf


def test_the_longer_clip_is_cut_to_the_shorter(pair):
    reference, estimate = pair
    longer = torch.cat([estimate, torch.ones(300).double()])
    distances = signal_distances(reference, longer, sampling_rate=24000)
    assert distances == signal_distances(reference, estimate, sampling_rate=24000)
    assert distances.num_samples == 6000


def test_what_a_pair_does_not_define_is_skipped_with_its_reason():
    distances = signal_distances(torch.zeros(100), torch.ones(100), sampling_rate=24000)
    assert (distances.log_mel_l1, distances.si_sdr_db, distances.snr_db) == (None, None, None)
    assert "more than that, got 100" in distances.skipped["log_mel_l1"]
    assert "silent reference" in distances.skipped["si_sdr_db"]
    assert "silent reference" in distances.skipped["snr_db"]
    assert "silent reference" in distances.skipped["level_db"]
    assert "frame rate, which is not known" in distances.skipped["frame_tone_db"]


def test_a_silent_estimate_has_no_si_sdr_but_an_snr_of_zero(pair):
    distances = signal_distances(pair[0], torch.zeros(6000), sampling_rate=24000)
    assert distances.si_sdr_db is None
    assert distances.snr_db == 0
    assert "silent estimate" in distances.skipped["si_sdr_db"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (torch.zeros(0), r"got \(0,\)"),
        (torch.zeros(1, 600), r"got \(1, 600\)"),
        (torch.zeros(600, dtype=torch.int16), "int16"),
        (torch.full((600,), math.nan), "NaN"),
    ],
)
def test_a_clip_that_cannot_be_compared_is_refused_by_name(reference, message):
    with pytest.raises(ValueError, match=f"reference.*{message}"):
        signal_distances(reference, torch.ones(600), sampling_rate=24000)
    with pytest.raises(ValueError, match=f"estimate.*{message}"):
        snr_db(torch.ones(600), reference)


def test_a_broken_torchaudio_is_named_together_with_its_repair(pair, monkeypatch):
    def broken(name):
        raise OSError(f"{name}: libc10_cuda.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match=r"libc10_cuda.*pip install"):
        log_mel_l1(*pair, sampling_rate=24001)  # filters of a rate that was used before are kept
