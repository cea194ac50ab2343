"""Distances between two waveforms that need no trained judge: log-mel L1, SI-SDR, SNR, level and a hum."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wavtokenizer_hf.audio_input import import_for

N_FFT = 1024
HOP_LENGTH = 256
NUM_MELS = 100
FLOOR = 1e-7
TONE_BAND_HZ = (2000.0, 10000.0)
TONE_WINDOW_FRAMES = 24
HEARD_TONE_DB = 3.0
# Of a sample: -100 dB of full scale, about the noise of 16 bits.
_LEAST_POWER = 1e-10


@dataclass(frozen=True)
class SignalDistances:
    """How far a reconstruction lies from its original.

    A distance that this pair does not define is `None`, and `skipped` gives the reason under the same name.
    """

    log_mel_l1: float | None
    si_sdr_db: float | None
    snr_db: float | None
    level_db: float | None
    frame_tone_db: float | None
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


def level_db(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Mean power of the estimate over that of the reference, in dB; a silent estimate counts as one of -100 dB.

    The longer clip is cut to the shorter.

    Raises:
        ValueError: A clip is empty, not one-dimensional or not finite; or the reference is all zeros.
    """
    reference, estimate = _as_pair(reference, estimate)
    if not reference.any():
        raise ValueError("The level is undefined for a silent reference. Leave this clip out.")
    powers = [clip.square().mean().clamp(min=_LEAST_POWER).item() for clip in (reference, estimate)]
    return 10 * math.log10(powers[1] / powers[0])


def frame_tone_db(
    reference: torch.Tensor, estimate: torch.Tensor, *, sampling_rate: int, frame_rate: float | None
) -> float:
    """Power at multiples of a codec's frame rate over that halfway between, of the estimate less the reference's.

    What a codec adds by doing the same in every frame: 0 is nothing, and above `HEARD_TONE_DB` the sound hums or
    buzzes. The spectrum is the mean over Hann windows of at least `TONE_WINDOW_FRAMES` frames, a power of two of
    samples, three quarters overlapping; of the multiples from 2 to 10 kHz the median counts, so that no single
    harmonic of a voice can rule. The longer clip is cut to the shorter.

    Raises:
        ValueError: A clip is empty, not one-dimensional or not finite, or too short for a window; the frame rate is
            not known, or has no multiple in that band.
    """
    if frame_rate is None:
        raise ValueError("The tone at the frame rate wants the codec's frame rate, which is not known.")
    reference, estimate = _as_pair(reference, estimate)
    num_samples = 2 ** math.ceil(math.log2(TONE_WINDOW_FRAMES * sampling_rate / frame_rate))
    if len(reference) < num_samples:
        raise ValueError(
            f"The tone at the frame rate needs {num_samples} samples, {num_samples / sampling_rate:.2f} s, got "
            f"{len(reference)}. Leave this clip out."
        )
    highest_hz = min(TONE_BAND_HZ[1], (sampling_rate - frame_rate) / 2)
    multiples = torch.arange(math.ceil(TONE_BAND_HZ[0] / frame_rate), math.floor(highest_hz / frame_rate) + 1)
    if not len(multiples):
        raise ValueError(f"There is no multiple of {frame_rate:g} Hz from {TONE_BAND_HZ[0]:g} to {highest_hz:g} Hz.")
    window = torch.hann_window(num_samples, dtype=torch.float64)
    floor = _LEAST_POWER * (window @ window)  # silence has no tone of its own
    at, between = ((multiples + share) * frame_rate * num_samples / sampling_rate for share in (0, 0.5))
    tones_db = []
    for clip in (reference, estimate):
        frames = clip.unfold(0, num_samples, num_samples // 4) * window
        power = torch.fft.rfft(frames).abs().square().mean(dim=0) + floor
        tones_db.append(10 * (power[at.round().long()] / power[between.round().long()]).log10())
    return (tones_db[1].quantile(0.5) - tones_db[0].quantile(0.5)).item()


def signal_distances(
    reference: torch.Tensor,
    estimate: torch.Tensor,
    *,
    sampling_rate: int,
    frame_rate: float | None = None,
) -> SignalDistances:
    """All distances of one pair; one that the pair does not define is skipped with its reason.

    Args:
        sampling_rate: Rate of both in Hz.
        frame_rate: Of the codec that made the estimate, in Hz; without it there is no `frame_tone_db`.

    Raises:
        ValueError: A clip is empty, not one-dimensional or not finite.
    """
    reference, estimate = _as_pair(reference, estimate)
    measures: dict[str, Callable[[], float]] = {
        "log_mel_l1": lambda: log_mel_l1(reference, estimate, sampling_rate=sampling_rate),
        "si_sdr_db": lambda: si_sdr_db(reference, estimate),
        "snr_db": lambda: snr_db(reference, estimate),
        "level_db": lambda: level_db(reference, estimate),
        "frame_tone_db": lambda: frame_tone_db(
            reference, estimate, sampling_rate=sampling_rate, frame_rate=frame_rate
        ),
    }
    values: dict[str, float | None] = {}
    skipped: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            values[name] = measure()
        except ValueError as error:
            values[name] = None
            skipped[name] = str(error)
    return SignalDistances(**values, num_samples=len(reference), skipped=skipped)


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
