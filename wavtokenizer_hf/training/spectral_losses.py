"""Losses between recordings and reconstructions that hear what a single mel spectrogram is deaf to.

A log-mel of one window does not resolve harmonics, so it asks for no pitch. These do, each in its way: bands of
several widths, spectra of several windows, how phase moves from one frame to the next, and the waveform itself.

All take recordings and reconstructions (B, T) of one shape, give a scalar that is the mean over clips, compute in
float32 also under autocast, and are finite on digital silence. `cutoff_hz` (B,) is the frequency up to which a
recording tells what there is; what lies above it does not count, and `None` counts everything.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from wavtokenizer_hf.evaluation.signal import mel_filters

MEL_SCALES = ((512, 80), (1024, 128), (2048, 256))
STFT_WINDOWS = (512, 1024, 2048, 4096)
PHASE_WINDOWS = (1024, 2048)
PHASE_HOP = 256

# Magnitudes below this, of a Hann window over samples from -1 to 1, are as good as silent.
_FLOOR = 1e-5
# Products of two magnitudes below 1e-3 have no phase worth following.
_LEAST_PRODUCT = 1e-6
# A recording whose spectrum has a lower root mean square (noise at about -65 dB) is taken for one of this level where
# a distance is relative to it, so that silence asks for silence and not for the infinite.
_LEAST_SPECTRUM = 1e-2
_LEAST_AMPLITUDE = 1e-3


def _in_float32(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Checks the two batches and hands them on in float32, without autocast."""

    @functools.wraps(loss)
    def checked(reference: torch.Tensor, estimate: torch.Tensor, *args: Any) -> torch.Tensor:
        if reference.ndim != 2 or reference.shape != estimate.shape:
            raise ValueError(
                "These losses compare two batches (B, T) of one shape, got "
                f"{tuple(reference.shape)} and {tuple(estimate.shape)}."
            )
        with torch.autocast(estimate.device.type, enabled=False):
            return loss(reference.float(), estimate.float(), *args)

    return checked


