"""Voice and pitch: which frames are voiced, how periodic they are, and how the pitch moves."""

import math
import warnings

import numpy as np
import torch

from wavtokenizer_hf.evaluation.metric import VOICE, Metric, import_extra
from wavtokenizer_hf.evaluation.pair import Pair

# 24 kHz for codecs of any rate, so that their figures compare.
SAMPLING_RATE = 24000
FRAME_MS = 5.0
LOWEST_HZ, HIGHEST_HZ = 71.0, 800.0  # the range in which WORLD's tracker looks by default
MIN_COMMON_FRAMES = 20
GROSS_RATIO = 1.2
PERIODICITY_RATE = 16000
PERIODICITY_HOP = 160
PERIODICITY_WINDOW = 1024  # 64 ms, more than four periods of the lowest pitch
SILENCE_DB = -60.0


class _PitchMetric(Metric):
    sampling_rate = SAMPLING_RATE
    kinds = VOICE
    extra = "eval"

    def prepare(self, device: torch.device) -> None:
        _import_pyworld()


class GrossPitchError(_PitchMetric):
    """A share of frames, because a single octave error rules a correlation."""

    name = "gpe"
    label = "gross pitch error"
    meaning = (
        "Share of the frames voiced in both whose pitch is off by more than 20 %, 0 to 1: whether the melody is kept."
    )
    direction = "lower"

    def score(self, pair: Pair) -> float:
        logs = _common_log_pitch(pair)
        return float((np.abs(logs[0] - logs[1]) > math.log(GROSS_RATIO)).mean())


class VoicingF1(_PitchMetric):
    name = "vuv_f1"
    label = "V/UV F1"
    meaning = "Agreement on which frames are voiced, 0 to 1: low where a voice turns hoarse or noise turns into a hum."
    direction = "higher"
    decimals = 4

    def score(self, pair: Pair) -> float:
        reference, estimate = (f0_hz > 0 for f0_hz in pair.once(pitch_tracks))
        if not (reference | estimate).any():
            raise ValueError("no frame is voiced")
        return float(2 * (reference & estimate).sum() / (reference.sum() + estimate.sum()))


class PeriodicityError(Metric):
    name = "periodicity_error"
    label = "periodicity error"
    meaning = "RMS difference of how periodic each frame is: buzz and hoarseness that a codec adds."
    direction = "lower"
    sampling_rate = PERIODICITY_RATE
    kinds = VOICE
    decimals = 4

    def score(self, pair: Pair) -> float:
        reference, estimate = (periodicity(clip.double().numpy()) for clip in pair.at(PERIODICITY_RATE))
        return float(np.sqrt(np.mean((reference - estimate) ** 2)))


class F0Correlation(_PitchMetric):
    name = "f0_correlation"
    label = "F0 correlation"
    meaning = "Correlation of log pitch where both are voiced, -1 to 1. A few octave errors rule it."
    direction = "higher"

    def score(self, pair: Pair) -> float:
        logs = _common_log_pitch(pair)
        if any(np.ptp(log) == 0 for log in logs):
            raise ValueError("the correlation of a constant pitch is undefined")
        return float(np.corrcoef(logs[0], logs[1])[0, 1])


def _common_log_pitch(pair: Pair) -> list[np.ndarray]:
    """Of the frames that are voiced in both, (N,) each."""
    tracks = pair.once(pitch_tracks)
    common = (tracks[0] > 0) & (tracks[1] > 0)
    if common.sum() < MIN_COMMON_FRAMES:
        raise ValueError(f"fewer than {MIN_COMMON_FRAMES} frames are voiced in both")
    return [np.log(f0_hz[common]) for f0_hz in tracks]


def pitch_tracks(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Of the reference and of the estimate; for `Pair.once`."""
    reference, estimate = (pitch_track(clip.double().numpy()) for clip in pair.at(SAMPLING_RATE))
    return reference, estimate


def pitch_track(samples: np.ndarray) -> np.ndarray:
    """Pitch in Hz by WORLD's Harvest in frames of 5 ms, (L,), 0 where a frame is not voiced.

    Args:
        samples: (T,) float64 at 24 kHz.

    Source:
        Morise 2017, "Harvest: A high-performance fundamental frequency estimator from speech signals".
    """
    f0_hz, _times_s = _import_pyworld().harvest(samples, SAMPLING_RATE, LOWEST_HZ, HIGHEST_HZ, FRAME_MS)
    return f0_hz


def periodicity(samples: np.ndarray) -> np.ndarray:
    """How well each frame of 10 ms repeats itself after the best lag within the range of pitch, (L,), 0 to 1.

    Silence has 0.

    Args:
        samples: (T,) at 16 kHz. Frame k is centred at k times 10 ms.

    Source:
        Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
        sampled sound", section 2: the autocorrelation of the windowed frame over that of the window.
    """
    starts = np.arange(0, len(samples) + 1, PERIODICITY_HOP)
    padded = np.pad(samples, PERIODICITY_WINDOW // 2)
    frames = padded[starts[:, None] + np.arange(PERIODICITY_WINDOW)]
    frames = frames - frames.mean(axis=1, keepdims=True)
    energy = (frames**2).sum(axis=1)
    window = np.hanning(PERIODICITY_WINDOW + 2)[1:-1]
    lags = slice(math.floor(PERIODICITY_RATE / HIGHEST_HZ), math.ceil(PERIODICITY_RATE / LOWEST_HZ) + 1)
    expected = _autocorrelation(window[None])
    found = _autocorrelation(frames * window)
    is_heard = energy > energy.max() * 10 ** (SILENCE_DB / 10)
    shares = np.zeros(len(starts))
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
