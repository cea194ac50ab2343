"""What is measured: a recording and what a codec made of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from wavtokenizer_hf.audio_preparation import prepare
from wavtokenizer_hf.codecs.spec import CodecSpec

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Coding:
    """How a codec came from the one to the other.

    Args:
        audio_codes: (L * Q,), flattened as `CodecSpec.flatten` does it.
        spec: Of the codec.
        encode_s: Time that encoding took, in seconds, for this clip alone.
        decode_s: The same for decoding.
    """

    audio_codes: torch.Tensor
    spec: CodecSpec
    encode_s: float
    decode_s: float


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference and the estimate of it, at one rate and of one length.

    Args:
        name: What the clip is called in results.
        reference: (T,) float32, full scale at 1.
        estimate: (T,) float32.
        sampling_rate: Of both, in Hz.
        kind: What is heard, such as speech, music or sound; empty if unknown.
        transcript: What is said; empty if unknown.
        coding: `None` where the estimate came without its codes.
        frame_rate: Of the codec that made the estimate, in Hz; `None` if unknown.
    """

    name: str
    reference: torch.Tensor
    estimate: torch.Tensor
    sampling_rate: int
    kind: str = ""
    transcript: str = ""
    coding: Coding | None = None
    frame_rate: float | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def duration_s(self) -> float:
        return len(self.reference) / self.sampling_rate

    def at(self, sampling_rate: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Reference and estimate at a rate in Hz, each (T',); `None` is their own. Resampled once for all metrics."""
        if sampling_rate in (None, self.sampling_rate):
            return self.reference, self.estimate
        if sampling_rate not in self._kept:
            resampled = [
                _resample(clip, self.sampling_rate, sampling_rate) for clip in (self.reference, self.estimate)
            ]
            self._kept[sampling_rate] = tuple(resampled)
        return self._kept[sampling_rate]

    def once(self, function: Callable[["Pair"], T]) -> T:
        """What the function gives for this pair, computed at the first call, for metrics that share a step."""
        if function not in self._kept:
            self._kept[function] = function(self)
        return self._kept[function]


def _resample(clip: torch.Tensor, sampling_rate: int, target_rate: int) -> torch.Tensor:
    """(T,) at one rate to (T',) at another, with the codec's own resampler."""
    return torch.from_numpy(prepare(clip, sampling_rate, target_rate))
