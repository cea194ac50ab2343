# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""The codec of sparse events: a recording as a score of a few events, each a vector, a time and a gain.

An encoder looks at the spectrum of what is left of the recording and picks events; each is rendered and taken away,
and the encoder looks again. Windows follow one another at half their length, so that a clip of any length is encoded
as a stream of it is. Two decompositions share this: `SpectralSubtraction` is the original's, `SumMatching` is ours.

Shapes: B batch, K events of a clip, D width of a vector, T frames of a window, F frequencies, L samples of an event.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_sparse_event_codec import SparseEventCodecConfig
from .rendering_sparse_event_codec import OscillatorRenderer, WavetableRenderer, event_numbers, mel_triangles

# Of fields that a model output may lack.
_NONE: Any = None

_MEL_FLOOR = 1e-4
# The part of a window's energy that an event must take away to be told from rounding.
_LEAST_DROP = 1e-6
# What else than the gain of least squares is tried where spectra cancel: 3 and 6 dB less.
_GAIN_FACTORS_DB = (0.0, -3.0, -6.0)
# Passes for a window's events, if half of the picks are not kept.
_PASSES_PER_NEED = 2
# Events that are rendered together, with what the caches hold.
_AT_ONCE = 32


@dataclass
class SparseEventCodecEncoderOutput(ModelOutput):
    """Events, as `encode` returns and `render` takes them, in the order in which they were found.

    Any number of a window's first events is a coarser coding of it. There are `num_events` places per window, of which
    the mask says how many are taken, from the window's first one on.

    Args:
        event_vectors: (B, K, D); 0 where there is no event.
        event_onsets: float64 (B, K), samples from the clip's start. The wavetable's are whole frames: as in the
            original, its vector moves it further by less than one.
        event_gains: (B, K), linear, 0 where there is no event.
        event_mask: bool (B, K).
        residual_energy: float64 (B, K + 1), of the spectrum that is left after so many places, relative to the clip's:
            1, then less. `None` in a stream, which does not know the clip.
        event_codes: int64 (B, K, 2), of onset and gain and of the vector; 0 where there is no event. Only of quantised
            events, which are exactly what these codes stand for.
        event_logits: (B, K), how sure the encoder was of each event; 0 where there is none.
        residual_spectra: (B, K + 1, F, T'), magnitudes that are left after so many places, of all frames. On request.
    """

    event_vectors: torch.Tensor = _NONE
    event_onsets: torch.Tensor = _NONE
    event_gains: torch.Tensor = _NONE
    event_mask: torch.Tensor = _NONE
    residual_energy: torch.Tensor | None = None
    event_codes: torch.Tensor | None = None
    event_logits: torch.Tensor | None = None
    residual_spectra: torch.Tensor | None = None

    def sort_by_onset(self) -> "SparseEventCodecEncoderOutput":
        """The same events in the order in which they sound; places without an event come last."""
        times = self.event_onsets.masked_fill(~self.event_mask, math.inf)
        order = times.argsort(dim=-1, stable=True)
        sorted_fields = {}
        for name in ("event_vectors", "event_onsets", "event_gains", "event_mask", "event_codes", "event_logits"):
            value = getattr(self, name)
            if value is not None:
                index = order if value.ndim == 2 else order[..., None].expand_as(value)
                sorted_fields[name] = value.gather(1, index)
        return SparseEventCodecEncoderOutput(**sorted_fields)

    def to_json(self, clip: int = 0) -> list[dict[str, Any]]:
        """The events of one clip as what JSON can hold; `from_json` reads them back exactly.

        Returns:
            A dictionary per event: `onset` in samples, `gain`, `vector`, and `codes` where they are quantised.
        """
        events = []
        for place in self.event_mask[clip].nonzero()[:, 0].tolist():
            event = {
                "onset": self.event_onsets[clip, place].item(),
                "gain": self.event_gains[clip, place].item(),
                "vector": self.event_vectors[clip, place].tolist(),
            }
            if self.event_codes is not None:
                event["codes"] = self.event_codes[clip, place].tolist()
            events.append(event)
        return events

    @classmethod
    def from_json(cls, events: list[dict[str, Any]]) -> "SparseEventCodecEncoderOutput":
        """Events (1, K) from what `to_json` gave, changed or not.

        Raises:
            ValueError: If there are none, or one lacks a field or has a vector of another length.
        """
        if not events:
            raise ValueError("Expected at least one event, got an empty list: there is nothing to render.")
        for number, event in enumerate(events):
            missing = [name for name in ("onset", "gain", "vector") if name not in event]
            if missing or len(event["vector"]) != len(events[0]["vector"]):
                what = f"lacks {', '.join(missing)}" if missing else "has a vector of another length than the first"
                raise ValueError(f"Event {number} {what}.")
        has_codes = all("codes" in event for event in events)
        return cls(
            event_vectors=torch.tensor([[event["vector"] for event in events]], dtype=torch.float32),
            event_onsets=torch.tensor([[event["onset"] for event in events]], dtype=torch.float64),
            event_gains=torch.tensor([[event["gain"] for event in events]], dtype=torch.float32),
            event_mask=torch.ones(1, len(events), dtype=torch.bool),
            event_codes=torch.tensor([[event["codes"] for event in events]]) if has_codes else None,
        )


@dataclass
class SparseEventCodecDecoderOutput(ModelOutput):
    """What `render` and `decode` return.

    Args:
        audio_values: (B, 1, T), the sum of the events.
        event_values: (B, K, L), each event alone, silent where there is none. On request.
        event_starts: int64 (B, K), the sample of the clip at which each row of `event_values` begins. On request.
    """

    audio_values: torch.Tensor = _NONE
    event_values: torch.Tensor | None = None
    event_starts: torch.Tensor | None = None


@dataclass
class SparseEventCodecOutput(SparseEventCodecEncoderOutput):
    """What `forward` returns: the reconstruction, as long as the input, and the events it was made from.

    Args:
        audio_values: (B, 1, T), 0 past a clip's end.
    """

    audio_values: torch.Tensor = _NONE


# ---------------------------------------------------------------------------------------------------------- encoder


