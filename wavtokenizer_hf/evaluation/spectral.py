"""Distances between magnitude spectra: log-mel L1 and the multi-resolution STFT distance."""

import torch

from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.signal import log_mel_l1

RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # FFT, hop and window, in samples
POWER_FLOOR = 1e-7


class LogMelL1(Metric):
    name = "log_mel_l1"
    label = "log-mel L1"
    meaning = "Mean difference of the log-mel spectrograms: loudness and timbre, deaf to phase."
    direction = "lower"
    decimals = 4

    def score(self, pair: Pair) -> float:
        return log_mel_l1(pair.reference, pair.estimate, sampling_rate=pair.sampling_rate)


class MultiResolutionSTFT(Metric):
    name = "stft_distance"
    label = "multi-resolution STFT"
    meaning = "Difference of magnitude spectra seen through three window lengths: smeared attacks and blurred pitch."
    direction = "lower"

    def score(self, pair: Pair) -> float:
        return multi_resolution_stft_distance(pair.reference, pair.estimate)


def multi_resolution_stft_distance(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    """Spectral convergence plus the mean difference of log magnitudes, averaged over three resolutions.

    Args:
        reference: (T,), at least 1025 samples, because the ends are reflected by 1024.
        estimate: (T,)

    Raises:
        ValueError: If the reference is too short, or silent, which leaves the convergence undefined.

    Source:
        Yamamoto et al. 2020, "Parallel WaveGAN", section 2.2, with its three resolutions.
    """
    longest = max(n_fft for n_fft, _, _ in RESOLUTIONS) // 2
    if len(reference) <= longest:
        raise ValueError(f"the STFT distance needs more than {longest} samples, got {len(reference)}")
    if not reference.any():
        raise ValueError("the STFT distance is undefined for a silent reference")
    distances = []
    for n_fft, hop_length, win_length in RESOLUTIONS:
        window = torch.hann_window(win_length, dtype=torch.float64)
        spectra = torch.stft(
            torch.stack([reference, estimate]).double(), n_fft, hop_length, win_length, window, return_complex=True
        )
        power = spectra.real.square() + spectra.imag.square()
        magnitudes = power.clamp(min=POWER_FLOOR).sqrt()
        convergence = (magnitudes[0] - magnitudes[1]).norm() / magnitudes[0].norm()
        distances.append(convergence + (magnitudes[0].log() - magnitudes[1].log()).abs().mean())
    return torch.stack(distances).mean().item()