@_in_float32
def multi_scale_mel(
    reference: torch.Tensor, estimate: torch.Tensor, sampling_rate: int, cutoff_hz: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean absolute difference of log10-mel magnitudes, summed over windows of 512, 1024 and 2048 samples.

    They have 80, 128 and 256 bands; hops are a quarter of the window.

    Source: Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", section 3.4.
    Deviates: Three windows instead of seven, and HTK filters without area normalisation.
    """
    distances = []
    for n_fft, num_mels in MEL_SCALES:
        filters, upper_hz = _mel_bands(sampling_rate, n_fft, num_mels, estimate.device)
        logs = [
            (filters.T @ spectrum(audio, n_fft, n_fft // 4).abs()).clamp(min=_FLOOR).log10()
            for audio in (reference, estimate)
        ]
        distances.append(_mean_below((logs[0] - logs[1]).abs(), upper_hz, cutoff_hz).mean())
    return torch.stack(distances).sum()


@_in_float32
def multi_resolution_stft(
    reference: torch.Tensor, estimate: torch.Tensor, sampling_rate: int, cutoff_hz: torch.Tensor | None = None
) -> torch.Tensor:
    """Log-magnitude distance plus spectral convergence, the mean over windows of 512 to 4096 samples.

    With magnitudes R and E: mean |ln R - ln E| + ||R - E|| / ||R||, norms over all bins and frames of a clip. Hops are
    a quarter of the window.

    Source: Yamamoto et al. 2020, "Parallel WaveGAN", section 2.2, equations 4 to 6.
    """
    distances = []
    for n_fft in STFT_WINDOWS:
        bins_hz = _bins_hz(sampling_rate, n_fft, estimate.device)
        real, fake = (spectrum(audio, n_fft, n_fft // 4).abs() for audio in (reference, estimate))
        logs = (real.clamp(min=_FLOOR).log() - fake.clamp(min=_FLOOR).log()).abs()
        error = _mean_below((real - fake).square(), bins_hz, cutoff_hz)
        level = _mean_below(real.square(), bins_hz, cutoff_hz).clamp(min=_LEAST_SPECTRUM**2)
        # The root has no slope at 0, where both are equal.
        convergence = (error / level + 1e-12).sqrt()
        distances.append((_mean_below(logs, bins_hz, cutoff_hz) + convergence).mean())
    return torch.stack(distances).mean()


@_in_float32
def phase_advance(
    reference: torch.Tensor, estimate: torch.Tensor, sampling_rate: int, cutoff_hz: torch.Tensor | None = None
) -> torch.Tensor:
    """How differently phase moves from one frame to the next: 0 is equal, 1 unrelated, 2 opposite.

    With P[t] = X[t] conj(X[t-1]) of a spectrum X: the mean of 1 - cos(angle(P of the recording) - angle(P of the
    reconstruction)) over bins and frames, weighted by sqrt(|P of the recording|); windows of 1024 and 2048 samples,
    hop 256. A shift in time turns X[t] and X[t-1] alike, so it costs nothing; a wrong pitch turns them apart.

    Source: The instantaneous frequency of Engel et al. 2019, "GANSynth", section 2.1, as a distance.
    """
    distances = []
    for n_fft in PHASE_WINDOWS:
        bins_hz = _bins_hz(sampling_rate, n_fft, estimate.device)
        real, fake = (_advance(spectrum(audio, n_fft, PHASE_HOP)) for audio in (reference, estimate))
        weight = real.abs().sqrt()
        cosine = (real * fake.conj()).real / (_norm(real) * _norm(fake))
        unlike = _mean_below(weight * (1 - cosine), bins_hz, cutoff_hz)
        distances.append((unlike / _mean_below(weight, bins_hz, cutoff_hz).clamp(min=_FLOOR)).mean())
    return torch.stack(distances).mean()


@_in_float32
def waveform(reference: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of samples over the recording's mean magnitude. It asks for the very waveform."""
    level = reference.abs().mean(dim=1).clamp(min=_LEAST_AMPLITUDE)
    return ((reference - estimate).abs().mean(dim=1) / level).mean()


def spectrum(audio: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    """Complex spectrum through a Hann window, (B, T) -> (B, F, L)."""
    if audio.shape[-1] <= n_fft // 2:
        raise ValueError(
            f"A spectrum of {n_fft} samples reflects {n_fft // 2} at each end and needs longer clips than "
            f"{audio.shape[-1]} samples. Train on longer crops (`data.crop_s`), or without this loss."
        )
    window = torch.hann_window(n_fft, device=audio.device)
    return torch.stft(audio, n_fft, hop_length, window=window, pad_mode="reflect", return_complex=True)


def _advance(spectrum: torch.Tensor) -> torch.Tensor:
    """Each frame times the conjugate of the one before: (B, F, L) -> (B, F, L - 1)."""
    return spectrum[..., 1:] * spectrum[..., :-1].conj()


def _norm(product: torch.Tensor) -> torch.Tensor:
    """Magnitudes that do not reach 0, where an angle has no slope."""
    return (product.real.square() + product.imag.square() + _LEAST_PRODUCT**2).sqrt()


def _bins_hz(sampling_rate: int, n_fft: int, device: torch.device) -> torch.Tensor:
    """Frequency of each bin (F,)."""
    return torch.linspace(0, sampling_rate / 2, n_fft // 2 + 1, device=device)


@functools.lru_cache(maxsize=8)
def _mel_bands(
    sampling_rate: int, n_fft: int, num_mels: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Filters (F, M) and where each ends in Hz (M,); narrow ones that fall between two bins are left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        filters = mel_filters(sampling_rate, n_fft, num_mels, device, torch.float32)
    with torch.inference_mode(False):
        is_held = filters > 0
        filters, is_held = filters[:, is_held.any(dim=0)], is_held[:, is_held.any(dim=0)]
        bins_hz = _bins_hz(sampling_rate, n_fft, device)
        return filters, (is_held * bins_hz[:, None]).amax(dim=0)


def _mean_below(values: torch.Tensor, upper_hz: torch.Tensor, cutoff_hz: torch.Tensor | None) -> torch.Tensor:
    """Mean over the bands that end below each clip's cutoff, and over frames: (B, F, L) -> (B,)."""
    by_band = values.mean(dim=-1)
    if cutoff_hz is None:
        return by_band.mean(dim=1)
    is_kept = upper_hz <= cutoff_hz.to(upper_hz)[:, None]
    return (by_band * is_kept).sum(dim=1) / is_kept.sum(dim=1).clamp(min=1)
