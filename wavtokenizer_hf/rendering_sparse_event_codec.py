# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""How an event of the codec of sparse events sounds: the two renderers, and where their noise comes from.

Shapes: E events, D width of a vector, N samples of a window, L samples of an event, J variants that are mixed.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_sparse_event_codec import SparseEventCodecConfig

_NOISE_SAMPLES = 2**16


def event_numbers(seed: int, *codes: torch.Tensor) -> list[int]:
    """A number of 32 bits for each event that follows from the seed and the event's own codes, and from nothing else.

    Args:
        seed: Any integer.
        codes: int64 (E,) each.

    Source: The finaliser of SplitMix64.
    """
    state = np.full(codes[0].shape[0], seed % 2**64, dtype=np.uint64)
    for code in codes:
        state = state * np.uint64(0x9E3779B97F4A7C15) + code.detach().cpu().numpy().astype(np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return [int(number) for number in state >> np.uint64(32)]


def uniform_noise(num_samples: int) -> torch.Tensor:
    """Always the same noise in [-1, 1), float32 (num_samples,)."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).random(num_samples) * 2 - 1).float()


# -------------------------------------------------------------------------------------------------------- wavetable

_ATTACK_SAMPLES, _ATTACK_POINTS, _ATTACK_LEVEL = 8192, 128, 0.02
_TABLE_SAMPLES, _TABLE_HOP = 2048, 1024
_MAX_RESONANCE, _MIN_DECAY = 0.9999, 0.5
_PEAK_EPS, _LOG_EPS = 1e-8, 1e-12
_TABLE_RANGE, _ENVELOPE_POWERS = 0.02, (50, 150)


def _choose(weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """A mixture of the rows of a table: (..., R) and (R, n) -> (..., n)."""
    return weights.softmax(dim=-1) @ table


def _stretch(points: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Linear interpolation of the last axis of (E, J, n), whose points lie in the middle of their parts."""
    return F.interpolate(points, size=num_samples, mode="linear", align_corners=False)


def _filter(signal: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Causal convolution of (E, J, n) with (E, J, m), to (E, J, n + m - 1)."""
    num_events, num_variants, num_taps = taps.shape
    padded = F.pad(signal.reshape(1, num_events * num_variants, -1), (num_taps - 1, num_taps - 1))
    kernel = taps.flip(-1).reshape(num_events * num_variants, 1, num_taps)
    return F.conv1d(padded, kernel, groups=num_events * num_variants).unflatten(1, (num_events, num_variants))[0]


def _fast_length(minimum: int) -> int:
    """The least even length from `minimum` on that has no prime factor above 5."""
    best = 2 ** math.ceil(math.log2(minimum))
    for fives in (1, 5, 25, 125):
        for threes in (1, 3, 9, 27, 81):
            odd = fives * threes
            best = min(best, odd * 2 ** max(1, math.ceil(math.log2(minimum / odd))))
    return best


def _convolve(signal: torch.Tensor, response: torch.Tensor, num_samples: int) -> torch.Tensor:
    """The first samples of the convolution along the last axis, by FFT."""
    length = _fast_length(signal.shape[-1] + response.shape[-1] - 1)
    spectrum = torch.fft.rfft(signal, length) * torch.fft.rfft(response, length)
    return torch.fft.irfft(spectrum, length)[..., :num_samples]


class WavetableRenderer(nn.Module):
    """The original's sound of an event: a burst of noise through resonances that fade and pass into one another.

    A resonance is a table of 2048 samples whose read head moves by one sample per 1024; the original computes the same
    as 128 inverse transforms of one spectrum with turning phases. Everything is as long as the window.

    Source: Commit e81fd17 (2025-01-10) of `JohnVinyard/matching-pursuit`, model type "lookup".
    Deviates: The noise of an attack, which the original draws anew at every call, is given, or a stretch of one fixed
        noise, which follows from a seed and the event's frame. What the original computes and drops is left out.
    """

    def __init__(self, config: SparseEventCodecConfig):
        super().__init__()
        self.num_samples, self.hop_length = config.num_samples, config.hop_length
        self.seed = config.noise_seed
        variants, num_frames = config.instr_expressivity, config.num_frames
        self.num_variants, self.num_frames = variants, num_frames
        outputs = {
            "envelopes": config.num_envelopes,
            "noise_resonance": variants * config.num_noise_filters,
            "noise_deformations": config.noise_deformations,
            "resonances": variants * config.num_resonances,
            "res_filter": variants * config.num_noise_filters,
            "deformations": config.num_deformations,
            "decays": config.num_decays,
            "mixes": 2,
            "room_choice": config.num_rooms,
            "room_mix": 2,
            "amplitudes": 1,
            "fine": 1,
        }
        self.heads = nn.ModuleDict({name: nn.Linear(config.event_dim, size) for name, size in outputs.items()})
        self.resonances = nn.Parameter(torch.empty(config.num_resonances, _TABLE_SAMPLES // 2 + 1))
        self.filters = nn.Parameter(torch.empty(config.num_noise_filters, config.noise_filter_samples))
        self.envelopes = nn.Parameter(torch.empty(config.num_envelopes, _ATTACK_POINTS))
        self.decays = nn.Parameter(torch.empty(config.num_decays, num_frames))
        self.deformations = nn.Parameter(torch.empty(config.num_deformations, variants * num_frames))
        self.noise_deformations = nn.Parameter(torch.empty(config.noise_deformations, variants * num_frames))
        self.room_responses = nn.Buffer(torch.zeros(config.num_rooms, config.num_samples))
        self.noise = nn.Buffer(torch.empty(_NOISE_SAMPLES), persistent=False)

    def init_tables(self) -> None:
        """Sets what no linear layer holds, as the original starts."""
        for table in (self.resonances, self.filters, self.decays, self.deformations, self.noise_deformations):
            init.uniform_(table, -_TABLE_RANGE, _TABLE_RANGE)
        power = torch.empty_like(self.envelopes[:, :1]).uniform_(*_ENVELOPE_POWERS)
        fall = torch.linspace(1, 0, _ATTACK_POINTS, device=self.envelopes.device) ** power
        init.copy_(self.envelopes, torch.empty_like(self.envelopes).uniform_(-1, 1) * fall)
        init.zeros_(self.room_responses)
        init.copy_(self.noise, uniform_noise(_NOISE_SAMPLES))

    def excitation_noise(self, frames: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """Noise of events that begin at frames (E,) of their windows: (E, 8192), in [-0.02, 0.02)."""
        numbers = event_numbers(self.seed if seed is None else seed, frames)
        starts = [number % (_NOISE_SAMPLES - _ATTACK_SAMPLES) for number in numbers]
        return _ATTACK_LEVEL * torch.stack([self.noise[start : start + _ATTACK_SAMPLES] for start in starts])

    def forward(
        self, vectors: torch.Tensor, frames: torch.Tensor, gains: torch.Tensor, excitation_noise: torch.Tensor
    ) -> torch.Tensor:
        """Renders events of a window.

        Args:
            vectors: (E, D).
            frames: int64 (E,), at which frame of the window each begins, 0..num_frames - 1.
            gains: (E,).
            excitation_noise: (E, 8192), in [-0.02, 0.02).

        Returns:
            (E, N), each event as long as the window, cut at its end.
        """
        heads = self.parameters_of(vectors)
        attack = self.attack(heads, excitation_noise)
        sound = self.resound(heads, attack)
        sound = heads["amplitudes"].abs() * self.room(heads, sound)
        return self.shift(heads, self.schedule(sound, frames, gains))

    def parameters_of(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the heads make of vectors (E, D): (E, size), or (E, J, size) for what variants differ in."""
        heads = {name: head(vectors) for name, head in self.heads.items()}
        for name in ("noise_resonance", "resonances", "res_filter"):
            heads[name] = heads[name].unflatten(-1, (self.num_variants, -1))
        return heads

    def attack(self, heads: dict[str, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        """The burst of noise that excites the resonances: (E, 8192 + taps - 1)."""
        points = _choose(heads["envelopes"], self.envelopes.square())
        burst = _stretch(points[:, None], _ATTACK_SAMPLES) * noise[:, None].to(points)  # (E, 1, 8192)
        filtered = _filter(burst.expand(-1, self.num_variants, -1), self._taps(heads["noise_resonance"]))
        # The curve is needed as far as the burst lasts, with a point more, from which it is interpolated.
        num_points = min(self.num_frames, -(-filtered.shape[-1] // self.hop_length) + 1)
        curve = self._curve(heads["noise_deformations"], self.noise_deformations)[..., :num_points]
        mixed = _stretch(curve, num_points * self.hop_length)[..., : filtered.shape[-1]]
        return (mixed * filtered[..., : mixed.shape[-1]]).sum(dim=1)

    def resonance(self, heads: dict[str, torch.Tensor]) -> torch.Tensor:
        """The resonances before they are filtered and fade: (E, J, N), with a peak of 1."""
        magnitudes = _MAX_RESONANCE * _choose(heads["resonances"], self.resonances).sigmoid()
        table = torch.fft.irfft(magnitudes, _TABLE_SAMPLES)
        num_hops = self.num_samples // _TABLE_HOP
        # Frame k of the overlap-add is the table read from sample k + 1 on, around its end.
        turns = -(-(num_hops + 1) // _TABLE_SAMPLES)
        around = torch.cat([table] * (turns + 1), dim=-1)
        frames = around.unfold(-1, _TABLE_SAMPLES, 1)[..., 1 : num_hops + 1, :]
        # The original's window is rounded to float32 in every dtype.
        window = torch.hann_window(_TABLE_SAMPLES, device=table.device, dtype=torch.float64).float()
        frames = frames * window.to(table)
        first, second = frames[..., :_TABLE_HOP], frames[..., _TABLE_HOP:]
        second = F.pad(second[..., :-1, :], (0, 0, 1, 0))
        resonance = (first + second).flatten(-2)
        return resonance / (resonance.abs().amax(dim=-1, keepdim=True) + _PEAK_EPS)

    def decay(self, heads: dict[str, torch.Tensor]) -> torch.Tensor:
        """The curve by which the resonances fade: (E, 1, N)."""
        span = 1 - _MIN_DECAY
        per_frame = _choose(heads["decays"], _MIN_DECAY + span * self.decays.sigmoid())
        return _stretch((per_frame + _LOG_EPS).log().cumsum(dim=-1).exp()[:, None], self.num_samples)

    def resound(self, heads: dict[str, torch.Tensor], attack: torch.Tensor) -> torch.Tensor:
        """The attack with the resonances that it excites: (E, N)."""
        resonance = _filter(self.resonance(heads), self._taps(heads["res_filter"]))[..., : self.num_samples]
        excited = _convolve(attack[:, None], resonance * self.decay(heads), self.num_samples)
        mixed = _stretch(self._curve(heads["deformations"], self.deformations), self.num_samples)
        dry, wet = heads["mixes"].softmax(dim=-1).unbind(-1)
        attack = F.pad(attack, (0, max(0, self.num_samples - attack.shape[-1])))[..., : self.num_samples]
        return dry[:, None] * attack + wet[:, None] * (mixed * excited).sum(dim=1)

    def room(self, heads: dict[str, torch.Tensor], sound: torch.Tensor) -> torch.Tensor:
        """The sound in a room: (E, N)."""
        response = _choose(heads["room_choice"], self.room_responses)
        wet, dry = heads["room_mix"].softmax(dim=-1).unbind(-1)
        return wet[:, None] * _convolve(sound, response, self.num_samples) + dry[:, None] * sound

    def schedule(self, sound: torch.Tensor, frames: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        """The sound at its frame, cut at the window's end: (E, N)."""
        moved = [
            F.pad(one, (start, 0))[: self.num_samples]
            for one, start in zip(sound, (frames * self.hop_length).tolist(), strict=True)
        ]
        return gains[:, None] * torch.stack(moved)

    def shift(self, heads: dict[str, torch.Tensor], sound: torch.Tensor) -> torch.Tensor:
        """Moves by less than a frame in either direction, as the vector says: (E, N)."""
        num_samples = self.num_samples
        samples = heads["fine"].double().tanh() * self.hop_length * num_samples / (num_samples + 1)  # (E, 1)
        bins = torch.arange(num_samples + 1, device=sound.device, dtype=torch.float64)
        phase = (-math.pi / num_samples * bins) * samples
        turn = torch.polar(torch.ones_like(phase), phase)
        spectrum = torch.fft.rfft(sound, 2 * num_samples)
        return torch.fft.irfft(spectrum * turn.to(spectrum.dtype), 2 * num_samples)[:, :num_samples]

    def _taps(self, weights: torch.Tensor) -> torch.Tensor:
        """Filters: (E, J, R) -> (E, J, taps)."""
        window = torch.hamming_window(self.filters.shape[-1], device=weights.device, dtype=self.filters.dtype)
        return _choose(weights, self.filters * window)

    def _curve(self, weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Shares of the variants over time: (E, R) -> (E, J, frames)."""
        return _choose(weights, table).unflatten(-1, (self.num_variants, -1)).softmax(dim=1)


# ------------------------------------------------------------------------------------------------------- oscillator

_SEGMENT, _STRIDE = 1024, 32  # samples for which a partial keeps its frequency, and in which its turns are tabulated
_BLOCK = 128  # samples between two points of a noise band's envelope
_FADE_SAMPLES = 512
_MAX_LOG_LEVEL = 6.0
_GLIDE_S, _MAX_GLIDE = 0.25, 0.75  # the part of its frequency by which an event may glide in this time
_MAX_INHARMONICITY = 1e-3
_DECAY_PER_S, _NOISE_DECAY_PER_S = (2.0, 200.0), (2.0, 400.0)
_ATTACK_S = (0.001, 0.15)
_HIGHEST, _HIGHEST_FADED = 0.44, 0.48  # of the sampling rate: from here on partials fade, and from there they are gone


def mel_triangles(num_bands: int, num_bins: int, sampling_rate: int) -> torch.Tensor:
    """Triangles evenly spaced on the mel scale, from 0 Hz to half the rate: float32 (num_bands, num_bins).

    They overlap by halves and sum up to one, but for the ends. A band narrower than the bins lie apart takes the
    nearest.

    Source: The mel scale of O'Shaughnessy, 2595 log10(1 + f / 700).
    """
    highest = 2595 * math.log10(1 + sampling_rate / 1400)
    edges = 700 * (10 ** (torch.linspace(0, highest, num_bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sampling_rate / 2, num_bins, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    nearest = torch.nn.functional.one_hot((bins - centre).abs().argmin(dim=1), num_bins)
    return torch.where(filters.sum(dim=1, keepdim=True) > 0, filters, nearest).float()


def noise_bands(num_bands: int, sampling_rate: int) -> torch.Tensor:
    """Always the same noise in bands, each of unit power: float32 (blocks, num_bands, 128)."""
    spectrum = torch.fft.rfft(uniform_noise(_NOISE_SAMPLES).double())
    bands = torch.fft.irfft(spectrum * mel_triangles(num_bands, len(spectrum), sampling_rate).double(), _NOISE_SAMPLES)
    bands = bands / bands.square().mean(dim=-1, keepdim=True).sqrt()
    return bands.unflatten(-1, (-1, _BLOCK)).transpose(0, 1).contiguous().float()


def _between(raw: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Any number to one between two positive ones, evenly on a logarithmic scale."""
    return low * (high / low) ** raw.sigmoid()


class OscillatorRenderer(nn.Module):
    """Our own sound of an event: damped partials with start phases and a glide, and bands of noise.

    A small network turns the vector into the sound's parameters, in float64 that is rounded, so that none of it
    depends on what is rendered beside it. A partial keeps its frequency for 46 ms and its phase goes on; within, its
    turns come from two short tables. Of every event the energy is one, whatever its weights, and it has ended after
    `event_samples`.

    Deviates: Nothing of the original's renderer is in it. There, the phase of bin b advances by pi b / 1024 per hop
        where pi b is due, so that pitch is lost.
    """

    def __init__(self, config: SparseEventCodecConfig):
        super().__init__()
        self.sampling_rate, self.num_samples = config.sampling_rate, config.event_samples
        self.f0_range_hz = config.min_f0_hz, config.max_f0_hz
        self.num_partials, self.num_bands = config.num_partials, config.num_noise_bands
        # f0, glide, inharmonicity, attack; of partials both parts of the start and the decay; of bands level and decay
        self.sizes = [1, 1, 1, 1, *[self.num_partials] * 3, *[self.num_bands] * 2]
        width = config.renderer_hidden_size
        self.hidden: Any = nn.ModuleList([nn.Linear(config.event_dim, width), nn.Linear(width, width)])
        self.output = nn.Linear(width, sum(self.sizes))
        self.bands = nn.Buffer(torch.empty(_NOISE_SAMPLES // _BLOCK, self.num_bands, _BLOCK), persistent=False)
        self.fade = nn.Buffer(torch.empty(self.num_samples), persistent=False)

    def init_tables(self) -> None:
        """Sets what no checkpoint stores, and weights under which events differ from the start."""
        for layer in (*self.hidden, self.output):
            init.normal_(layer.weight, std=layer.in_features**-0.5)
        init.copy_(self.bands, noise_bands(self.num_bands, self.sampling_rate))
        fall = torch.linspace(0, math.pi / 2, _FADE_SAMPLES, dtype=torch.float64).cos().square()
        init.ones_(self.fade)
        init.copy_(self.fade[-_FADE_SAMPLES:], fall)

    def parameters_of(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """What vectors (E, D) say of the sound, float64.

        Returns:
            `f0_hz`, `glide` (relative change in a quarter of a second), `inharmonicity`, `attack_s` (E, 1);
            `real`, `imaginary` (a partial's amplitude and start phase) and `decay_per_s` (E, partials);
            `noise_level` and `noise_decay_per_s` (E, bands).
        """
        hidden = vectors.double()
        for layer in self.hidden:
            hidden = F.silu(F.linear(hidden, layer.weight.double(), layer.bias.double()))
        raw = F.linear(hidden, self.output.weight.double(), self.output.bias.double())
        raw = raw.to(self.fade.dtype).double().split(self.sizes, dim=-1)
        f0, glide, inharmonicity, attack, real, imaginary, decay, noise_level, noise_decay = raw
        orders = torch.arange(1, self.num_partials + 1, device=vectors.device, dtype=torch.float64)
        tilt = orders.rsqrt()
        return {
            "f0_hz": _between(f0, *self.f0_range_hz),
            "glide": _MAX_GLIDE * glide.tanh(),
            "inharmonicity": _MAX_INHARMONICITY * inharmonicity.sigmoid(),
            "attack_s": _between(attack, *_ATTACK_S),
            "real": tilt * real.clamp(-1e3, 1e3),
            "imaginary": tilt * imaginary.clamp(-1e3, 1e3),
            "decay_per_s": _between(decay, *_DECAY_PER_S),
            "noise_level": (_MAX_LOG_LEVEL * (noise_level / _MAX_LOG_LEVEL).tanh()).exp(),
            "noise_decay_per_s": _between(noise_decay, *_NOISE_DECAY_PER_S),
        }

    def forward(self, vectors: torch.Tensor, numbers: list[int]) -> torch.Tensor:
        """Renders events of unit energy.

        Args:
            vectors: (E, D) in -1..1.
            numbers: Of each, see `event_numbers`: where its noise is taken from.

        Returns:
            (E, event_samples).
        """
        parameters = self.parameters_of(vectors)
        sound = self.partials(parameters) + self.noise(parameters, numbers)
        sound = sound * self.envelope(parameters)
        energy = sound.square().sum(dim=-1, keepdim=True, dtype=torch.float64)
        return sound * (energy + 1e-20).rsqrt().to(sound.dtype)

    def partials(self, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        """The voiced part (E, event_samples)."""
        device, dtype = self.fade.device, self.fade.dtype
        num_segments = self.num_samples // _SEGMENT
        orders = torch.arange(1, self.num_partials + 1, device=device, dtype=torch.float64)
        stretched = orders * (1 + parameters["inharmonicity"] * orders.square()).sqrt()  # (E, P)
        times = (torch.arange(num_segments, device=device, dtype=torch.float64) + 0.5) * _SEGMENT / self.sampling_rate
        course = (1 + parameters["glide"] * times / _GLIDE_S).clamp(0.25, 4)  # (E, S)
        cycles = (parameters["f0_hz"] * course / self.sampling_rate)[..., None] * stretched[:, None]  # (E, S, P)
        starts = (_SEGMENT * (cycles.cumsum(dim=1) - cycles)) % 1  # phases go on; modulo a turn in float64
        heard = ((_HIGHEST_FADED - cycles) / (_HIGHEST_FADED - _HIGHEST)).clamp(0, 1)
        decay = parameters["decay_per_s"][:, None] / self.sampling_rate  # (E, 1, P)
        fall = (-decay * _SEGMENT * torch.arange(num_segments, device=device, dtype=torch.float64)[:, None]).exp()
        omega, starts, level, decay = (
            value.to(dtype)[:, :, None] for value in (2 * math.pi * cycles, 2 * math.pi * starts, heard * fall, decay)
        )
        real, imaginary = (parameters[name].to(dtype)[:, None, None] for name in ("real", "imaginary"))

        # (E, S, 32, P), amplitude and phase of every 32nd sample, and (E, S, 32, P), how it goes on from there.
        coarse = torch.arange(0, _SEGMENT, _STRIDE, device=device, dtype=dtype)[:, None]
        fine = torch.arange(_STRIDE, device=device, dtype=dtype)[:, None]
        turns, level = starts + coarse * omega, level * (-decay * coarse).exp()
        cosine, sine = level * turns.cos(), level * turns.sin()
        rows = torch.cat([real * cosine - imaginary * sine, -real * sine - imaginary * cosine], dim=-1)
        turns, level = omega * fine, (-decay * fine).exp()
        columns = torch.cat([level * turns.cos(), level * turns.sin()], dim=-1)
        return (rows @ columns.transpose(-1, -2)).flatten(1)

    def noise(self, parameters: dict[str, torch.Tensor], numbers: list[int]) -> torch.Tensor:
        """The unvoiced part (E, event_samples)."""
        dtype, num_blocks = self.fade.dtype, self.num_samples // _BLOCK
        times = torch.arange(num_blocks + 1, device=self.fade.device, dtype=torch.float64) * _BLOCK
        fall = (-parameters["noise_decay_per_s"][:, None] * times[:, None] / self.sampling_rate).exp()
        levels = (parameters["noise_level"][:, None] * fall).to(dtype)  # (E, blocks + 1, bands)
        pairs = torch.stack([levels[:, :-1], levels[:, 1:]], dim=2)  # (E, blocks, 2, bands)
        free = self.bands.shape[0] - num_blocks + 1
        ends = torch.stack(
            [
                pair @ self.bands[number % free : number % free + num_blocks]
                for pair, number in zip(pairs, numbers, strict=True)
            ]
        )  # (E, blocks, 2, 128): the bands by the level at a block's start, and at its end
        way = torch.arange(_BLOCK, device=self.fade.device, dtype=dtype) / _BLOCK
        return torch.lerp(ends[:, :, 0], ends[:, :, 1], way).flatten(1)

    def envelope(self, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        """The attack, and the end: (E, event_samples)."""
        samples = torch.arange(self.num_samples, device=self.fade.device, dtype=self.fade.dtype)
        length = (parameters["attack_s"] * self.sampling_rate).to(self.fade.dtype)
        return (math.pi / 2 * (samples / length).clamp(max=1)).sin().square() * self.fade
