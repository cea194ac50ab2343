"""The original's losses for the codec of sparse events, and its discriminator."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

_SMALLEST_BAND = 512
_BAND_N_FFTS = (128, 64, 16)
_N_FFT, _HOP_LENGTH = 2048, 256
_FADE_POWER = 8
_DISCRIMINATOR_CHANNELS, _SLOPE = 128, 0.2


def padded_magnitudes(signal: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    """Magnitudes (..., frames, bins) of (..., N) under a Hann window, frames from each hop on, zeros past the end."""
    window = torch.hann_window(n_fft, device=signal.device, dtype=signal.dtype)
    num_frames = signal.shape[-1] // hop_length
    frames = F.pad(signal, (0, n_fft)).unfold(-1, n_fft, hop_length)[..., :num_frames, :]
    return torch.fft.rfft(frames * window).abs() / math.sqrt(n_fft)


def octave_bands(signal: torch.Tensor) -> list[torch.Tensor]:
    """Octaves of (..., N), each at the least rate that holds it: (..., 512), (..., 1024) and on to (..., N).

    Raises:
        ValueError: If N is no power of two from 512 on.
    """
    num_samples = signal.shape[-1]
    if num_samples < _SMALLEST_BAND or num_samples & (num_samples - 1):
        raise ValueError(f"Octave bands need a power of two from {_SMALLEST_BAND} samples on, got {num_samples}.")
    spectrum = torch.fft.rfft(signal, norm="ortho")
    bands: list[torch.Tensor] = []
    size = _SMALLEST_BAND
    while size <= num_samples:
        part = spectrum[..., : size // 2 + 1]
        if bands:
            part = torch.cat([torch.zeros_like(part[..., : size // 4]), part[..., size // 4 :]], dim=-1)
        bands.append(torch.fft.irfft(part, size, norm="ortho"))
        size *= 2
    return bands


def loss_features(signal: torch.Tensor) -> list[torch.Tensor]:
    """What the original's loss compares, of (..., N): parts of magnitudes, each flat.

    The first part is the spectrum of the whole, then come all octaves under windows of 128, of 32 and of 8 samples.

    Source: The transform of the original's "multiband" loss. It reorders the first part, which no norm of it sees.
    """
    parts = [padded_magnitudes(signal, _N_FFT, _HOP_LENGTH)]
    bands = octave_bands(signal)
    for n_fft in _BAND_N_FFTS:
        parts += [padded_magnitudes(band, n_fft, n_fft // 2) for band in bands]
    return [part.flatten(-2) for part in parts]


def faded(signal: torch.Tensor) -> torch.Tensor:
    """(..., N) with its second half going down to silence, as the original compares it."""
    half = signal.shape[-1] // 2
    fall = torch.linspace(1, 0, signal.shape[-1] - half, device=signal.device, dtype=signal.dtype) ** _FADE_POWER
    return torch.cat([signal[..., :half], signal[..., half:] * fall], dim=-1)


class EventDiscriminator(nn.Module):
    """Judges the first half of a window by its spectrum: one number per clip.

    Source: The original's discriminator "dilated", dropout included, which acts whenever the module trains.
    """

    def __init__(self, num_samples: int, dropout: float = 0.1):
        super().__init__()
        self.num_samples = num_samples // 2
        num_blocks = int(math.log2(self.num_samples // _HOP_LENGTH)) - 2
        self.projection = nn.Conv1d(_N_FFT // 2 + 1, _DISCRIMINATOR_CHANNELS, 1)
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(_DISCRIMINATOR_CHANNELS, _DISCRIMINATOR_CHANNELS, 3, stride=2, padding=1))
            for _ in range(num_blocks)
        )
        self.dropout = nn.Dropout(dropout)
        self.judge = nn.Conv1d(_DISCRIMINATOR_CHANNELS, 1, 4, stride=4)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Maps (B, N) to (B, 1, 1)."""
        spectrum = padded_magnitudes(waveforms[..., : self.num_samples], _N_FFT, _HOP_LENGTH)
        hidden_states = self.projection(spectrum.transpose(-1, -2))
        for convolution in self.convolutions:
            hidden_states = F.leaky_relu(convolution(self.dropout(hidden_states)), _SLOPE)
        return self.judge(hidden_states)
