"""Distances between two waveforms that need no trained judge: log-mel L1, SI-SDR and SNR."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wavtokenizer_hf.feature_extraction_wavtokenizer import import_for

N_FFT = 1024
HOP_LENGTH = 256
NUM_MELS = 100
FLOOR = 1e-7


@dataclass(frozen=True)
class SignalDistances:
    """How far a reconstruction lies from its original.

    A distance that this pair does not define is `None`, and `skipped` gives the reason under the same name.
    """

    log_mel_l1: float | None
    si_sdr_db: float | None
    snr_db: float | None
    num_samples: int
    skipped: dict[str, str]


@functools.lru_cache(maxsize=8)
def mel_filters(
    sampling_rate: int, n_fft: int, num_mels: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """HTK filters (n_fft // 2 + 1, num_mels) from 0 Hz to half the rate, without area normalisation.

    They are made once for each place of use: training asks for them in every step.
    """
    functional = import_for("mel filters", "torchaudio.functional")
    with torch.inference_mode(False):  # what is made in inference mode is of no use outside it
        return functional.melscale_fbanks(
            n_freqs=n_fft // 2 + 1,
            f_min=0.0,
            f_max=sampling_rate / 2,
            n_mels=num_mels,
            sample_rate=sampling_rate,
            norm=None,
            mel_scale="htk",
        ).to(device=device, dtype=dtype)


def mel_spectrogram(audio: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Mel magnitudes (power 1) of 100 HTK filters from 0 Hz to half the rate, centred frames, no area normalisation.

    Args:
        audio: Samples at `sampling_rate`, at least 513 of them, because the ends are reflected by 512.

    Shape:
        audio (..., T) -> (..., 100, 1 + T // 256)
    """
    if audio.shape[-1] <= N_FFT // 2:
        raise ValueError(
            f"A mel spectrogram reflects {N_FFT // 2} samples at each end and needs more than that, got"
            f" {audio.shape[-1]}. Pass a longer clip."
        )
    samples = audio.reshape(-1, audio.shape[-1])
    window = torch.hann_window(N_FFT, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(
        samples, N_FFT, HOP_LENGTH, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    magnitude = spectrum.abs()
    filters = mel_filters(sampling_rate, N_FFT, NUM_MELS, magnitude.device, magnitude.dtype)
    mel = filters.T @ magnitude  # (M, F) @ (B, F, L) -> (B, M, L)
    return mel.reshape(*audio.shape[:-1], *mel.shape[-2:])


def log_mel_l1(reference: torch.Tensor, estimate: torch.Tensor, *, sampling_rate: int) -> float:
    """Mean absolute difference of the natural logarithms of two mel spectrograms, floored at 1e-7.

    It hears loudness and timbre and is deaf to phase. 0 is equal, lower is better. Figures compare only at one rate:
    the published ones are at 24 kHz. The longer clip is cut to the shorter.

    Raises:
        ValueError: A clip is empty, not one-dimensional, not finite, or shorter than 513 samples.
    """
    reference, estimate = _as_pair(reference, estimate)
    logs = [mel_spectrogram(clip, sampling_rate).clamp(min=FLOOR).log() for clip in (reference, estimate)]
    return (logs[0] - logs[1]).abs().mean().item()


def si_sdr_db(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB: the share of the estimate that is a scaled reference.

    Higher is better, `inf` is a scaled copy. It compares samples, so a codec that draws its own phase scores low
    however well it sounds. Means are removed; the longer clip is cut to the shorter.

    Raises:
        ValueError: A clip is empty, not one-dimensional or not finite; or either is constant (silent), which leaves
            the ratio undefined.

    Source:
        Le Roux et al. 2019, "SDR - half-baked or well done?", section 2.
    """
    reference, estimate = _as_pair(reference, estimate)
    reference = reference - reference.mean()
    estimate = estimate - estimate.mean()
    if not reference.any():
        raise ValueError("SI-SDR is undefined for a silent reference. Leave this clip out.")
    if not estimate.any():
        raise ValueError("SI-SDR is undefined for a silent estimate. Leave this clip out.")
    target = (estimate @ reference) / (reference @ reference) * reference
    return _ratio_db(target, estimate - target)


def snr_db(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Energy of the reference over the energy of the difference, in dB. Higher is better, `inf` is equal.

    The longer clip is cut to the shorter.

    Raises:
        ValueError: A clip is empty, not one-dimensional or not finite; or the reference is all zeros.
    """
    reference, estimate = _as_pair(reference, estimate)
    if not reference.any():
        raise ValueError("SNR is undefined for a silent reference. Leave this clip out.")
    return _ratio_db(reference, reference - estimate)


def signal_distances(
    reference: torch.Tensor,
    estimate: torch.Tensor,
    *,
    sampling_rate: int,
    estimate_sampling_rate: int | None = None,
) -> SignalDistances:
    """All distances of one pair; one that the pair does not define is skipped with its reason.

    Args:
        sampling_rate: Rate of the reference in Hz.
        estimate_sampling_rate: Rate of the estimate in Hz; `None` means the reference's.

    Raises:
        ValueError: The rates differ, or a clip is empty, not one-dimensional or not finite.
    """
    if estimate_sampling_rate is not None and estimate_sampling_rate != sampling_rate:
        raise ValueError(
            f"The reference has {sampling_rate} Hz and the estimate {estimate_sampling_rate} Hz. Resample one of them."
        )
    reference, estimate = _as_pair(reference, estimate)
    measures: dict[str, Callable[[], float]] = {
        "log_mel_l1": lambda: log_mel_l1(reference, estimate, sampling_rate=sampling_rate),
        "si_sdr_db": lambda: si_sdr_db(reference, estimate),
        "snr_db": lambda: snr_db(reference, estimate),
    }
    values: dict[str, float | None] = {}
    skipped: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            values[name] = measure()
        except ValueError as error:
            values[name] = None
            skipped[name] = str(error)
    return SignalDistances(
        log_mel_l1=values["log_mel_l1"],
        si_sdr_db=values["si_sdr_db"],
        snr_db=values["snr_db"],
        num_samples=len(reference),
        skipped=skipped,
    )


def _as_pair(reference: torch.Tensor, estimate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for name, clip in (("reference", reference), ("estimate", estimate)):
        if clip.ndim != 1 or len(clip) == 0:
            raise ValueError(
                f"The {name} must be one clip of shape (T,) with T >= 1, got {tuple(clip.shape)}."
                " Pass one channel of one clip at a time."
            )
        if not clip.is_floating_point():
            raise ValueError(f"The {name} must hold floating-point samples, got {clip.dtype}. Scale it to [-1, 1].")
        if not clip.isfinite().all():
            raise ValueError(f"The {name} holds NaN or infinity. Repair or leave out this clip.")
    num_samples = min(len(reference), len(estimate))
    # float64: a difference of nearly equal clips has no digits to spare
    return reference[:num_samples].double(), estimate[:num_samples].double()


def _ratio_db(signal: torch.Tensor, noise: torch.Tensor) -> float:
    signal_energy, noise_energy = (signal @ signal).item(), (noise @ noise).item()
    if noise_energy == 0:
        return math.inf
    return 10 * math.log10(signal_energy / noise_energy) if signal_energy > 0 else -math.inf
