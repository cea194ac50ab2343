"""Can one hear where pieces meet? Spectral flux at the borders of chunks against flux elsewhere."""

import torch

# Windows of 10 ms, 2.5 ms apart: short against a frame, so that a jump is not smoothed away.
N_FFT, HOP = 256, 64
FLOOR = 1e-5


def flux(audio: torch.Tensor) -> torch.Tensor:
    """Mean change of the log spectrum from one window to the next: (B, T) -> (B, N), at (n + 0.5) * HOP."""
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    spectrum = torch.stft(audio.double(), N_FFT, HOP, window=window, return_complex=True)
    return spectrum.abs().clamp(min=FLOOR).log().diff(dim=-1).abs().mean(dim=1)


def seam(pieces: torch.Tensor, whole: torch.Tensor, starts: torch.Tensor, before: int, after: int) -> float:
    """Flux of the pieces over that of the whole clip around borders, divided by the same ratio elsewhere.

    1 means that borders are like any other place.

    Args:
        pieces: (B, T)
        whole: (B, T)
        starts: Samples at which a chunk begins, (N,).
        before: How many samples before it belong to a border.
        after: How many samples after it.
    """
    change, expected = flux(pieces), flux(whole)
    since = (torch.arange(change.shape[-1])[:, None] + 0.5) * HOP - starts
    is_border = ((since > -before) & (since < after)).any(dim=-1)
    border, elsewhere = (change[:, chosen].sum() / expected[:, chosen].sum() for chosen in (is_border, ~is_border))
    return float(border / elsewhere)
