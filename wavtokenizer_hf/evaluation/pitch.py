"""Voice and pitch: which frames are voiced, how periodic they are, and how the pitch moves."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wavtokenizer_hf.evaluation.metric import VOICE, Metric, Score, import_extra
from wavtokenizer_hf.evaluation.pair import Pair

SAMPLING_RATE = 16000
HOP_MS = 10.0
LOWEST_HZ, HIGHEST_HZ = 71.0, 800.0  # the range in which WORLD's tracker looks by default
WINDOW_SAMPLES = 1024  # 64 ms, more than four periods of the lowest pitch
SILENCE_DB = -60.0
MIN_COMMON_FRAMES = 10


@dataclass(frozen=True)
class PitchTrack:
    """A clip in frames of 10 ms.

    Args:
        f0_hz: (L,), 0 where a frame is not voiced.
        periodicity: (L,), 0 to 1.
    """

    f0_hz: np.ndarray
    periodicity: np.ndarray

    @property
    def is_voiced(self) -> np.ndarray:
        return self.f0_hz > 0


class _PitchMetric(Metric):
    sampling_rate = SAMPLING_RATE
    kinds = VOICE
    extra = "eval"

    def prepare(self, device: torch.device) -> None:
        _import_pyworld()


class VoicingF1(_PitchMetric):
    name = "vuv_f1"
    label = "V/UV F1"
    meaning = "Agreement on which frames are voiced, 0 to 1: low where a voice turns hoarse or noise turns into a hum."
    direction = "higher"
    decimals = 4

    def score(self, pair: Pair) -> np.ndarray:
        reference, estimate = (track.is_voiced for track in pair.once(pitch_tracks))
        if not (reference | estimate).any():
            raise ValueError("no frame is voiced")
        return np.array([(reference & estimate).sum(), (reference ^ estimate).sum()])

    def pool(self, scores: Sequence[Score]) -> float:
        num_agreed, num_different = np.sum(scores, axis=0)
        return float(2 * num_agreed / (2 * num_agreed + num_different))


class PeriodicityError(_PitchMetric):
    name = "periodicity_error"
    label = "periodicity error"
    meaning = "RMS difference of how periodic each frame is: buzz and hoarseness that a codec adds."
    direction = "lower"
    decimals = 4

    def score(self, pair: Pair) -> float:
        reference, estimate = pair.once(pitch_tracks)
        return float(np.sqrt(np.mean((reference.periodicity - estimate.periodicity) ** 2)))


class F0Correlation(_PitchMetric):
    name = "f0_correlation"
    label = "F0 correlation"
    meaning = "Correlation of log pitch where both are voiced, -1 to 1: whether the melody is kept."
    direction = "higher"

    def score(self, pair: Pair) -> float:
        reference, estimate = pair.once(pitch_tracks)
        common = reference.is_voiced & estimate.is_voiced
        if common.sum() < MIN_COMMON_FRAMES:
            raise ValueError(f"fewer than {MIN_COMMON_FRAMES} frames are voiced in both")
        logs = [np.log(track.f0_hz[common]) for track in (reference, estimate)]
        if any(np.ptp(log) == 0 for log in logs):
            raise ValueError("the correlation of a constant pitch is undefined")
        return float(np.corrcoef(*logs)[0, 1])


def pitch_tracks(pair: Pair) -> tuple[PitchTrack, PitchTrack]:
    """Of the reference and of the estimate; for `Pair.once`."""
    reference, estimate = (pitch_track(clip.double().numpy()) for clip in pair.at(SAMPLING_RATE))
    return reference, estimate


def pitch_track(samples: np.ndarray) -> PitchTrack:
    """Pitch by WORLD's DIO and StoneMask, periodicity by autocorrelation.

    Args:
        samples: (T,) float64 at 16 kHz.
    """
    pyworld = _import_pyworld()
    coarse_hz, times_s = pyworld.dio(samples, SAMPLING_RATE, LOWEST_HZ, HIGHEST_HZ, frame_period=HOP_MS)
    f0_hz = pyworld.stonemask(samples, coarse_hz, times_s, SAMPLING_RATE)
    return PitchTrack(f0_hz, periodicity(samples, len(f0_hz)))


def periodicity(samples: np.ndarray, num_frames: int) -> np.ndarray:
    """How well each frame repeats itself after the best lag within the range of pitch, 0 to 1; silence has 0.

    Args:
        samples: (T,) at 16 kHz. Frame k is centred at k times 10 ms.

    Source:
        Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
        sampled sound", section 2: the autocorrelation of the windowed frame over that of the window.
    """
    hop = round(SAMPLING_RATE * HOP_MS / 1000)
    half = WINDOW_SAMPLES // 2
    padded = np.pad(samples, (half, half + max(0, num_frames * hop - len(samples))))
    starts = hop * np.arange(num_frames)
    frames = padded[starts[:, None] + np.arange(WINDOW_SAMPLES)]
    frames = frames - frames.mean(axis=1, keepdims=True)
    energy = (frames**2).sum(axis=1)
    window = np.hanning(WINDOW_SAMPLES + 2)[1:-1]
    lags = slice(math.floor(SAMPLING_RATE / HIGHEST_HZ), math.ceil(SAMPLING_RATE / LOWEST_HZ) + 1)
    expected = _autocorrelation(window[None])
    found = _autocorrelation(frames * window)
    is_heard = energy > energy.max() * 10 ** (SILENCE_DB / 10)
    shares = np.zeros(num_frames)
    shares[is_heard] = (found[is_heard, lags] / expected[:, lags]).max(axis=1)
    return shares.clip(0, 1)


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """(L, N) to (L, N), 1 at lag 0; a silent frame stays zero."""
    spectra = np.fft.rfft(frames, 2 * frames.shape[1])
    products = np.fft.irfft(np.abs(spectra) ** 2)[:, : frames.shape[1]]
    return products / np.maximum(products[:, :1], np.finfo(np.float64).tiny)


def _import_pyworld():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*pkg_resources")  # which pyworld reads its version with
        return import_extra("pyworld", "eval")
