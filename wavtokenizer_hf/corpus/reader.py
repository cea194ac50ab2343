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

from wavtokenizer_hf.corpus.clip import PlannedClip, as_plain_text
from wavtokenizer_hf.corpus.source import Source
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor, open_audio

# One step of 16 bits: what stays below it is silence, with or without dither.
SILENT_PEAK = 2.0**-15
# Some formats only estimate their length.
_MISSING_S = 0.1
# After each read, soundfile seeks to where the decoder already is. An MP3 decoder then goes on undisturbed only where
# a frame begins, and these have 1152 samples or half of that.
_MP3_FRAME = 1152
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


class ClipReader:
    """Reads clips, in any process: it can be pickled.

    Args:
        feature_extractor: Brings samples to the codec's rate.
        long_samples: A clip of more samples at the codec's rate is left to be read in pieces.
        max_hours: A clip that lasts longer, or says so, is refused.
        keep_silent: Whether clips without a sound are read like others.
    """

    def __init__(
        self,
        source: Source,
        feature_extractor: WavTokenizerFeatureExtractor,
        *,
        long_samples: float = math.inf,
        max_hours: float = math.inf,
        keep_silent: bool = False,
    ):
        self.source = source
        self.feature_extractor = feature_extractor
        self.long_samples = long_samples
        self.max_hours = max_hours
        self.keep_silent = keep_silent

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
            with self._section(clip) as section:
                if section.duration_s * self.feature_extractor.sampling_rate > self.long_samples:
                    return LongClip(section.rate, section.num_frames)
                samples = section.read()
            features = self.feature_extractor(samples, sampling_rate=section.rate, resample=True)
        except Exception as error:
            return failure_of(clip, error)
        samples = features["input_values"][0, 0]  # (1, 1, T) -> (T,)
        return SILENCE if np.abs(samples).max() <= SILENT_PEAK and not self.keep_silent else ReadClip(samples)

    def read_blocks(self, clip: PlannedClip, block_s: float) -> Iterator[np.ndarray]:
        """Reads a long clip in pieces (C, n) at its own rate; what goes wrong is raised as it comes."""
        with self._section(clip) as section:
            yield from section.blocks(block_s)

    @contextlib.contextmanager
    def _section(self, clip: PlannedClip) -> Iterator["_Section"]:
        with open_audio(self.source.open(clip)) as file:
            rate = int(file.samplerate)
            start = round(clip.start_s * rate)
            end = file.frames if clip.end_s is None else min(file.frames, round(clip.end_s * rate))
            if clip.end_s is not None and clip.end_s > file.frames / rate + _MISSING_S:
                raise RefusalError(
                    "past the end", f"the part ends at {clip.end_s:g} s, and the recording at {file.frames / rate:g} s"
                )
            section = _Section(file, rate, start, end - start)
            if section.num_frames <= 0:
                raise RefusalError("empty", f"the recording ends at {file.frames / rate:g} s and has no sample")
            if section.duration_s > 3600 * self.max_hours:
                raise RefusalError("too long", f"it says that it lasts {section.duration_s / 3600:.3g} hours")
            yield section

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


@dataclasses.dataclass(frozen=True)
class _Section:
    """The part of an open file that a clip is."""

    file: Any
    rate: int
    start: int
    num_frames: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.rate

    def read(self) -> np.ndarray:
        """All of it, (C, N)."""
        (samples,) = self._pieces(self.num_frames)
        return samples

    def blocks(self, block_s: float) -> Iterator[np.ndarray]:
        """Pieces (C, n)."""
        first = _MP3_FRAME - self.start % _MP3_FRAME
        return self._pieces(first, _MP3_FRAME * max(1, round(block_s * self.rate / _MP3_FRAME)))

    def _pieces(self, first: int, others: int = 0) -> Iterator[np.ndarray]:
        if self.start:
            self.file.seek(self.start)
        num_read = 0
        while num_read < self.num_frames:
            wanted = min(others if num_read else first, self.num_frames - num_read)
            block = self.file.read(wanted, dtype="float32", always_2d=True)
            num_read += len(block)
            if len(block):
                yield block.T  # (n, C) -> (C, n)
            if len(block) < wanted:
                break
        if num_read < self.num_frames - _MISSING_S * self.rate or not num_read:
            raise ValueError(f"it breaks off after {num_read / self.rate:g} of {self.duration_s:g} s")


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
    reason = _IN_MEMORY.sub(clip.source, " ".join(as_plain_text(reason).split()))
    return Failure("unreadable", reason.replace(clip.path, clip.source) if clip.path else reason)
