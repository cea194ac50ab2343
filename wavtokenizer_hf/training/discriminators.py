"""The three families of discriminators that judge whether a clip is a recording or a reconstruction.

Convolutions may run under autocast; spectra are float32. Feature maps that `features` lists are what feature matching
compares, so nobody downstream needs to know which layers the original left out.
"""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

_SLOPE = 0.1
_PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
_RESOLUTION_CHANNELS = 64
_BAND_CHANNELS = 32
_PEAK = 0.8

# Where the original keeps each family. Its `dac.` is a second copy of the last, which no loss of the original sees.
_ORIGINAL_PREFIXES = {
    "multiperioddisc.": "multi_period.",
    "multiresddisc.": "multi_resolution.",
    "dacdiscriminator.discriminator.": "multi_band.",
}


class Judgement(NamedTuple):
    """What one discriminator says about a batch.

    Args:
        score: (B, N), high where a region sounds recorded.
        features: Hidden layers, (B, C, ., .) each, for feature matching.
    """

    score: torch.Tensor
    features: list[torch.Tensor]


Judgements = dict[str, list[Judgement]]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators there are, and how large.

    The defaults are the original's, which its released weights need.

    Args:
        use_multi_period: Whether to judge the waveform folded by periods.
        use_multi_resolution: Whether to judge magnitude spectra.
        use_multi_band: Whether to judge folded waveforms and complex spectra in bands, as the Descript codec does.
        width: Factor on the number of channels of every layer.
        resolution_width: That of the multi-resolution family, which has fewer channels; `None` means `width`.
        num_bandwidths: Bandwidth ids that the first two families tell apart.
        periods: Of the first family, in samples.
        resolutions: FFT sizes of the second family, in samples; the hop is a quarter.
        band_periods: Periods of the third family, in samples.
        band_resolutions: FFT sizes of the third family, in samples; the hop is a quarter.
        band_edges: Limits of its bands, from 0 to 1, as fractions of the spectrum.
    """

    use_multi_period: bool = True
    use_multi_resolution: bool = True
    use_multi_band: bool = True
    width: float = 1.0
    resolution_width: float | None = None
    num_bandwidths: int = 4
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    resolutions: tuple[int, ...] = (1024, 2048, 512)
    band_periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    band_resolutions: tuple[int, ...] = (2048, 1024, 512)
    band_edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)

    def __post_init__(self):
        for name in ("periods", "resolutions", "band_periods", "band_resolutions", "band_edges"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # files have lists
        if not (self.use_multi_period or self.use_multi_resolution or self.use_multi_band):
            raise ValueError("No family of discriminators is in use. Switch on one, or train without discriminators.")
        for name in ("width", "resolution_width"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}.")
        for name, lowest in (("periods", 1), ("resolutions", 4), ("band_periods", 1), ("band_resolutions", 4)):
            sizes = getattr(self, name)
            if any(size < lowest for size in sizes):
                raise ValueError(f"`{name}` must hold sizes of {lowest} samples and more, got {list(sizes)}.")
        for family, sizes in (
            ("multi_period", self.periods),
            ("multi_resolution", self.resolutions),
            ("multi_band", [*self.band_periods, *self.band_resolutions]),
        ):
            if getattr(self, f"use_{family}") and not sizes:
                raise ValueError(f"`use_{family}` is on, but its sizes are empty. List some or switch it off.")
        edges = list(self.band_edges)
        if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or edges != sorted(set(edges)):
            raise ValueError(f"`band_edges` must rise from 0 to 1, got {edges}.")
        for n_fft in self.band_resolutions:
            if any(start == stop for start, stop in _band_bins(edges, n_fft)):
                raise ValueError(
                    f"A band of {edges} holds no bin of an FFT of {n_fft}. Use fewer bands or a larger FFT."
                )


def _band_bins(edges: Sequence[float], n_fft: int) -> list[tuple[int, int]]:
    """First bin of each band, and the one past its last."""
    bins = [int(edge * (n_fft // 2 + 1)) for edge in edges]
    return list(itertools.pairwise(bins))


def _scaled(num_channels: int, width: float) -> int:
    return max(1, round(num_channels * width))


def _conv(in_channels: int, out_channels: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """A weight-normalised convolution, padded so that only the stride shortens."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return weight_norm(nn.Conv2d(in_channels, out_channels, kernel, stride, padding))