class SparseEventCodecBlock(nn.Module):
    """A gated convolution that looks ahead, added to what it looks at.

    Source: Section "encoder" of the original: two weight-normalised convolutions of width 2, tanh times sigmoid.
    Deviates: The batch norms that the original bypasses are not there.
    """

    def __init__(self, hidden_size: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.conv = weight_norm(nn.Conv1d(hidden_size, hidden_size, 2, dilation=dilation))
        self.gate = weight_norm(nn.Conv1d(hidden_size, hidden_size, 2, dilation=dilation))

    def matrix(self) -> torch.Tensor:
        """Both convolutions as one matrix (2C, 2C), for a frame's channels and those `dilation` frames later."""
        return torch.cat([torch.cat([conv.weight[..., 0], conv.weight[..., 1]], 1) for conv in (self.conv, self.gate)])

    def forward(self, hidden_states: torch.Tensor, num_frames: int, matrix: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, T) to (B, C, num_frames), with zeros past the end of what is given."""
        now = hidden_states[..., :num_frames]
        ahead = hidden_states[..., self.dilation : self.dilation + num_frames]
        ahead = F.pad(ahead, (0, num_frames - ahead.shape[-1]))
        both = matrix @ torch.cat([now, ahead], dim=1) + torch.cat([self.conv.bias, self.gate.bias])[:, None]
        value, gate = both.chunk(2, dim=1)
        return now + value.tanh() * gate.sigmoid()


class SparseEventCodecEncoder(nn.Module):
    """What could begin at each frame, from this frame and what follows: a vector, and how much it is there.

    Only the frames that the first `num_frames` depend on are computed.
    """

    def __init__(self, config: SparseEventCodecConfig):
        super().__init__()
        num_features = config.num_mel_bins if config.renderer == "oscillator" else config.num_bins
        self.input_projection = nn.Conv1d(num_features, config.hidden_size, 1)
        self.blocks: Any = nn.ModuleList([SparseEventCodecBlock(config.hidden_size, d) for d in config.dilations])
        self.output_projection = nn.Conv1d(config.hidden_size, config.hidden_size, 1)
        self.vector_head = nn.Conv1d(config.hidden_size, config.event_dim, 1)
        self.switch_head = nn.Conv1d(config.hidden_size, 1, 1)
        self.num_frames_ahead = sum(config.dilations)

    def matrices(self) -> list[torch.Tensor]:
        """The blocks' weights, which need be computed only once for many calls."""
        return [block.matrix() for block in self.blocks]

    def forward(
        self, features: torch.Tensor, num_frames: int, matrices: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (B, F, T) to vectors (B, D, num_frames) and switches (B, num_frames)."""
        length, remaining = features.shape[-1], self.num_frames_ahead
        hidden_states = self.input_projection(features[..., : num_frames + remaining])
        total = torch.zeros_like(hidden_states[..., :num_frames])
        for block, matrix in zip(self.blocks, matrices or self.matrices(), strict=True):
            remaining -= block.dilation
            hidden_states = block(hidden_states, min(length, num_frames + remaining), matrix)
            total = total + hidden_states[..., :num_frames]
        total = self.output_projection(total)
        return self.vector_head(total), self.switch_head(total)[:, 0]


# ------------------------------------------------------------------------------------------------------ quantization


class EventQuantizer:
    """Events as two whole numbers each, and back: finite scalar quantisation of the vector, steps of onset and gain.

    The first code holds, from its least significant part on, the gain's level, the step within the frame, and the
    frame within half a window; the second the levels of the vector's dimensions, the first one least significant.

    Source: Finite Scalar Quantization (arXiv 2309.15505), whose levels are spread over -1..1 here.
    """

    def __init__(self, config: SparseEventCodecConfig):
        self.config = config

    def _levels(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of each dimension, and what each level counts in a code."""
        levels = self.config.fsq_levels
        counts = [math.prod(levels[:dimension]) for dimension in range(len(levels))]
        return torch.tensor(levels, device=device), torch.tensor(counts, device=device)

    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        """Brings the encoder's numbers (..., D) into -1..1."""
        return vectors.tanh()

    def round(self, vectors: torch.Tensor) -> torch.Tensor:
        """The nearest levels to vectors (..., D) in -1..1; the gradient passes straight through."""
        nearest = self.vectors_of(self.vector_codes(vectors.detach())).to(vectors.dtype)
        return nearest + (vectors - vectors.detach()) if vectors.requires_grad else nearest

    def vector_codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """int64 (...) from (..., D) in -1..1."""
        levels, counts = self._levels(vectors.device)
        digits = ((vectors.double().nan_to_num() + 1) / 2 * (levels - 1)).round().clamp(min=0)
        return (torch.minimum(digits, levels - 1).long() * counts).sum(dim=-1)

    def vectors_of(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 (..., D) from (...)."""
        levels, counts = self._levels(codes.device)
        digits = codes[..., None] // counts % levels
        return (2 * digits.double() / (levels - 1) - 1).float()

    def gain_levels(self, gains: torch.Tensor) -> torch.Tensor:
        """The nearest level, int64, of gains of any shape."""
        decibels = 20 * gains.double().clamp(min=1e-30).log10()
        level = ((self.config.max_gain_db - decibels) / self.config.gain_step_db).round()
        return level.nan_to_num().clamp(0, self.config.num_gain_levels - 1).long()

    def gains_of(self, levels: torch.Tensor) -> torch.Tensor:
        """float32 gains of levels."""
        decibels = self.config.max_gain_db - levels.double() * self.config.gain_step_db
        return (10 ** (decibels / 20)).float()

    def to_codes(self, vectors: torch.Tensor, onsets: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
        """Codes int64 (..., 2) of vectors (..., D), onsets (...) in samples and gains (...), each rounded."""
        steps = (onsets.double() / self.config.onset_step_samples).round().long().clamp(min=0)
        steps = steps % (self.config.selection_frames * self.config.onset_steps)
        first = steps * self.config.num_gain_levels + self.gain_levels(gains)
        return torch.stack([first, self.vector_codes(vectors)], dim=-1)

    def from_codes(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors (..., D), onsets float64 (...) from the window's start, and gains (...) of codes (..., 2)."""
        steps, levels = codes[..., 0] // self.config.num_gain_levels, codes[..., 0] % self.config.num_gain_levels
        onsets = steps.double() * self.config.onset_step_samples
        return self.vectors_of(codes[..., 1]), onsets, self.gains_of(levels)


# ----------------------------------------------------------------------------------------------------- decomposition


@dataclass
class WindowEvents:
    """The events of one window, n of them.

    Args:
        vectors: (n, D).
        onsets: float64 (n,), samples from the window's start.
        gains: (n,).
        logits: (n,).
        drops: n floats, energy that each took away; the original's may be negative.
        entered: Energy of the frames that were new in this window.
        codes: int64 (n, 2), or None.
        spectra: n magnitude spectra (F, T) of what each left; only on request.
    """

    vectors: torch.Tensor
    onsets: torch.Tensor
    gains: torch.Tensor
    logits: torch.Tensor
    drops: list[float]
    entered: float
    codes: torch.Tensor | None = None
    spectra: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class DecompositionSettings:
    """When to stop looking for events in a window, and what to return.

    Args:
        num_events: Events per window, at most.
        stop_residual_db: Level of what is left, relative to the window as it began, below which the window is done.
        min_drop_db: Level, relative to what is left, below which an event takes too little away to be kept. Only of
            the oscillator, which keeps no event that takes nothing away.
        quantize: Whether events are quantised as they are found, so that codes stand for them exactly.
        output_residuals: Whether to keep the spectra between.
    """

    num_events: int
    stop_residual_db: float | None = None
    min_drop_db: float | None = None
    quantize: bool = True
    output_residuals: bool = False

    def is_done(self, energy: float, at_first: float) -> bool:
        """Whether what is left of a window is little enough."""
        return energy <= 0 or (
            self.stop_residual_db is not None and energy <= at_first * 10 ** (self.stop_residual_db / 10)
        )


def _no_events(samples: torch.Tensor, event_dim: int) -> WindowEvents:
    nothing = samples.new_zeros(0)
    return WindowEvents(nothing.new_zeros(0, event_dim), nothing.double(), nothing, nothing, drops=[], entered=0.0)


def _energy(spectrum: torch.Tensor) -> torch.Tensor:
    return spectrum.detach().square().sum(dtype=torch.float64)


def _power(spectrum: torch.Tensor) -> torch.Tensor:
    """Squares of magnitudes; torch takes several times as long for the magnitudes of complex numbers."""
    return spectrum.real.square() + spectrum.imag.square()


class SpectralSubtraction:
    """The original's decomposition of a window: spectra of events are subtracted, and may leave less than nothing.

    Source: The loop of the original; its residual carries no gradient from one event to the next.
    Deviates: A window of zeros has no events, and one in which nothing switches on ends there.
    """

    def __init__(self, model: "SparseEventCodecModel"):
        self.model, self.config = model, model.config

    def window(
        self,
        samples: torch.Tensor,
        carry: dict[str, torch.Tensor],
        num_onset_frames: int,
        settings: DecompositionSettings,
        noise: torch.Tensor | None = None,
    ) -> tuple[WindowEvents, dict[str, torch.Tensor]]:
        """Decomposes one window.

        Args:
            samples: (num_samples_ahead,), from the window's first sample on.
            carry: What the window before left; empty for the first one.
            num_onset_frames: Frames in which events may begin.
            settings: When to stop.
            noise: (num_events, 8192) for the attacks; the renderer's own where it is `None`.
        """
        half, hop_length = self.config.selection_frames, self.config.hop_length
        new = self.model.spectrum(samples[half * hop_length :][None])
        entered = [new]
        if carry:
            old = carry["residual"]
        else:
            old = self.model.spectrum(samples[: half * hop_length + self.config.n_fft - hop_length][None])
            entered.append(old)
        residual = torch.cat([old, new], dim=-1)  # (1, F, T)
        events = _no_events(samples, self.config.event_dim)
        events.entered = sum(float(_energy(part)) for part in entered)
        at_first = energy = float(_energy(residual))
        found: list[tuple[torch.Tensor, ...]] = []
        spectra, drops = [], []
        matrices = self.model.encoder.matrices()
        for number in range(settings.num_events):
            if settings.is_done(energy, at_first):
                break
            vectors, frames, gains = self.model.pick(residual, num_onset_frames, matrices)
            if not gains[0] > 0:
                break
            with torch.no_grad():
                burst = self.model.renderer.excitation_noise(frames) if noise is None else noise[number][None]
                residual = residual - self.model.spectrum(
                    self.model.renderer(vectors, frames, gains, burst.to(samples)), self.config.num_frames
                )
            found.append((vectors[0], frames[0].double() * hop_length, gains[0]))
            left = float(_energy(residual))
            drops.append(energy - left)
            energy = left
            if settings.output_residuals:
                spectra.append(residual[0])
        if found:
            events.vectors, events.onsets, events.gains = (torch.stack(column) for column in zip(*found, strict=True))
            events.logits = events.gains
        events.drops, events.spectra = drops, tuple(spectra)
        return events, {"residual": residual[..., half:]}


class SumMatching:
    """Our decomposition of a window: the spectrum of the sum of all events comes nearer to the recording's.

    What is left is the difference of magnitudes between the recording and the sum so far, whose spectrum is kept with
    its phases, so that events that cancel count as such. Of each pick of a pass the onset is moved to where it fits
    the waveform best, within its frame, and its gain is that of least squares. It is kept only if the energy of the
    difference falls, on any input and under any weights.

    What lies `n_fft` before the window's start counts, too, as far as it reaches into it.
    """

    def __init__(self, model: "SparseEventCodecModel"):
        self.model, self.config = model, model.config
        self.frames_before = self.config.num_samples_before // self.config.hop_length

    def window(
        self,
        samples: torch.Tensor,
        carry: dict[str, torch.Tensor],
        num_onset_frames: int,
        settings: DecompositionSettings,
        noise: torch.Tensor | None = None,
    ) -> tuple[WindowEvents, dict[str, torch.Tensor]]:
        """Decomposes one window.

        Args:
            samples: (num_samples_before + num_samples_ahead,), the window begins after the first of the two.
            carry: What the window before left; empty for the first one.
            num_onset_frames: Frames in which events may begin.
            settings: When to stop.
            noise: Only `None`: noise is part of the event.
        """
        config, half = self.config, self.config.selection_frames
        if noise is not None:
            raise ValueError("`excitation_noise` is the wavetable's; the oscillator's noise follows from the event.")
        new = _short_time_spectrum(samples[half * config.hop_length + config.num_samples_before :].detach(), config)
        if carry:
            old, entered = carry["recording"], 0.0
        else:
            first = samples[: (half - 1) * config.hop_length + config.num_samples_before + config.n_fft].detach()
            old = _short_time_spectrum(first, config).abs()
            entered = float(_energy(old))
        recording = torch.cat([old, new.abs()])  # (frames_before + T, F)
        total = torch.zeros_like(recording, dtype=new.dtype)
        waveform = samples[config.num_samples_before :][: config.num_samples].detach().clone()
        if carry:
            total[: half + self.frames_before] = carry["total"]
            waveform[: config.selection_samples] = carry["waveform"]
        window = _Matching(self.model, settings, recording, total, waveform, num_onset_frames)
        events, found = _no_events(samples, config.event_dim), []
        while not window.is_done:
            found += window.run_pass()
        if found:
            columns = [torch.stack(column) for column in zip(*found, strict=True)]
            events.vectors, events.onsets, events.gains, events.logits = columns
        events.entered = entered + float(_energy(recording[half + self.frames_before :]))
        events.drops, events.spectra = window.drops, tuple(window.spectra)
        if settings.quantize:
            events.codes = self.model.quantizer.to_codes(events.vectors, events.onsets, events.gains)
        carry = {
            "recording": recording[half:],
            "total": total[half:],
            "waveform": waveform[config.selection_samples :],
        }
        return events, carry


class _Matching:
    """What one window's matching goes on with: the recording's magnitudes, the sum so far, and what is tried."""

    def __init__(
        self,
        model: "SparseEventCodecModel",
        settings: DecompositionSettings,
        recording: torch.Tensor,
        total: torch.Tensor,
        waveform: torch.Tensor,
        num_onset_frames: int,
    ):
        self.model, self.config, self.settings = model, model.config, settings
        self.recording, self.total, self.waveform = recording, total, waveform
        self.is_free = torch.ones(num_onset_frames, dtype=torch.bool, device=recording.device)
        self.energy = self.energy_at_first = float(_energy(recording - _power(total).sqrt()))
        self.drops: list[float] = []
        self.spectra: list[torch.Tensor] = []
        self.matrices = model.encoder.matrices()
        self.num_passes, self.max_passes = 0, _PASSES_PER_NEED * -(-settings.num_events // model.config.picks_per_pass)
        self.frames_before = model.config.num_samples_before // model.config.hop_length
        steps = model.config.hop_length - model.config.onset_step_samples
        self.event_frames = self.frames_before + -(-(steps + model.config.event_samples) // model.config.hop_length)

    @property
    def is_done(self) -> bool:
        is_full = len(self.drops) >= self.settings.num_events or self.num_passes >= self.max_passes
        return is_full or self.settings.is_done(self.energy, self.energy_at_first) or not bool(self.is_free.any())

    def run_pass(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Lets the encoder look once, and tries what it picks: vector, onset, gain and logit of what is kept."""
        self.num_passes += 1
        model, quantizer = self.model, self.model.quantizer
        left = (self.recording - _power(self.total).sqrt()).clamp(min=0)
        features = model.mel_features(left[self.frames_before :])
        vectors, logits = model.encoder(features[None], len(self.is_free), self.matrices)
        frames = self._choose_frames(logits[0].detach())
        self.is_free[frames] = False
        if not len(frames):
            self.is_free[:] = False
            return []
        picked = quantizer.bound(vectors[0, :, frames].transpose(0, 1))  # (M, D)
        if self.settings.quantize:
            picked = quantizer.round(picked)
        numbers = model.noise_numbers(picked, frames)
        with torch.no_grad():
            sounds = model.renderer(picked.detach(), numbers)
            steps = self._best_steps(sounds, frames)
            shifted = self._spectra_of(sounds, steps)
        kept = []
        for number, frame in enumerate(frames.tolist()):
            if self.is_done:
                break
            gain = self._take(sounds[number], shifted[number], frame, int(steps[number]))
            if gain is not None:
                onset = frames[number].double() * self.config.hop_length + steps[number]
                kept.append((picked[number], onset, gain, logits[0, frames[number]]))
        return kept

    def _choose_frames(self, logits: torch.Tensor) -> torch.Tensor:
        """The frames with the highest logits above 0, none near another: int64 (M,)."""
        scores = logits.nan_to_num(nan=-math.inf).masked_fill(~self.is_free, -math.inf).tolist()
        order = sorted((frame for frame, score in enumerate(scores) if score > 0), key=lambda frame: -scores[frame])
        chosen: list[int] = []
        for frame in order:
            if all(abs(frame - other) > self.config.suppression_frames for other in chosen):
                chosen.append(frame)
            if len(chosen) == self.config.picks_per_pass:
                break
        return torch.tensor(chosen, dtype=torch.int64, device=logits.device)

    def _best_steps(self, sounds: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Samples after its frame's start at which each sound (M, L) fits best what is left of the waveform."""
        step, length = self.config.onset_step_samples, sounds.shape[-1]
        reach = length + self.config.hop_length - step
        starts = (frames * self.config.hop_length).tolist()
        parts = torch.stack([self.waveform[start : start + reach] for start in starts])
        likeness = (parts.unfold(-1, length, step).double() @ sounds[..., None].double())[..., 0]  # (M, onset_steps)
        return likeness.nan_to_num(nan=-math.inf).argmax(dim=-1) * step

    def _spectra_of(self, sounds: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Complex (M, event_frames, F) of sounds (M, L), from the first frame on that reaches into them."""
        config = self.config
        needed = (self.event_frames - 1) * config.hop_length + config.n_fft
        padded = sounds.new_zeros(len(sounds), needed)
        for row, sound, step in zip(padded, sounds, steps.tolist(), strict=True):
            begin = config.num_samples_before + step
            row[begin : begin + len(sound)] = sound
        return _short_time_spectrum(padded, config)

    def _take(self, sound: torch.Tensor, spectrum: torch.Tensor, frame: int, step: int) -> torch.Tensor | None:
        """Adds an event to the sum if that brings it nearer to the recording; its gain, or `None`."""
        span = slice(frame, frame + self.event_frames)
        recording, total = self.recording[span], self.total[span]
        spectrum = spectrum[: len(recording)]
        # The power of the sum under any gain, |total + gain * spectrum| ** 2, is a polynomial of it.
        power, event_power = _power(total), _power(spectrum)
        mixed = 2 * (total.real * spectrum.real + total.imag * spectrum.imag)
        left = recording - power.sqrt()
        best = (left * event_power.sqrt()).sum() / event_power.sum().clamp(min=1e-20)
        if not best > 0 or not best.isfinite():
            return None
        gains = best * 10 ** (torch.tensor(_GAIN_FACTORS_DB, device=best.device, dtype=best.dtype) / 20)
        if self.settings.quantize:
            quantizer = self.model.quantizer
            gains = quantizer.gains_of(quantizer.gain_levels(gains)).to(best)
        after = [
            _energy(recording - (power + gain * mixed + gain.square() * event_power).clamp(min=0).sqrt())
            for gain in gains
        ]
        energies = torch.stack(after).nan_to_num(nan=math.inf)
        choice = int(energies.argmin())
        drop = float(_energy(left) - energies[choice])
        least = 10 ** (self.settings.min_drop_db / 10) if self.settings.min_drop_db is not None else 0.0
        if not drop > max(_LEAST_DROP, least) * self.energy:
            return None
        total += gains[choice] * spectrum
        start = frame * self.config.hop_length + step
        self.waveform[start : start + len(sound)] -= gains[choice] * sound
        self.drops.append(drop)
        self.energy -= drop
        if self.settings.output_residuals:
            self.spectra.append((self.recording - _power(self.total).sqrt())[self.frames_before :].transpose(0, 1))
        return gains[choice]


# ------------------------------------------------------------------------------------------------------------ models


class SparseEventCodecPreTrainedModel(PreTrainedModel):
    """Base class: configuration, initialisation, loading and saving."""

    config: SparseEventCodecConfig
    base_model_prefix = "sparse_event_codec"
    main_input_name = "input_values"
    input_modalities = "audio"
    _no_split_modules = ["SparseEventCodecBlock"]

    @torch.no_grad()
    def _init_weights(self, module: Any):
        """As the original starts: uniform weights, tables of their own, torch's defaults under weight norm."""
        width, own = self.config.initializer_range, module._parameters
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            # Under weight norm the weight is none of its own; the list below has what makes it.
            if "weight" in own:
                init.uniform_(own["weight"], -width, width)
            init.zeros_(own["bias"])
        elif isinstance(module, nn.utils.parametrize.ParametrizationList):
            init.kaiming_uniform_(own["original1"], a=math.sqrt(5))
            init.copy_(own["original0"], own["original1"].flatten(1).norm(dim=1)[:, None, None])
        elif isinstance(module, (WavetableRenderer, OscillatorRenderer)):
            module.init_tables()
        elif isinstance(module, SparseEventCodecModel) and self.config.renderer == "oscillator":
            sizes = self.config.num_mel_bins, self.config.num_bins
            init.copy_(module.mel_filters, mel_triangles(*sizes, self.config.sampling_rate))


class SparseEventCodecModel(SparseEventCodecPreTrainedModel):
    """The whole codec: waveforms to events, and events to waveforms.

    Source: "Toward a Sparse and Interpretable Audio Codec" (arXiv 2505.05654).

    Example:

    ```python
    >>> from wavtokenizer_hf import SparseEventCodecConfig, SparseEventCodecModel

    >>> model = SparseEventCodecModel(SparseEventCodecConfig()).eval()
    >>> events = model.encode(waveform)  # (B, 1, T) at 22,050 Hz
    >>> audio_values = model.render(events, length=waveform.shape[-1]).audio_values
    ```
    """

    def __init__(self, config: SparseEventCodecConfig):
        super().__init__(config)
        self.encoder = SparseEventCodecEncoder(config)
        self.quantizer = EventQuantizer(config)
        if config.renderer == "wavetable":
            self.renderer: Any = WavetableRenderer(config)
            self.decomposition: SpectralSubtraction | SumMatching = SpectralSubtraction(self)
        else:
            self.renderer = OscillatorRenderer(config)
            self.decomposition = SumMatching(self)
            self.mel_filters = nn.Buffer(torch.empty(config.num_mel_bins, config.num_bins), persistent=False)
        self.post_init()

    # ------------------------------------------------------------------------------------------------- encoding

    @can_return_tuple
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        num_events: int | None = None,
        stop_residual_db: float | None = None,
        min_drop_db: float | None = None,
        quantize: bool = True,
        output_residuals: bool = False,
        excitation_noise: torch.Tensor | None = None,
        original_windows: bool = False,
    ) -> SparseEventCodecEncoderOutput:
        """Turns waveforms into events.

        Every clip is decomposed by itself, window by window, so that it gets the same events in any batch and in any
        stream. Gradients reach the encoder through vectors, gains and logits.

        Args:
            input_values: (B, 1, T) at the codec's rate, T of 1 or more.
            padding_mask: (B, T) or (B, 1, T), non-zero where a sample belongs to the clip, padding on the right.
            num_events: Events per window, at most; `None` takes the config's.
            stop_residual_db: A window is done where what is left lies so far below it, for example -30.
            min_drop_db: An event that takes away less than this part of what is left is not kept, for example -30.
                The wavetable keeps all.
            quantize: Whether the oscillator's events are quantised as they are found. Codes exist of those only. The
                wavetable's never are.
            output_residuals: Whether to return all spectra between, which take the memory of one per place.
            excitation_noise: (B, K, 8192) in [-0.02, 0.02), the noise of the wavetable's attacks by place, for what
                the original drew anew each time. `None` takes noise that follows from the event.
            original_windows: Whether windows begin where the original's do, which leaves out the last quarter of four
                windows, all of one, and so on.

        Returns:
            `SparseEventCodecEncoderOutput` with `num_events` places per window, K in all.

        Raises:
            ValueError: For a wrong shape, no samples, values that are not finite, padding that is not on the right, or
                a clip that is padding only.
        """
        lengths = self._checked_lengths(input_values, padding_mask)
        settings = self.settings(num_events, stop_residual_db, min_drop_db, quantize, output_residuals)
        clips = [
            self._encode_clip(
                row[0, :length],
                settings,
                None if excitation_noise is None else excitation_noise[index],
                original_windows,
            )
            for index, (row, length) in enumerate(zip(input_values, lengths, strict=True))
        ]
        return _join_clips(clips)

    def settings(
        self,
        num_events: int | None = None,
        stop_residual_db: float | None = None,
        min_drop_db: float | None = None,
        quantize: bool = True,
        output_residuals: bool = False,
    ) -> DecompositionSettings:
        """Checks and gathers what `encode` was told.

        Raises:
            ValueError: If `num_events` is below 1.
        """
        num_events = self.config.num_events if num_events is None else num_events
        if num_events < 1:
            raise ValueError(f"`num_events` must be at least 1 per window, got {num_events}.")
        is_ours = self.config.renderer == "oscillator"
        return DecompositionSettings(num_events, stop_residual_db, min_drop_db, quantize and is_ours, output_residuals)

    def window_starts(self, num_samples: int, original_windows: bool = False) -> list[int]:
        """Samples at which the windows of a clip begin."""
        half, hop_length = self.config.selection_samples, self.config.hop_length
        if original_windows:
            return list(range(0, (num_samples // hop_length - self.config.num_frames) * hop_length, half))
        return list(range(0, num_samples, half))

    def _encode_clip(
        self,
        clip: torch.Tensor,
        settings: DecompositionSettings,
        noise: torch.Tensor | None,
        original_windows: bool,
    ) -> SparseEventCodecEncoderOutput:
        num_samples, hop_length = clip.shape[0], self.config.hop_length
        before, ahead = self.config.num_samples_before, self.config.num_samples_ahead
        clip = F.pad(clip.to(self.sample_dtype), (before, self.config.selection_samples + ahead))
        spectra = []
        if settings.output_residuals:
            spectra.append(self.spectrum(clip[None, before:], -(-num_samples // hop_length))[0])
        carry: dict[str, torch.Tensor] = {}
        windows, drops, entered = [], [], 0.0
        for number, start in enumerate(self.window_starts(num_samples, original_windows)):
            places = slice(number * settings.num_events, (number + 1) * settings.num_events)
            events, carry = self.decomposition.window(
                clip[start : start + before + ahead],
                carry,
                self.config.selection_frames if original_windows else self.onset_frames(num_samples - start),
                settings,
                None if noise is None else noise[places],
            )
            windows.append(self.place_events(events, start, settings.num_events))
            entered += events.entered
            drops += events.drops + [0.0] * (settings.num_events - len(events.drops))
            for place in range(settings.num_events if spectra else 0):
                whole = spectra[-1].clone() if place < len(events.spectra) else spectra[-1]
                if place < len(events.spectra):
                    part = whole[:, start // hop_length :][:, : self.config.num_frames]
                    part.copy_(events.spectra[place][:, : part.shape[-1]])
                spectra.append(whole)
        output = self.join_windows(windows, settings, clip)
        taken = torch.tensor([0.0, *drops], dtype=torch.float64, device=clip.device).cumsum(dim=0)
        output.residual_energy = ((1 - taken / entered) if entered > 0 else torch.ones_like(taken))[None]
        output.residual_spectra = torch.stack(spectra)[None] if spectra else None
        return output

    def onset_frames(self, num_samples: int) -> int:
        """Frames of a window in which events may begin, where the clip has so many samples from its start on."""
        return min(self.config.selection_frames, -(-num_samples // self.config.hop_length))

    def place_events(self, events: WindowEvents, start: int, num_places: int) -> SparseEventCodecEncoderOutput:
        """The events of a window that begins at a sample of the clip, in places (1, num_places)."""
        free = num_places - events.vectors.shape[0]
        mask = torch.arange(num_places, device=events.vectors.device) < num_places - free
        return SparseEventCodecEncoderOutput(
            event_vectors=F.pad(events.vectors, (0, 0, 0, free))[None],
            event_onsets=F.pad(events.onsets + start, (0, free))[None],
            event_gains=F.pad(events.gains, (0, free))[None],
            event_mask=mask[None],
            event_codes=None if events.codes is None else F.pad(events.codes, (0, 0, 0, free))[None],
            event_logits=F.pad(events.logits, (0, free))[None],
        )

    def join_windows(
        self, windows: list[SparseEventCodecEncoderOutput], settings: DecompositionSettings, samples: torch.Tensor
    ) -> SparseEventCodecEncoderOutput:
        """The events of windows one after the other, (1, K); of no window, K is 0. Samples give the dtype."""
        if windows:
            return _join(windows, dim=1)
        nothing = _no_events(samples, self.config.event_dim)
        if settings.quantize:
            nothing.codes = torch.zeros(0, 2, dtype=torch.int64, device=samples.device)
        return self.place_events(nothing, 0, 0)

    def spectrum(self, signal: torch.Tensor, num_frames: int | None = None) -> torch.Tensor:
        """Magnitudes (B, F, T) of a signal (B, n).

        Frame t covers the samples from `t * hop_length` on. `num_frames` frames are taken with zeros past the end, or
        else all that fit.
        """
        config = self.config
        if num_frames is not None:
            needed = (num_frames - 1) * config.hop_length + config.n_fft
            signal = F.pad(signal, (0, max(0, needed - signal.shape[-1])))[..., :needed]
        return _short_time_spectrum(signal, config).abs().transpose(-1, -2)

    def mel_features(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """What the encoder sees of magnitudes (T, F): logarithms of mel bands, (bands, T), near -1..1."""
        mel = (magnitudes @ self.mel_filters.transpose(0, 1).to(magnitudes)).transpose(0, 1)
        return (mel.clamp(max=1e6) + _MEL_FLOOR).log10() / 4 + 0.5

    def noise_numbers(self, vectors: torch.Tensor, frames: torch.Tensor, seed: int | None = None) -> list[int]:
        """What the noise of events follows from: the seed, codes of vectors (E, D), and frames (E,) of a window."""
        return event_numbers(
            self.config.noise_seed if seed is None else seed, self.quantizer.vector_codes(vectors.detach()), frames
        )

    def pick(
        self, residual: torch.Tensor, num_onset_frames: int, matrices: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The event that the original takes next from each residual (B, F, T): the frame with the highest switch.

        Returns:
            Vectors (B, D), frames int64 (B,) and gains (B,), 0 where nothing is switched on.
        """
        vectors, switches = self.encoder(residual, num_onset_frames, matrices)
        gains, frames = switches.relu().max(dim=-1)
        index = frames[:, None, None].expand(-1, vectors.shape[1], -1)
        return vectors.gather(-1, index)[..., 0], frames, gains

    @property
    def sample_dtype(self) -> torch.dtype:
        """What waveforms are computed in: float32, or float64 where the model is.

        Raises:
            ValueError: If the model was cast to half precision.
        """
        dtype = self.encoder.input_projection.weight.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"The codec of sparse events computes in float32 or float64, and this model is {dtype}. Load it "
                "without `dtype`, or call `model.float()`."
            )
        return dtype

    def _checked_lengths(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None) -> list[int]:
        """Samples of each clip, after checking what was given."""
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(
                f"`input_values` must have shape (B, 1, T), got {tuple(input_values.shape)}. The feature extractor "
                "makes it from recordings of any shape."
            )
        batch_size, _, num_samples = input_values.shape
        if batch_size == 0 or num_samples == 0:
            raise ValueError(
                f"`input_values` is empty, shape {tuple(input_values.shape)}; a clip needs 1 sample or more."
            )
        finite = input_values.isfinite().all(dim=-1)[:, 0]
        if not finite.all():
            raise ValueError(f"Clip {int((~finite).nonzero()[0])} holds NaN or infinity; repair or drop it.")
        if padding_mask is None:
            return [num_samples] * batch_size
        if padding_mask.numel() != batch_size * num_samples or padding_mask.shape[0] != batch_size:
            raise ValueError(
                f"`padding_mask` must have shape {(batch_size, num_samples)} or {(batch_size, 1, num_samples)}, got "
                f"{tuple(padding_mask.shape)}."
            )
        valid = padding_mask.reshape(batch_size, num_samples) != 0
        wrong = (valid[:, 1:] & ~valid[:, :-1]).any(dim=-1) | ~valid[:, 0]
        if wrong.any():
            raise ValueError(
                f"`padding_mask` of clip {int(wrong.nonzero()[0])} does not start with a valid position and end in "
                "padding. Pad on the right, and drop empty clips."
            )
        return valid.sum(dim=-1).tolist()

    # ------------------------------------------------------------------------------------------------- rendering

    @can_return_tuple
    def forward(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None, **kwargs):
        """Encodes and renders.

        Args:
            input_values: As in `encode`.
            padding_mask: As in `encode`.
            kwargs: As in `encode`.

        Returns:
            `SparseEventCodecOutput`; `audio_values` has the input's length and is 0 past a clip's end.
        """
        events = self.encode(input_values, padding_mask, return_dict=True, **kwargs)
        noise = kwargs.get("excitation_noise")
        length = input_values.shape[-1]
        rendered = self.render(events, length=length, excitation_noise=noise, return_dict=True)
        audio_values = rendered.audio_values.to(input_values.device)
        if padding_mask is not None:
            valid = padding_mask.reshape(audio_values.shape).to(audio_values.device) != 0
            audio_values = audio_values.masked_fill(~valid, 0)
        return SparseEventCodecOutput(audio_values=audio_values, **events)

    def decode(
        self,
        event_codes: torch.Tensor,
        event_mask: torch.Tensor | None = None,
        length: int | None = None,
        num_events: int | None = None,
    ) -> SparseEventCodecDecoderOutput:
        """Turns codes into sound: exactly what `render` makes of the events that they stand for.

        Args:
            event_codes: As in `events_of`.
            event_mask: As in `events_of`.
            length: As in `render`.
            num_events: As in `events_of`.

        Raises:
            ValueError: As in `events_of` and `render`.
        """
        return self.render(self.events_of(event_codes, event_mask, num_events), length=length)

    def events_of(
        self, event_codes: torch.Tensor, event_mask: torch.Tensor | None = None, num_events: int | None = None
    ) -> SparseEventCodecEncoderOutput:
        """The events that codes stand for.

        Args:
            event_codes: int64 (B, K, 2), `num_events` places per window, as `encode` returns them.
            event_mask: bool (B, K), which places hold an event; `None` takes all.
            num_events: Places per window; `None` takes the config's.

        Raises:
            ValueError: If the model's events have no codes, or for a wrong shape, type or range.
        """
        if self.config.renderer != "oscillator":
            raise ValueError("The wavetable's events have no codes; pass the events themselves to `render`.")
        if event_codes.ndim != 3 or event_codes.shape[-1] != 2 or event_codes.is_floating_point():
            raise ValueError(
                f"`event_codes` must be integers (B, K, 2), got {event_codes.dtype} {tuple(event_codes.shape)}."
            )
        if event_mask is None:
            event_mask = torch.ones(event_codes.shape[:2], dtype=torch.bool, device=event_codes.device)
        event_mask, num_events = event_mask != 0, num_events or self.config.num_events
        if event_mask.shape != event_codes.shape[:2]:
            raise ValueError(
                f"`event_mask` must have shape {tuple(event_codes.shape[:2])}, got {tuple(event_mask.shape)}."
            )
        codes = event_codes.long() * event_mask[..., None]
        wrong = (codes < 0) | (codes >= torch.tensor(self.config.codebook_sizes, device=codes.device))
        if wrong.any():
            clip, place, _ = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"Codes must lie in 0..size - 1 of the sizes {self.config.codebook_sizes}; clip {clip}, place {place} "
                f"holds {codes[clip, place].tolist()}."
            )
        vectors, onsets, gains = self.quantizer.from_codes(codes)
        windows = torch.arange(codes.shape[1], device=codes.device) // num_events
        return SparseEventCodecEncoderOutput(
            event_vectors=vectors.to(self.sample_dtype) * event_mask[..., None],
            event_onsets=(onsets + windows * self.config.selection_samples) * event_mask,
            event_gains=gains.to(self.sample_dtype) * event_mask,
            event_mask=event_mask,
            event_codes=codes,
        )

    def sample_events(
        self,
        like: SparseEventCodecEncoderOutput,
        vectors: str = "keep",
        onsets: str = "keep",
        generator: torch.Generator | None = None,
        original_rule: bool = False,
    ) -> SparseEventCodecEncoderOutput:
        """Events like others, with other vectors or at other times: what an event's parts are for can be heard.

        Args:
            like: Events of `encode`; gains, and how many there are, stay.
            vectors: `"uniform"` draws between the lowest and the highest number of each clip's vectors, `"reservoir"`
                takes vectors of any clip, `"shuffle"` exchanges those of a clip, and `"keep"` keeps them.
            onsets: `"uniform"` draws from the time that the clip's windows cover, `"shuffle"` and `"keep"` as above.
            generator: For what is drawn.
            original_rule: Whether uniform onsets are drawn as the original's page does: a frame of one whole window,
                from numbers of which the highest is also the event's gain.

        Raises:
            ValueError: If `vectors` or `onsets` is none of these.
        """
        for name, choice, choices in (
            ("vectors", vectors, ("keep", "uniform", "reservoir", "shuffle")),
            ("onsets", onsets, ("keep", "uniform", "shuffle")),
        ):
            if choice not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {choice!r}.")
        config, mask = self.config, like.event_mask
        new_vectors, new_onsets, new_gains = (
            value.clone() for value in (like.event_vectors, like.event_onsets, like.event_gains)
        )
        pool = like.event_vectors[mask]
        device = mask.device
        for clip in range(mask.shape[0]):
            places = mask[clip].nonzero()[:, 0]
            if not len(places):
                continue
            own = like.event_vectors[clip, places]
            if vectors == "uniform":
                drawn = torch.rand(own.shape, generator=generator, device=device, dtype=own.dtype)
                own = own.min() + (own.max() - own.min()) * drawn
                own = self.quantizer.round(own) if like.event_codes is not None else own
            elif vectors == "reservoir":
                own = pool[torch.randint(len(pool), (len(places),), generator=generator, device=device)]
            elif vectors == "shuffle":
                own = own[torch.randperm(len(places), generator=generator, device=device)]
            new_vectors[clip, places] = own
            times = like.event_onsets[clip, places]
            if onsets == "uniform" and original_rule:
                drawn = 2 * torch.rand(len(places), config.num_frames, generator=generator, device=device) - 1
                values, frames = drawn.max(dim=-1)
                times, new_gains[clip, places] = frames.double() * config.hop_length, values.to(new_gains.dtype)
            elif onsets == "uniform":
                step = config.onset_step_samples if config.renderer == "oscillator" else config.hop_length
                covered = (int(times.max()) // config.selection_samples + 1) * config.selection_samples
                times = torch.randint(covered // step, times.shape, generator=generator, device=device).double() * step
            elif onsets == "shuffle":
                times = times[torch.randperm(len(places), generator=generator, device=device)]
            new_onsets[clip, places] = times
        return SparseEventCodecEncoderOutput(
            event_vectors=new_vectors, event_onsets=new_onsets, event_gains=new_gains, event_mask=mask
        )

    def to_rows(self, events: SparseEventCodecEncoderOutput, clip: int = 0) -> list[dict[str, Any]]:
        """The events of one clip as notes, in the order in which they sound.

        Returns:
            A dictionary per event: what `to_json` gives, of which `from_json` makes events again, and `onset_s`;
            `duration_s`, until its slowest partial has faded by 60 dB; `pitch`, the number of the note (A4 is 69) with
            its fraction; `velocity`, 1 to 127, by the level. Of the wavetable, pitch and duration are `None`.
        """
        rows = events.sort_by_onset().to_json(clip)
        for row in rows:
            decibels = 20 * math.log10(max(row["gain"], 1e-9))
            velocity = round(127 * (1 + (decibels - self.config.max_gain_db) / 96))
            row |= {"onset_s": row["onset"] / self.config.sampling_rate, "duration_s": None, "pitch": None}
            row["velocity"] = min(127, max(1, velocity))
            if self.config.renderer == "oscillator":
                vector = torch.tensor([row["vector"]], device=events.event_vectors.device)
                with torch.no_grad():
                    parameters = self.renderer.parameters_of(vector)
                slowest = float(parameters["decay_per_s"].min())
                longest = self.config.event_samples / self.config.sampling_rate
                row["duration_s"] = min(longest, float(parameters["attack_s"]) + math.log(1000) / slowest)
                row["pitch"] = 69 + 12 * math.log2(float(parameters["f0_hz"]) / 440)
        return rows

    @can_return_tuple
    def render(
        self,
        events: SparseEventCodecEncoderOutput,
        length: int | None = None,
        per_event: bool = False,
        seed: int | None = None,
        excitation_noise: torch.Tensor | None = None,
    ) -> SparseEventCodecDecoderOutput:
        """Turns events into sound.

        An event sounds the same whatever stands beside it: sums are taken in float64, and its noise follows from a
        seed and the event alone.

        Args:
            events: What `encode` returned, changed or not; vectors, onsets, gains and mask are read.
            length: Samples of the result; `None` ends it with the last event.
            per_event: Whether to return each event alone instead of their sum.
            seed: Of the noise; `None` takes the config's.
            excitation_noise: As in `encode`.

        Returns:
            `SparseEventCodecDecoderOutput`: the sum, or each event and where it begins.

        Raises:
            ValueError: If the events do not fit the model, or `length` is below 1.
        """
        if length is not None and length < 1:
            raise ValueError(f"`length` must be at least 1 sample, got {length}.")
        sounds = self.event_sounds(events, seed, excitation_noise)
        like = events.event_vectors
        if per_event:
            longest = max((sound.shape[0] for clip in sounds for _, _, sound in clip), default=1)
            values = like.new_zeros(*events.event_mask.shape, longest)
            starts = torch.zeros_like(events.event_mask, dtype=torch.int64)
            for clip, found in enumerate(sounds):
                for place, start, sound in found:
                    values[clip, place, : sound.shape[0]] = sound
                    starts[clip, place] = start
            return SparseEventCodecDecoderOutput(event_values=values, event_starts=starts)
        if length is None:
            length = max((start + sound.shape[0] for clip in sounds for _, start, sound in clip), default=1)
        total = like.new_zeros(len(sounds), 1, length, dtype=torch.float64)
        for clip, found in enumerate(sounds):
            for _, start, sound in found:
                skipped = max(0, -start)
                part = total[clip, 0, start + skipped : start + sound.shape[0]]
                part += sound[skipped : skipped + part.shape[0]]
        return SparseEventCodecDecoderOutput(audio_values=total.to(like.dtype))

    def event_sounds(
        self,
        events: SparseEventCodecEncoderOutput,
        seed: int | None = None,
        excitation_noise: torch.Tensor | None = None,
    ) -> list[list[tuple[int, int, torch.Tensor]]]:
        """The events of each clip, one by one: place, first sample, and sound (L,). Arguments as in `render`.

        Raises:
            ValueError: If the events do not fit the model.
        """
        self._check_events(events)
        clips = []
        for clip, mask in enumerate(events.event_mask):
            places = mask.nonzero()[:, 0]
            sounds = self._sounds(
                events.event_vectors[clip, places],
                events.event_onsets[clip, places],
                events.event_gains[clip, places],
                self.config.noise_seed if seed is None else seed,
                None if excitation_noise is None else excitation_noise[clip, places],
            )
            clips.append([(place, *sound) for place, sound in zip(places.tolist(), sounds, strict=True)])
        return clips

    def _sounds(
        self,
        vectors: torch.Tensor,
        onsets: torch.Tensor,
        gains: torch.Tensor,
        seed: int,
        excitation_noise: torch.Tensor | None,
    ) -> list[tuple[int, torch.Tensor]]:
        """Where each of E events begins, and its sound."""
        if not len(vectors):
            return []
        frames = (onsets // self.config.hop_length).long()
        in_window = frames % self.config.selection_frames
        if self.config.renderer == "oscillator":
            whole = onsets.floor()
            sounds = [
                sound * gain
                for some, places, levels in zip(
                    *(column.split(_AT_ONCE) for column in (vectors, in_window, gains)), strict=True
                )
                for sound, gain in zip(
                    self.renderer(some, self.noise_numbers(some, places, seed)), levels, strict=True
                )
            ]
            moved = [_delay(sound, by) for sound, by in zip(sounds, (onsets - whole).tolist(), strict=True)]
            return list(zip(whole.long().tolist(), moved, strict=True))
        starts = ((frames - in_window) * self.config.hop_length).tolist()
        if excitation_noise is None:
            excitation_noise = self.renderer.excitation_noise(in_window, seed)
        return [
            (start, self.renderer(vectors[one], in_window[one], gains[one], excitation_noise[one].to(vectors))[0])
            for start, one in ((start, slice(index, index + 1)) for index, start in enumerate(starts))
        ]

    def _check_events(self, events: SparseEventCodecEncoderOutput) -> None:
        vectors, mask = events.event_vectors, events.event_mask
        if vectors is None or vectors.ndim != 3 or vectors.shape[-1] != self.config.event_dim:
            raise ValueError(
                f"`event_vectors` must have shape (B, K, {self.config.event_dim}), got "
                f"{None if vectors is None else tuple(vectors.shape)}."
            )
        for name in ("event_onsets", "event_gains", "event_mask"):
            value = getattr(events, name)
            if value is None or value.shape != vectors.shape[:2]:
                raise ValueError(
                    f"`{name}` must have shape {tuple(vectors.shape[:2])}, as many as vectors, got "
                    f"{None if value is None else tuple(value.shape)}."
                )
        if not events.event_onsets[mask].isfinite().all() or (events.event_onsets[mask] < 0).any():
            raise ValueError("`event_onsets` must be finite and 0 or more, in samples from the clip's start.")


def _delay(sound: torch.Tensor, samples: float) -> torch.Tensor:
    """Moves a sound (L,) later by a part of a sample; it is then longer by one."""
    if samples == 0:
        return sound
    length = 2 * len(sound)
    turns = torch.arange(length // 2 + 1, device=sound.device, dtype=torch.float64) * (-2 * math.pi * samples / length)
    spectrum = torch.fft.rfft(sound, length)
    return torch.fft.irfft(spectrum * torch.polar(torch.ones_like(turns), turns).to(spectrum), length)[
        : len(sound) + 1
    ]


def _short_time_spectrum(signal: torch.Tensor, config: Any) -> torch.Tensor:
    """Complex (..., T, F) of a signal (..., n), whose frames begin at multiples of the hop."""
    window = torch.hann_window(config.n_fft, device=signal.device, dtype=signal.dtype)
    frames = signal.unfold(-1, config.n_fft, config.hop_length) * window
    return torch.fft.rfft(frames)[..., : config.num_bins] / math.sqrt(config.n_fft)


def _join(parts: list[SparseEventCodecEncoderOutput], dim: int) -> SparseEventCodecEncoderOutput:
    """Outputs of windows (dim 1) or clips (dim 0) as one."""
    names = [entry.name for entry in fields(SparseEventCodecEncoderOutput)]
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    return SparseEventCodecEncoderOutput(
        **{name: torch.cat(values, dim=dim) for name, values in columns.items() if values[0] is not None}
    )


def _join_clips(clips: list[SparseEventCodecEncoderOutput]) -> SparseEventCodecEncoderOutput:
    """Clips (1, K) as a batch; the shorter ones get places without events, in which nothing changes."""
    num_places = max(clip.event_mask.shape[1] for clip in clips)
    for clip in clips:
        free = num_places - clip.event_mask.shape[1]
        for entry in fields(clip):
            value = getattr(clip, entry.name)
            if value is not None and free:
                is_left = entry.name in ("residual_energy", "residual_spectra")
                filling = value[:, -1:] if is_left else torch.zeros_like(value[:, :1])
                setattr(clip, entry.name, torch.cat([value, filling.expand(-1, free, *value.shape[2:])], dim=1))
    return _join(clips, dim=0)


__all__ = ["SparseEventCodecModel", "SparseEventCodecPreTrainedModel"]
