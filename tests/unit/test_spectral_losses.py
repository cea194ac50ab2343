"""What each spectral loss must hear, and what it must not."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tiny import noise
from wavtokenizer_hf.training.spectral_losses import (
    multi_resolution_stft,
    multi_scale_mel,
    phase_advance,
    waveform,
)

RATE = 24000
NUM_SAMPLES = 12000
SPECTRAL = (multi_scale_mel, multi_resolution_stft, phase_advance)


def voice(f0_hz: float = 150.0) -> torch.Tensor:
    """Twenty harmonics that fall off as those of a voice do, (1, T)."""
    seconds = torch.arange(NUM_SAMPLES, dtype=torch.float64) / RATE
    return sum(0.3 / k * torch.sin(2 * math.pi * f0_hz * k * seconds) for k in range(1, 21))[None].float()


def frame_tone(frame_rate: float = 75.0) -> torch.Tensor:
    """What a codec adds that repeats itself in every frame."""
    return 0.1 * voice(frame_rate)


def heard(loss: Callable, estimate: torch.Tensor, reference: torch.Tensor | None = None) -> float:
    return loss(voice() if reference is None else reference, estimate, RATE).item()


@pytest.mark.parametrize("loss", SPECTRAL)
def test_equal_clips_are_equal(loss):
    assert heard(loss, voice()) < 1e-3


@pytest.mark.parametrize(("loss", "least"), [(multi_scale_mel, 1), (multi_resolution_stft, 1.5), (phase_advance, 0.8)])
def test_a_wrong_pitch_is_heard(loss, least):
    assert heard(loss, voice(170.0)) > least


@pytest.mark.parametrize(("loss", "least"), [(multi_scale_mel, 0.1), (multi_resolution_stft, 0.1)])
def test_a_tone_at_the_frame_rate_is_heard_between_the_harmonics(loss, least):
    assert heard(loss, voice() + frame_tone()) > least


def test_a_voice_that_hums_at_the_frame_rate_moves_its_phase_wrongly():
    assert heard(phase_advance, voice(75.0), voice(110.0)) > 0.8


@pytest.mark.parametrize("loss", SPECTRAL[:2])
def test_a_level_is_heard(loss):
    assert heard(loss, 0.5 * voice()) > 0.5


def test_phase_advance_is_deaf_to_level():
    assert heard(phase_advance, 0.5 * voice()) < 1e-3


@pytest.mark.parametrize("samples", [1, 7, 40])
def test_phase_advance_is_deaf_to_a_shift_that_the_waveform_hears(samples):
    reference, shifted = voice()[:, 100:], voice()[:, 100 - samples : -samples]
    assert heard(phase_advance, shifted, reference) < 0.02
    assert waveform(reference, shifted).item() > 0.05


def test_the_waveform_loss_is_a_share_of_the_recordings_magnitude():
    reference = noise(2, 100) * torch.tensor([[0.01], [1.0]])
    assert waveform(reference, 1.25 * reference).item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("loss", [*SPECTRAL, lambda real, fake, _rate: waveform(real, fake)])
@pytest.mark.parametrize("reference", [torch.zeros(1, 12000), voice()], ids=["silence", "voice"])
@pytest.mark.parametrize(
    "estimate", [torch.zeros(1, 12000), 1e-6 * voice(), voice()], ids=["silence", "faint", "voice"]
)
def test_silence_on_either_side_is_finite_and_so_is_its_gradient(loss, reference, estimate):
    estimate = estimate.clone().requires_grad_()
    value = loss(reference, estimate, RATE)
    value.backward()
    assert value.isfinite()
    assert estimate.grad.isfinite().all()


def numpy_spectrum(clip: torch.Tensor, n_fft: int, hop: int) -> np.ndarray:
    """(F, L) of one clip, by its definition: reflected ends, a periodic Hann window."""
    padded = np.pad(clip.double().numpy(), n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.stack([np.fft.rfft(padded[start : start + n_fft] * window) for start in starts], axis=1)


def numpy_pairs(reference: torch.Tensor, estimate: torch.Tensor, n_fft: int, hop: int):
    for clips in zip(reference, estimate, strict=True):
        yield tuple(numpy_spectrum(clip, n_fft, hop) for clip in clips)


def numpy_multi_resolution_stft(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    values = []
    for n_fft in (512, 1024, 2048, 4096):
        for real, fake in numpy_pairs(reference, estimate, n_fft, n_fft // 4):
            real, fake = np.abs(real), np.abs(fake)
            log_distance = np.abs(np.log(real) - np.log(fake)).mean()
            values.append(log_distance + np.linalg.norm(real - fake) / np.linalg.norm(real))
    return float(np.mean(values))


def numpy_phase_advance(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    values = []
    for n_fft in (1024, 2048):
        for pair in numpy_pairs(reference, estimate, n_fft, 256):
            real, fake = (spectrum[:, 1:] * spectrum[:, :-1].conj() for spectrum in pair)
            weight = np.sqrt(np.abs(real))
            values.append((weight * (1 - np.cos(np.angle(real) - np.angle(fake)))).sum() / weight.sum())
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("loss", "formula"),
    [(multi_resolution_stft, numpy_multi_resolution_stft), (phase_advance, numpy_phase_advance)],
)
def test_the_losses_are_their_formulas(loss, formula):
    reference = noise(2, 6000) + voice()[:, :6000]
    estimate = 0.5 * reference + 0.2 * noise(2, 6000, seed=1)
    assert loss(reference, estimate, RATE).item() == pytest.approx(formula(reference, estimate), rel=1e-3)


def test_a_tenth_of_the_level_is_one_decade_on_each_of_the_three_mel_scales():
    clip = noise(1, NUM_SAMPLES)
    assert heard(multi_scale_mel, 0.1 * clip, clip) == pytest.approx(3, abs=0.01)


def hiss(seed: int) -> torch.Tensor:
    """Noise above 9 kHz, (1, T)."""
    spectrum = torch.fft.rfft(noise(1, NUM_SAMPLES, seed=seed))
    spectrum[:, : 9000 * NUM_SAMPLES // RATE] = 0
    return 0.3 * torch.fft.irfft(spectrum, NUM_SAMPLES)


@pytest.mark.parametrize("loss", SPECTRAL)
def test_what_lies_above_a_clips_cutoff_does_not_count(loss):
    clips = voice() + hiss(0), voice() + 2 * hiss(1)
    below, full = (loss(*clips, RATE, torch.tensor([cutoff_hz])).item() for cutoff_hz in (8000.0, 12000.0))
    assert below < 0.5 * full
    assert full == pytest.approx(loss(*clips, RATE).item(), rel=1e-5)


@pytest.mark.parametrize("loss", SPECTRAL)
def test_clips_that_are_too_short_or_unlike_are_refused(loss):
    with pytest.raises(ValueError, match="needs longer clips than 200 samples"):
        loss(noise(1, 200), noise(1, 200), RATE)
    with pytest.raises(ValueError, match=r"one shape, got \(1, 5000\) and \(2, 5000\)"):
        loss(noise(1, 5000), noise(2, 5000), RATE)


@pytest.mark.parametrize("loss", SPECTRAL)
def test_under_autocast_the_losses_stay_float32(loss):
    reference, estimate = noise(1, 6000), noise(1, 6000, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(reference, estimate.bfloat16(), RATE)
    assert value.dtype == torch.float32
    assert value.item() == loss(reference, estimate.bfloat16().float(), RATE).item()
