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
from .rendering_sparse_event_codec import WavetableRenderer

_MEL_FLOOR = 1e-4
# The part of a window's energy that an event must take away to be told from rounding.
_LEAST_DROP = 1e-6
# What else than the gain of least squares is tried where spectra cancel: 3 and 6 dB less.
_GAIN_FACTORS_DB = (0.0, -3.0, -6.0)


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

    event_vectors: torch.Tensor | None = None
    event_onsets: torch.Tensor | None = None
    event_gains: torch.Tensor | None = None
    event_mask: torch.Tensor | None = None
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

    audio_values: torch.Tensor | None = None
    event_values: torch.Tensor | None = None
    event_starts: torch.Tensor | None = None


@dataclass
class SparseEventCodecOutput(SparseEventCodecEncoderOutput):
    """What `forward` returns: the reconstruction, as long as the input, and the events it was made from.

    Args:
        audio_values: (B, 1, T), 0 past a clip's end.
    """

    audio_values: torch.Tensor | None = None


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
        self.input_projection = nn.Conv1d(config.num_mel_bins or config.num_bins, config.hidden_size, 1)
        self.blocks = nn.ModuleList([SparseEventCodecBlock(config.hidden_size, d) for d in config.dilations])
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
        self.levels = torch.tensor(config.fsq_levels)
        self.places = torch.tensor([math.prod(config.fsq_levels[:i]) for i in range(len(config.fsq_levels))])

    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        """Brings the encoder's numbers (..., D) into -1..1."""
        return vectors.tanh()

    def round(self, vectors: torch.Tensor) -> torch.Tensor:
        """The nearest levels to vectors (..., D) in -1..1; the gradient passes straight through."""
        nearest = self.vectors_of(self.vector_codes(vectors.detach())).to(vectors.dtype)
        return nearest + (vectors - vectors.detach()) if vectors.requires_grad else nearest

    def vector_codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """int64 (...) from (..., D) in -1..1."""
        steps = (self.levels - 1).to(vectors.device)
        digits = ((vectors.double().nan_to_num() + 1) / 2 * steps).round().clamp(min=0)
        return (torch.minimum(digits, steps).long() * self.places.to(vectors.device)).sum(dim=-1)

    def vectors_of(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 (..., D) from (...)."""
        levels, places = self.levels.to(codes.device), self.places.to(codes.device)
        digits = codes[..., None] // places % levels
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


def _energy(spectrum: torch.Tensor) -> torch.Tensor:
    return spectrum.detach().square().sum(dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ models


class SparseEventCodecPreTrainedModel(PreTrainedModel):
    """Base class: configuration, initialisation, loading and saving."""

    config: SparseEventCodecConfig
    base_model_prefix = "sparse_event_codec"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["SparseEventCodecBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        """As the original starts: uniform weights, tables of their own, torch's defaults under weight norm."""
        width = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            if "weight" in module._parameters and module.weight is not None:
                init.uniform_(module.weight, -width, width)
            init.zeros_(module.bias)
        elif isinstance(module, nn.utils.parametrize.ParametrizationList):
            # As torch draws a convolution's weight, of which weight norm then takes the length.
            init.kaiming_uniform_(module.original1, a=math.sqrt(5))
            init.copy_(module.original0, module.original1.flatten(1).norm(dim=1)[:, None, None])
        elif isinstance(module, WavetableRenderer):
            module.init_tables()


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
        self.renderer = WavetableRenderer(config)
        self.decomposition = SpectralSubtraction(self)
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
        if not windows:
            windows.append(self.place_events(_no_events(clip, self.config.event_dim), 0, 0))
        output = _join(windows, dim=1)
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
        self._check_events(events)
        if length is not None and length < 1:
            raise ValueError(f"`length` must be at least 1 sample, got {length}.")
        sounds: list[list[tuple[int, int, torch.Tensor]]] = []  # per clip: place, first sample, (L,)
        for clip, mask in enumerate(events.event_mask):
            places = mask.nonzero()[:, 0]
            sounds.append(
                [
                    (place, start, sound)
                    for place, (start, sound) in zip(
                        places.tolist(),
                        self._sounds(
                            events.event_vectors[clip, places],
                            events.event_onsets[clip, places],
                            events.event_gains[clip, places],
                            self.config.noise_seed if seed is None else seed,
                            None if excitation_noise is None else excitation_noise[clip, places],
                        ),
                        strict=True,
                    )
                ]
            )
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

    def _sounds(
        self,
        vectors: torch.Tensor,
        onsets: torch.Tensor,
        gains: torch.Tensor,
        seed: int,
        excitation_noise: torch.Tensor | None,
    ) -> list[tuple[int, torch.Tensor]]:
        """Where each of E events begins, and its sound."""
        frames = (onsets // self.config.hop_length).long()
        in_window = frames % self.config.selection_frames
        starts = ((frames - in_window) * self.config.hop_length).tolist()
        if excitation_noise is None and len(starts):
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


def _short_time_spectrum(signal: torch.Tensor, config: SparseEventCodecConfig) -> torch.Tensor:
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