def _hidden_layers(convs: Iterable[nn.Module], hidden_states: torch.Tensor) -> list[torch.Tensor]:
    """The activated output of each convolution of a chain."""
    layers = []
    for conv in convs:
        # In place: the gradient needs the result only, and hidden layers are most of the memory of a GAN step.
        hidden_states = F.leaky_relu(conv(hidden_states), _SLOPE, inplace=True)
        layers.append(hidden_states)
    return layers


def _embedding(num_bandwidths: int, num_channels: int) -> nn.Embedding:
    """Directions of the bandwidth ids, zero at the start: an untrained discriminator judges all ids alike."""
    return nn.Embedding(num_bandwidths, num_channels, _weight=torch.zeros(num_bandwidths, num_channels))


def _project(hidden_states: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Inner product of each position with its clip's direction: (B, C, H, W), (B, C) -> (B, 1, H, W)."""
    return torch.einsum("bchw,bc->bhw", hidden_states, directions)[:, None]


def _spectrum(audio: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Complex spectrum through a rectangular window, (B, T) -> (B, F, L)."""
    window = torch.ones(n_fft, dtype=audio.dtype, device=audio.device)
    return torch.stft(audio, n_fft, n_fft // 4, window=window, pad_mode="reflect", return_complex=True)


def _checked_audio(audio: torch.Tensor, margin: int) -> torch.Tensor:
    """The clips in float32 (or float64), if each is longer than what is reflected at its ends."""
    if audio.ndim != 2 or not audio.is_floating_point():
        raise ValueError(f"Discriminators judge samples of shape (B, T), got {audio.dtype} {tuple(audio.shape)}.")
    if audio.shape[1] <= margin:
        raise ValueError(
            f"These discriminators need clips of more than {margin} samples, got {audio.shape[1]}. Train on longer"
            " clips, or with smaller periods and resolutions."
        )
    return audio.to(torch.promote_types(audio.dtype, torch.float32))


def _checked_ids(bandwidth_id: int | torch.Tensor, num_bandwidths: int, audio: torch.Tensor) -> torch.Tensor:
    """Ids as int64 (B,)."""
    ids = torch.as_tensor(bandwidth_id)
    batch_size = audio.shape[0]
    if ids.is_floating_point() or ids.dtype == torch.bool or ids.ndim > 1 or ids.numel() not in (1, batch_size):
        raise ValueError(
            f"`bandwidth_id` must be an int or an integer tensor with one element or of shape ({batch_size},), one per"
            f" clip, got {ids.dtype} {tuple(ids.shape)}."
        )
    # On a GPU, reading the values would stop the queue.
    if ids.device.type == "cpu" and not ((ids >= 0) & (ids < num_bandwidths)).all():
        raise ValueError(f"`bandwidth_id` must lie in 0..{num_bandwidths - 1}, got {ids.tolist()}.")
    return ids.to(device=audio.device, dtype=torch.int64).expand(batch_size)


class PeriodDiscriminator(nn.Module):
    """Judges a waveform folded into rows of `period` samples, along the columns.

    Args:
        period: Samples in a row.
        width: Factor on the number of channels.
        num_bandwidths: Bandwidth ids to tell apart. `None` makes the Descript codec's variant: it knows no ids, adds
            a whole row where the rows come out even, and lists other features.

    Source: Kong et al. 2020, "HiFi-GAN"; `decoder/discriminators.py: DiscriminatorP` of the original.
    """

    def __init__(self, period: int, width: float, num_bandwidths: int | None = None):
        super().__init__()
        self.period = period
        channels = [1, *(_scaled(number, width) for number in _PERIOD_CHANNELS)]
        last = len(_PERIOD_CHANNELS) - 1
        self.convs = nn.ModuleList(
            _conv(channels[i], channels[i + 1], (5, 1), (3 if i < last else 1, 1)) for i in range(last + 1)
        )
        self.emb = None if num_bandwidths is None else _embedding(num_bandwidths, channels[-1])
        self.conv_post = _conv(channels[-1], 1, (3, 1))

    def forward(self, audio: torch.Tensor, bandwidth_ids: torch.Tensor | None = None) -> Judgement:
        """Judges (B, T), with ids (B,)."""
        missing = -audio.shape[1] % self.period
        if self.emb is None:
            missing = missing or self.period
        # (B, T) -> (B, 1, rows, period)
        rows = F.pad(audio[:, None], (0, missing), mode="reflect").unflatten(-1, (-1, self.period))
        layers = _hidden_layers(self.convs, rows)
        score = self.conv_post(layers[-1])
        if self.emb is None:
            return Judgement(score.flatten(1), layers)
        score = score + _project(layers[-1], self.emb(bandwidth_ids))
        return Judgement(score.flatten(1), [*layers[1:], score])


class ResolutionDiscriminator(nn.Module):
    """Judges a magnitude spectrum.

    Source: Jang et al. 2021, "UnivNet"; `decoder/discriminators.py: DiscriminatorR` of the original.
    """

    def __init__(self, n_fft: int, width: float, num_bandwidths: int):
        super().__init__()
        self.n_fft = n_fft
        channels = _scaled(_RESOLUTION_CHANNELS, width)
        # Kernels and strides are (frequency, time).
        self.convs = nn.ModuleList(
            [
                _conv(1, channels, (7, 5), (2, 2)),
                _conv(channels, channels, (5, 3), (2, 1)),
                _conv(channels, channels, (5, 3), (2, 2)),
                _conv(channels, channels, (3, 3), (2, 1)),
                _conv(channels, channels, (3, 3), (2, 2)),
            ]
        )
        self.emb = _embedding(num_bandwidths, channels)
        self.conv_post = _conv(channels, 1, (3, 3))

    def forward(self, audio: torch.Tensor, bandwidth_ids: torch.Tensor) -> Judgement:
        """Judges (B, T), with ids (B,)."""
        layers = _hidden_layers(self.convs, _spectrum(audio, self.n_fft).abs()[:, None])  # from (B, 1, F, L)
        score = self.conv_post(layers[-1]) + _project(layers[-1], self.emb(bandwidth_ids))
        return Judgement(score.flatten(1), [*layers, score])


class BandDiscriminator(nn.Module):
    """Judges real and imaginary parts of a spectrum, each band with convolutions of its own.

    Source: Kumar et al. 2023, "High-fidelity audio compression with improved RVQGAN", section 3.4.
    """

    def __init__(self, n_fft: int, width: float, edges: Sequence[float]):
        super().__init__()
        self.n_fft = n_fft
        self.bins = _band_bins(edges, n_fft)
        channels = _scaled(_BAND_CHANNELS, width)
        # Kernels and strides are (time, frequency).
        self.band_convs = nn.ModuleList(
            nn.ModuleList(
                [
                    _conv(2, channels, (3, 9)),
                    _conv(channels, channels, (3, 9), (1, 2)),
                    _conv(channels, channels, (3, 9), (1, 2)),
                    _conv(channels, channels, (3, 9), (1, 2)),
                    _conv(channels, channels, (3, 3)),
                ]
            )
            for _ in self.bins
        )
        self.conv_post = _conv(channels, 1, (3, 3))

    def forward(self, audio: torch.Tensor) -> Judgement:
        """Judges (B, T)."""
        spectrum = torch.view_as_real(_spectrum(audio, self.n_fft)).permute(0, 3, 2, 1)  # (B, F, L, 2) -> (B, 2, L, F)
        bands = [
            _hidden_layers(convs.children(), spectrum[..., start:stop])
            for (start, stop), convs in zip(self.bins, self.band_convs, strict=True)
        ]
        score = self.conv_post(torch.cat([layers[-1] for layers in bands], dim=-1))
        return Judgement(score.flatten(1), [layer for layers in bands for layer in layers])


class _ConditionedFamily(nn.Module):
    """Discriminators that are told the bandwidth id: it adds an inner product with the last hidden layer to the score.

    The score as a feature has that product in it.

    Deviates: Clips of one batch may differ in bandwidth id.
    """

    def __init__(self, discriminators: Iterable[nn.Module], num_bandwidths: int, margin: int):
        super().__init__()
        self.num_bandwidths = num_bandwidths
        self.margin = margin
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, audio: torch.Tensor, bandwidth_id: int | torch.Tensor) -> list[Judgement]:
        """Judges (B, T); the id is an int, one element, or (B,)."""
        audio = _checked_audio(audio, self.margin)
        ids = _checked_ids(bandwidth_id, self.num_bandwidths, audio)
        return [discriminator(audio, ids) for discriminator in self.discriminators]


class MultiPeriodDiscriminator(_ConditionedFamily):
    """Waveforms folded by several periods, each judged on its own.

    The features are the second to the last hidden layer, and the score.

    Source: `decoder/discriminators.py: MultiPeriodDiscriminator` of the original.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__(
            (PeriodDiscriminator(period, config.width, config.num_bandwidths) for period in config.periods),
            config.num_bandwidths,
            margin=max(config.periods),
        )


class MultiResolutionDiscriminator(_ConditionedFamily):
    """Magnitude spectra of several resolutions, each judged on its own.

    The features are all hidden layers, and the score.

    Source: `decoder/discriminators.py: MultiResolutionDiscriminator` of the original.
    """

    def __init__(self, config: DiscriminatorConfig):
        width = config.width if config.resolution_width is None else config.resolution_width
        super().__init__(
            (ResolutionDiscriminator(n_fft, width, config.num_bandwidths) for n_fft in config.resolutions),
            config.num_bandwidths,
            margin=max(config.resolutions) // 2,
        )


class MultiBandDiscriminator(nn.Module):
    """Folded waveforms and banded complex spectra, each judged on its own, of clips brought to one level.

    It knows nothing of bandwidth ids. The features are all hidden layers without the score.

    Source: Kumar et al. 2023, section 3.4; the discriminator of the Descript codec, as the original uses it.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.margin = max([*config.band_periods, *(n_fft // 2 for n_fft in config.band_resolutions)])
        self.discriminators = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, config.width) for period in config.band_periods),
                *(BandDiscriminator(n_fft, config.width, config.band_edges) for n_fft in config.band_resolutions),
            ]
        )

    def forward(self, audio: torch.Tensor, bandwidth_id: int | torch.Tensor | None = None) -> list[Judgement]:
        """Judges (B, T); the id is ignored."""
        audio = _checked_audio(audio, self.margin)
        audio = audio - audio.mean(dim=1, keepdim=True)
        audio = _PEAK * audio / (audio.abs().amax(dim=1, keepdim=True) + 1e-9)
        return [discriminator(audio) for discriminator in self.discriminators]


class Discriminators(nn.Module):
    """The families that are in use, as one module with one call."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        if config.use_multi_period:
            self.multi_period = MultiPeriodDiscriminator(config)
        if config.use_multi_resolution:
            self.multi_resolution = MultiResolutionDiscriminator(config)
        if config.use_multi_band:
            self.multi_band = MultiBandDiscriminator(config)

    def forward(self, audio: torch.Tensor, bandwidth_id: int | torch.Tensor) -> Judgements:
        """Judgements of (B, T) by family; the id is an int, one element, or (B,)."""
        return {family: judge(audio, bandwidth_id) for family, judge in self.named_children()}


def halves(judged: Judgements) -> tuple[Judgements, Judgements]:
    """Judgements of the first and of the second half of a batch: recordings and reconstructions judged in one call."""

    def half(index: int) -> Judgements:
        return {
            family: [
                Judgement(
                    one.score.unflatten(0, (2, -1))[index],
                    [feature.unflatten(0, (2, -1))[index] for feature in one.features],
                )
                for one in judgements
            ]
            for family, judgements in judged.items()
        }

    return half(0), half(1)


def load_original_discriminators(source: str | os.PathLike[str] | Mapping[str, torch.Tensor]) -> Discriminators:
    """The discriminators of a checkpoint of the original.

    Args:
        source: The `discriminators.safetensors` that `wavtokenizer convert --keep-discriminators` writes, or a state
            dict with the original's names.

    Raises:
        ValueError: If tensors are missing or left over.

    Deviates: A checkpoint holds the third family twice. `dacdiscriminator.*`, which the original's losses use, is
        taken; `dac.*`, which they do not, is left. The original trains neither, so it is at its random start.
    """
    original = source if isinstance(source, Mapping) else load_file(source)
    state = {ours: tensor for name, tensor in original.items() if (ours := _our_name(name)) is not None}
    discriminators = Discriminators(DiscriminatorConfig())
    missing, leftover = discriminators.load_state_dict(state, strict=False)
    for problem, names in (("lack", missing), ("have a surplus of", leftover)):
        if names:
            raise ValueError(
                f"These discriminators {problem} {len(names)} tensors, the first is {names[0]}. Pass all"
                " discriminators of a checkpoint of the original."
            )
    return discriminators


def _our_name(name: str) -> str | None:
    """Our name for a discriminator's tensor of the original; `None` for what is no discriminator, or an unused one."""
    for theirs, ours in _ORIGINAL_PREFIXES.items():
        if name.startswith(theirs):
            # The third family wraps each convolution with its activation.
            name = re.sub(r"(convs(?:\.\d+)+)\.0\.(?=\w+$)", r"\1.", name.removeprefix(theirs))
            name = name.replace("weight_g", "parametrizations.weight.original0")
            return ours + name.replace("weight_v", "parametrizations.weight.original1")
    return None
