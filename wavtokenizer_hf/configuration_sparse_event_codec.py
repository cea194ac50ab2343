# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""Configuration of the codec of sparse events."""

import math
import os
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .codec_files import copy_code_files, stored_form

# What a field that is left out means, by renderer.
_DEFAULTS = {
    "oscillator": {"n_fft": 1024, "hidden_size": 128, "event_dim": 8},
    "wavetable": {"n_fft": 2048, "hidden_size": 512, "event_dim": 32},
}


@strict
class SparseEventCodecConfig(PreTrainedConfig):
    """Geometry of a codec that turns a recording into a few events: a vector, a time and a gain each.

    There are two renderers. `"oscillator"`, the default, is this package's own: damped partials and bands of noise, of
    bounded length, with quantised events. `"wavetable"` is the published model, number for number. A field of 0 takes
    the value that belongs to the renderer, which is given in this order: oscillator, wavetable.

    Args:
        renderer: `"oscillator"` or `"wavetable"`.
        sampling_rate: Samples per second of the waveform, in Hz.
        hop_length: Samples per frame.
        n_fft: Samples that a frame's spectrum covers, from the frame's first one on: 1024, 2048.
        num_frames: Frames of a window. Events begin in its first half; the next window begins where that ends.
        num_events: Events per window, at most.
        event_dim: Width of an event's vector: 8, 32.
        hidden_size: Channels of the encoder: 128, 512.
        dilations: Frames that each of its blocks looks ahead.
        num_mel_bins: Mel bands in which the encoder sees what is left, as logarithms. This and what follows, to
            `max_gain_db`, is the oscillator's; the original's encoder sees the magnitudes of `n_fft / 2` bins.
        picks_per_pass: Events that one pass of the encoder may pick.
        suppression_frames: Frames on either side of a pick from which the same pass takes no other.
        num_partials: Damped partials of an event.
        num_noise_bands: Bands of noise of an event, spaced evenly on the mel scale.
        event_samples: Samples after which an event has ended; at most half a window.
        renderer_hidden_size: Width of the two hidden layers between a vector and the sound's parameters.
        min_f0_hz: Lowest frequency of the first partial.
        max_f0_hz: Highest.
        fsq_levels: Levels of each dimension of a quantised vector, at least 2 each. Their product is the number of
            entries.
        num_gain_levels: Levels of a quantised gain.
        gain_step_db: Decibels between them.
        max_gain_db: The loudest level. A gain of 0 dB is an event of unit energy, whatever its length.
        onset_steps: Onsets that are told apart within a frame; they lie `hop_length / onset_steps` samples apart.
        noise_seed: Seed from which an event's noise follows, together with the event itself, in both renderers.
        num_noise_filters: Filters of the attack and of the resonances. This and what follows is the wavetable's.
        noise_filter_samples: Taps of such a filter.
        noise_expressivity: Filtered attacks that an event mixes over time.
        noise_deformations: Curves that they are mixed by.
        instr_expressivity: Resonances that an event mixes over time; equals `noise_expressivity`.
        num_deformations: Curves that they are mixed by.
        num_resonances: Spectra of resonances.
        num_envelopes: Envelopes of an attack.
        num_decays: Curves of decay.
        num_rooms: Responses of rooms.
        initializer_range: The wavetable's weights start uniformly in plus or minus this.

    Raises:
        StrictDataclassError: For a value of the wrong type or settings that do not fit together; the message says
            which.

    Source: "Toward a Sparse and Interpretable Audio Codec" (arXiv 2505.05654), and its speech model.

    Example:

    ```python
    >>> from wavtokenizer_hf import SparseEventCodecConfig

    >>> config = SparseEventCodecConfig()
    >>> round(config.max_event_rate, 2), round(config.max_bitrate_kbps, 3)
    (10.77, 0.345)
    ```
    """

    model_type = "sparse_event_codec"

    renderer: str = "oscillator"
    sampling_rate: int = 22050
    hop_length: int = 256
    n_fft: int = 0
    num_frames: int = 512
    num_events: int = 32
    event_dim: int = 0
    hidden_size: int = 0
    dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 1)

    num_mel_bins: int = 80
    picks_per_pass: int = 8
    suppression_frames: int = 3
    num_partials: int = 32
    num_noise_bands: int = 12
    event_samples: int = 16384
    renderer_hidden_size: int = 128
    min_f0_hz: int | float = 55.0
    max_f0_hz: int | float = 880.0
    fsq_levels: list[int] | tuple[int, ...] = (4, 4, 4, 4, 4, 4, 4, 4)
    num_gain_levels: int = 64
    gain_step_db: int | float = 1.5
    max_gain_db: int | float = 45.0
    onset_steps: int = 4
    noise_seed: int = 0

    num_noise_filters: int = 64
    noise_filter_samples: int = 128
    noise_expressivity: int = 4
    noise_deformations: int = 32
    instr_expressivity: int = 4
    num_deformations: int = 64
    num_resonances: int = 4096
    num_envelopes: int = 64
    num_decays: int = 64
    num_rooms: int = 38
    initializer_range: int | float = 0.1

    def __post_init__(self, **kwargs):
        # A list compares equal to what JSON gives back; a tuple does not.
        self.dilations, self.fsq_levels = list(self.dilations), list(self.fsq_levels)
        for name, value in _DEFAULTS.get(self.renderer, {}).items():
            if getattr(self, name) == 0:
                setattr(self, name, value)
        super().__post_init__(**kwargs)

    @property
    def num_samples(self) -> int:
        """Samples of a window."""
        return self.num_frames * self.hop_length

    @property
    def selection_frames(self) -> int:
        """Frames of a window in which its events begin: the first half. The next window begins there."""
        return self.num_frames // 2

    @property
    def selection_samples(self) -> int:
        """Samples from one window to the next."""
        return self.selection_frames * self.hop_length

    @property
    def num_bins(self) -> int:
        """Frequencies of a frame's spectrum: without the highest in the original, with it in ours."""
        return self.n_fft // 2 + (self.renderer == "oscillator")

    @property
    def onset_step_samples(self) -> int:
        """Samples between two onsets that the codes tell apart."""
        return self.hop_length // self.onset_steps

    @property
    def codebook_sizes(self) -> tuple[int, int]:
        """Values of the two codes of an event: of onset and gain, and of the vector."""
        onsets = self.selection_frames * self.onset_steps
        return onsets * self.num_gain_levels, math.prod(self.fsq_levels)

    @property
    def max_event_rate(self) -> float:
        """Events per second where every window is full."""
        return self.num_events * self.sampling_rate / self.selection_samples

    @property
    def max_bitrate_kbps(self) -> float:
        """Bits of the codes of a second where every window is full, in thousands, before any entropy coding."""
        return self.max_event_rate * sum(math.log2(size) for size in self.codebook_sizes) / 1000

    @property
    def num_samples_ahead(self) -> int:
        """Samples after a window's start that its events depend on."""
        return self.num_samples + self.n_fft - self.hop_length

    @property
    def num_samples_before(self) -> int:
        """Samples before a window's start that its events depend on: frames that reach into it, which ours count."""
        return self.n_fft - self.hop_length if self.renderer == "oscillator" else 0

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; see `stored_form`."""
        return stored_form(super().to_dict(), {})

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """As in transformers; a configuration that names code files in `auto_map` takes them along."""
        copy_code_files(save_directory, getattr(self, "auto_map", None))
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def validate_architecture(self):
        """Checks that the settings fit together; called by transformers after construction and before saving."""
        if self.renderer not in _DEFAULTS:
            raise ValueError(f"`renderer` must be 'oscillator' or 'wavetable', got {self.renderer!r}.")
        counts = (
            "sampling_rate hop_length n_fft num_frames num_events picks_per_pass event_dim hidden_size num_partials "
            "num_mel_bins num_noise_bands renderer_hidden_size num_gain_levels onset_steps num_noise_filters "
            "noise_filter_samples noise_expressivity noise_deformations instr_expressivity num_deformations "
            "num_resonances num_envelopes num_decays num_rooms"
        )
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.suppression_frames < 0:
            raise ValueError(f"`suppression_frames` must be 0 or more, got {self.suppression_frames}.")
        if self.num_frames % 2 or self.n_fft % 2 or self.n_fft % self.hop_length:
            raise ValueError(
                "`num_frames` and `n_fft` must be even and `hop_length` must divide `n_fft`, got "
                f"{self.num_frames}, {self.n_fft} and {self.hop_length}."
            )
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"`dilations` must hold integers of 1 and more, got {self.dilations}.")
        if self.renderer == "oscillator":
            self._validate_oscillator()
        elif self.noise_expressivity != self.instr_expressivity:
            raise ValueError(
                "One filter per resonance: `noise_expressivity` and `instr_expressivity` must be equal, got "
                f"{self.noise_expressivity} and {self.instr_expressivity}."
            )
        elif self.num_samples % 1024 or self.num_samples < 8192:
            raise ValueError(
                "The wavetable needs windows of a multiple of 1024 samples, 8192 or more; `num_frames * hop_length` "
                f"is {self.num_samples}."
            )

    def _validate_oscillator(self) -> None:
        if not self.fsq_levels or min(self.fsq_levels) < 2:
            raise ValueError(f"`fsq_levels` must hold integers of 2 and more, got {self.fsq_levels}.")
        if len(self.fsq_levels) != self.event_dim:
            raise ValueError(
                f"`fsq_levels` has a number for each dimension of a vector: `event_dim` is {self.event_dim}, got "
                f"{self.fsq_levels}."
            )
        if self.hop_length % self.onset_steps:
            raise ValueError(f"`onset_steps` must divide `hop_length`, got {self.onset_steps}, {self.hop_length}.")
        if self.event_samples % 1024 or not 1024 <= self.event_samples <= self.selection_samples - self.n_fft:
            raise ValueError(
                "`event_samples` must be a multiple of 1024 and at most half a window less `n_fft`, "
                f"{self.selection_samples - self.n_fft}, got {self.event_samples}."
            )
        if not 0 < self.min_f0_hz < self.max_f0_hz < self.sampling_rate / 2:
            raise ValueError(
                "`min_f0_hz` and `max_f0_hz` must lie in this order between 0 and half the sampling rate, got "
                f"{self.min_f0_hz} and {self.max_f0_hz}."
            )
        if not self.gain_step_db > 0:
            raise ValueError(f"`gain_step_db` must be above 0, got {self.gain_step_db}.")


__all__ = ["SparseEventCodecConfig"]
