"""From a planned clip to samples that the model takes, or to the reason why there are none."""

import contextlib
import dataclasses
import math
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from wavtokenizer_hf.audio_input import SILENT_PEAK, Recording, open_audio
from wavtokenizer_hf.corpus.clip import PlannedClip, as_plain_text
from wavtokenizer_hf.corpus.source import Source

# A part may end so much behind its recording: lists are rounded.
_MISSING_S = 0.1
# How Python shows an object without a name: otherwise in each run.
_IN_MEMORY = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")


@dataclasses.dataclass(frozen=True)
class ReadClip:
    """Mono float32 samples (T,) at the codec's rate."""

    samples: np.ndarray


@dataclasses.dataclass(frozen=True)
class LongClip:
    """A clip that is too long to be held as a whole, and is readable as far as its header tells.

    Args:
        sampling_rate: Its own, in Hz.
        num_frames: Its length at that rate.
    """

    sampling_rate: int
    num_frames: int


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a clip has no codes.

    Args:
        kind: One of a few words, for counting.
        reason: A sentence.
    """

    kind: str
    reason: str


Outcome = ReadClip | LongClip | Failure

SILENCE = Failure("silent", "nothing in it is louder than one step of 16 bits")
CANCELLED = Failure("cancelled", "its channels cancel each other out when they are averaged: one may be inverted")


def silence_of(peak: float, mono_peak: float) -> Failure | None:
    """What keeps a clip without a sound from being encoded, by the peaks of its channels and of their mean."""
    if mono_peak > SILENT_PEAK:
        return None
    return CANCELLED if peak > SILENT_PEAK else SILENCE


class ClipReader:
    """Reads clips, in any process: it can be pickled.

    Args:
        feature_extractor: Brings samples to the codec's rate.
        long_samples: A clip of more samples at the codec's rate is left to be read in blocks.
        max_hours: A clip that lasts longer, or says so, is refused.
        keep_silent: Whether clips without a sound are read like others.
        allow_incomplete: Whether to take what there is of recordings that break off, with a warning.
    """

    def __init__(
        self,
        source: Source,
        feature_extractor: Any,
        *,
        long_samples: float = math.inf,
        max_hours: float = math.inf,
        keep_silent: bool = False,
        allow_incomplete: bool = False,
    ):
        self.source = source
        self.feature_extractor = feature_extractor
        self.long_samples = long_samples
        self.max_hours = max_hours
        self.keep_silent = keep_silent
        self.allow_incomplete = allow_incomplete

    def read(self, clip: PlannedClip) -> Outcome:
        """Reads a clip, unless it is a long one.

        Raises:
            FileNotFoundError: If the folder in which a clip was seen is gone, for which the clip is not to blame.
            ImportError: If a package is missing.
        """
        failure = self._seen_before_opening(clip)
        if failure is not None:
            return failure
        try:
            with self._part(clip) as (recording, start, stop):
                rate = recording.sampling_rate
                if (stop - start) / rate * self.feature_extractor.sampling_rate > self.long_samples:
                    return LongClip(rate, stop - start)
                samples = recording.read(start, stop)
            features = self.feature_extractor(samples, sampling_rate=rate, resample=True)
        except Exception as error:
            return failure_of(clip, error)
        silence = None if self.keep_silent else silence_of(recording.peak, recording.mono_peak)
        return silence or ReadClip(features["input_values"][0, 0])  # (1, 1, T) -> (T,)

    def read_blocks(self, clip: PlannedClip, block_s: float) -> Iterator[np.ndarray]:
        """Reads a long clip in blocks (C, n) at its own rate; what goes wrong is raised as it comes."""
        with self._part(clip) as (recording, start, stop):
            yield from recording.blocks(max(1, round(block_s * recording.sampling_rate)), start, stop)

    @contextlib.contextmanager
    def _part(self, clip: PlannedClip) -> Iterator[tuple[Recording, int, int]]:
        """The open recording of a clip, and its first sample and the one behind its last there."""
        source = self.source.open(clip)
        with open_audio(source, name=clip.source, allow_incomplete=self.allow_incomplete) as recording:
            emptiness = recording.emptiness(clip.start_s, clip.end_s)
            if emptiness:
                raise RefusalError("empty", emptiness)
            if clip.end_s is not None and clip.end_s > recording.duration_s + _MISSING_S:
                raise RefusalError(
                    "past the end",
                    f"the part ends at {clip.end_s:g} s, and the recording at {recording.duration_s:g} s",
                )
            start, stop = recording.bounds(clip.start_s, clip.end_s)
            hours = (stop - start) / recording.sampling_rate / 3600
            if hours > self.max_hours:
                raise RefusalError("too long", f"it says that it lasts {hours:.3g} hours")
            yield recording, start, stop

    @staticmethod
    def _seen_before_opening(clip: PlannedClip) -> Failure | None:
        if clip.problem:
            return Failure(clip.problem_kind, clip.problem)
        if not clip.path:
            return None
        try:
            seen = os.stat(clip.path)
        except FileNotFoundError:
            folder = os.path.dirname(clip.path)
            if clip.size is not None and not os.path.isdir(folder):
                raise FileNotFoundError(f"{folder} is gone, and {clip.source} was there at the start") from None
            return Failure("missing", f"no such file: {clip.source}")
        except OSError as error:
            return _unreadable(clip, str(error))
        if not stat.S_ISREG(seen.st_mode):
            return Failure("not a file", "it is a folder, a pipe or a device, and may never end")
        size = clip.size if clip.archive_size is None else clip.archive_size
        if clip.mtime_ns is not None and (seen.st_mtime_ns, seen.st_size) != (clip.mtime_ns, size):
            return Failure("changed", "its file was changed after the run was planned")
        return Failure("empty", "its file holds nothing") if 0 in (seen.st_size, clip.size) else None


class RefusalError(Exception):
    """Carries a `Failure` out of a file that is being read."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def failure_of(clip: PlannedClip, error: Exception) -> Failure:
    """What an error in reading means for a clip; a decoder may raise anything on a broken file.

    Raises:
        ImportError: If that is what the error is.
    """
    if isinstance(error, ImportError):
        raise error
    if isinstance(error, RefusalError):
        return Failure(error.kind, str(error))
    if isinstance(error, MemoryError):
        return Failure("out of memory", "there was not enough memory to read it")
    named = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return _unreadable(clip, f"{named}{error}")


def _unreadable(clip: PlannedClip, reason: str) -> Failure:
    """What a decoder says, on one line, without where this machine keeps the file and what a process calls it."""
    reason = _IN_MEMORY.sub(lambda _: clip.source, " ".join(as_plain_text(reason).split()))
    return Failure("unreadable", reason.replace(clip.path, clip.source) if clip.path else reason)
