# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""The one reader of recordings: wholly, in blocks, or a part, and always the same samples.

libsndfile decodes what it knows, and FFmpeg (through PyAV, an optional extra) what it does not. What neither of them
tells is found here, from headers alone: where a stream really ends, whether another one follows, and where decoding
must begin so that a part of an MP3 is what the whole has there.
"""

import contextlib
import dataclasses
import errno
import functools
import importlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

# More channels than any microphone array in use.
MAX_CHANNELS = 64
# Rates of anything that is heard. Others come from damaged headers, and resampling them would fill the memory.
MIN_RATE, MAX_RATE = 1000, 1_536_000
# One step of 16 bits: what stays below it is silence, with or without dither.
SILENT_PEAK = 2.0**-15

EXTRA = "python -m pip install 'wavtokenizer-hf[audio]'"

# Beyond this peak, floats are more likely integers that were never scaled than sound that is too loud.
_FAR_ABOVE_FULL_SCALE = 10.0
# FLAC packs silence into fewest bytes: 65,535 samples into 14. A header that promises more is wrong.
_MAX_SAMPLES_PER_BYTE = 16384
# Samples that a decoder is asked for at once, always from a multiple of it on: where a broken stream ends must not
# depend on how it is read.
_GRAIN = 4096
_SCANNED_BYTES = 1 << 20
_READABLE = "WAV, FLAC, OGG (Vorbis, Opus) and MP3"

# Encodings whose samples libsndfile finds wherever it begins. All others are decoded from their start.
_SEEKABLE = {
    *("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    *("IMA_ADPCM", "MS_ADPCM", "VORBIS", "OPUS"),
}


class RecordingWarning(UserWarning):
    """Something about a recording that a listener would want to know, and that does not keep it from being read."""


class Recording:
    """An open recording: one stream of samples, or several that lie one after the other in a file.

    Made by `open_audio`.

    Attributes:
        name: What messages call it.
        sampling_rate: In Hz.
        num_channels: Of the file.
        decoder: The library that decodes it, with its version.
        peak: Largest absolute sample so far that was read.
        mono_peak: The same of the mean over channels.
    """

    def __init__(self, name: str, streams: "list[_Stream]", allow_incomplete: bool, notes: list[str]):
        self.name = name
        self.sampling_rate, self.num_channels = streams[0].rate, streams[0].num_channels
        self.decoder = streams[0].decoder
        self.peak = self.mono_peak = 0.0
        self._streams = streams
        self._allow_incomplete = allow_incomplete
        self._is_level_told = False
        for place, stream in enumerate(streams):
            form = stream.rate, stream.num_channels
            if form != (self.sampling_rate, self.num_channels):
                raise ValueError(
                    f"{name} holds recordings of different kinds, one after the other: {self.sampling_rate} Hz with "
                    f"{self.num_channels} channels, then {form[0]} Hz with {form[1]}. Split it first."
                )
            if stream.problem:
                self._tell_incomplete(place, stream.num_samples or 0, stream.problem)
        for note in notes:
            warnings.warn(f"{name}: {note}", RecordingWarning, stacklevel=4)

    @functools.cached_property
    def num_samples(self) -> int:
        """Length in samples; where no header tells, the recording is decoded once to count them.

        Raises:
            ValueError: As `read`.
        """
        lengths = [stream.num_samples for stream in self._streams]
        if None not in lengths:
            return sum(length for length in lengths if length is not None)
        return sum(len(chunk) for chunk in self._chunks(0, None))

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sampling_rate

    def bounds(self, start_s: float = 0.0, end_s: float | None = None) -> tuple[int, int]:
        """The samples of a part that is given in seconds, from the first to behind the last.

        Raises:
            ValueError: If there is none.
        """
        reason = self.emptiness(start_s, end_s)
        if reason:
            raise ValueError(reason)
        start = round(start_s * self.sampling_rate)
        stop = self.num_samples if end_s is None else min(self.num_samples, round(end_s * self.sampling_rate))
        return start, stop

    def emptiness(self, start_s: float = 0.0, end_s: float | None = None) -> str:
        """Why a part holds no sample; empty if it holds some."""
        start = round(start_s * self.sampling_rate)
        if not self.num_samples:
            return f"{self.name} is empty: it has no sample"
        if start >= self.num_samples:
            return f"{self.name} ends at {self.duration_s:g} s, and the part begins at {start_s:g} s"
        if end_s is not None and round(end_s * self.sampling_rate) <= start:
            return f"{self.name} has no sample from {start_s:g} to {end_s:g} s"
        return ""

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Reads a part, or all of it: what cutting the whole gives, without reading the rest.

        Args:
            start: First sample.
            stop: Behind the last sample; `None` is the end. A part that reaches beyond the end stops there.

        Returns:
            float32 (channels, num_samples), full scale at 1.

        Raises:
            ValueError: If the recording breaks off in it, unless that was allowed.
        """
        chunks = list(self._chunks(start, stop))
        if not chunks:
            return np.zeros((self.num_channels, 0), dtype=np.float32)
        return np.ascontiguousarray(np.concatenate(chunks).T)  # (N, C) -> (C, N)

    def blocks(self, num_samples: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """As `read`, in blocks of `num_samples`; the last one may be shorter."""
        held: list[np.ndarray] = []
        num_held = 0
        for chunk in self._chunks(start, stop):
            held.append(chunk)
            num_held += len(chunk)
            if num_held >= num_samples:
                samples = np.concatenate(held)
                whole = num_held - num_held % num_samples
                for first in range(0, whole, num_samples):
                    yield np.ascontiguousarray(samples[first : first + num_samples].T)  # (N, C) -> (C, N)
                held, num_held = [samples[whole:]], num_held - whole
        if num_held:
            yield np.ascontiguousarray(np.concatenate(held).T)

    def _chunks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """Pieces (n, C) of a part."""
        first = 0  # of the stream, in the recording
        for place, stream in enumerate(self._streams):
            if stop is not None and first >= stop:
                return
            at = max(0, start - first)
            if stream.num_samples is not None and at >= stream.num_samples:
                first += stream.num_samples
                continue
            end = first + at
            problem = ""
            try:
                for chunk in stream.chunks(at):
                    chunk = chunk if stop is None else chunk[: stop - end]
                    end += len(chunk)
                    if len(chunk):
                        self._listen(chunk)
                        yield chunk
                    if end == stop:
                        self._tell_cancelled()
                        return
            except _BrokenOffError as error:
                problem = str(error) or "cannot be decoded"
            if stream.promised is not None and end - first < stream.promised:
                problem = problem or "ends"
            if problem and not stream.problem:
                self._tell_incomplete(place, end - first, problem)
            first = end
        self._tell_cancelled()

    def _tell_cancelled(self) -> None:
        if self.num_channels > 1 and self.mono_peak <= SILENT_PEAK < self.peak:
            warnings.warn(
                f"{self.name}: its channels cancel each other out: their mean is silent, with a peak of "
                f"{self.peak:.3g} in them. One may have been inverted.",
                RecordingWarning,
                stacklevel=4,
            )

    def _listen(self, chunk: np.ndarray) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            self.peak = max(self.peak, float(np.abs(chunk).max()))
            if self.num_channels > 1:
                self.mono_peak = max(self.mono_peak, float(np.abs(chunk.mean(axis=1)).max()))
            else:
                self.mono_peak = self.peak
        if not self._is_level_told:
            self._is_level_told = warn_of_level(self.name, self.peak)

    def _tell_incomplete(self, place: int, num_read: int, problem: str) -> None:
        rate, promised = self.sampling_rate, self._streams[place].promised
        before = sum(stream.num_samples or 0 for stream in self._streams[:place])
        there = f"{(before + num_read) / rate:g}"
        of = f"{there} s" if promised is None else f"{there} of {(before + promised) / rate:g} s"
        message = f"{self.name} is cut short or damaged: it {problem} after {of}"
        if not self._allow_incomplete:
            raise ValueError(f"{message} (allow_incomplete takes what is there)")
        warnings.warn(f"{message}, and what is there is taken", RecordingWarning, stacklevel=5)


@contextlib.contextmanager
def open_audio(
    source: str | os.PathLike | BinaryIO, *, name: str | None = None, allow_incomplete: bool = False
) -> Iterator[Recording]:
    """Opens a recording, of which parts are to be read; `read_audio` reads a whole one.

    Args:
        source: A path, or a binary file that can seek.
        name: What messages call it; `None` takes the path.
        allow_incomplete: Take what there is of a recording that breaks off or lacks something, with a warning,
            instead of refusing it.

    Returns:
        The `Recording`, closed when the block ends.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it ends before its header says, with how much there is of how much; if it is a folder, a pipe,
            a device, empty, or not readable audio. Every message names the recording.
        ImportError: If soundfile is missing or broken. The extra that a format needs is a ValueError: it costs one
            recording.

    Warns:
        RecordingWarning: Of a header that was never finished, of bytes behind the end that no header explains, of
            floats far above full scale, and of channels that cancel each other out.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            name = name or os.fspath(source)
            raw: BinaryIO = stack.enter_context(_open_file(source, name))
        else:
            raw, name = source, name or getattr(source, "name", None) or "the recording"
        name = str(name)
        file = _Bytes(raw)
        if not file.size:
            raise ValueError(f"{name} is empty: its file holds nothing")
        notes: list[str] = []
        streams = [_checked(stream, file.size, name) for stream in _streams(file, name, notes)]
        yield Recording(name, streams, allow_incomplete, notes)


def read_audio(
    source: str | os.PathLike | BinaryIO,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    name: str | None = None,
    allow_incomplete: bool = False,
) -> tuple[np.ndarray, int]:
    """Reads a recording, or a part of it, at its own rate and with its own channels.

    Args:
        source: See `open_audio`, as `name` and `allow_incomplete`.
        start_s: Where the part begins, in seconds; the nearest sample counts.
        end_s: Where it ends; `None` is the recording's end.

    Returns:
        Samples, float32 of shape (channels, num_samples) with full scale at 1, and the sampling rate in Hz.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `open_audio`; ValueError also for a part without a sample.
    """
    with open_audio(source, name=name, allow_incomplete=allow_incomplete) as recording:
        is_part = start_s or end_s is not None
        samples = recording.read(*(recording.bounds(start_s, end_s) if is_part else ()))
        if not samples.shape[1]:
            raise ValueError(f"{recording.name} is empty: it has no sample{' in this part' if is_part else ''}")
        return samples, recording.sampling_rate


def read_blocks(
    source: str | os.PathLike | BinaryIO, block_s: float = 10.0, *, allow_incomplete: bool = False
) -> Iterator[np.ndarray]:
    """Reads a recording of any length a block at a time.

    Args:
        source: As in `open_audio`, as `allow_incomplete`.
        block_s: Seconds per block; the last one may be shorter.

    Returns:
        Blocks, float32 (channels, num_samples), which together are what `read_audio` gives.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `open_audio` does.
    """
    with open_audio(source, allow_incomplete=allow_incomplete) as recording:
        yield from recording.blocks(max(1, round(block_s * recording.sampling_rate)))


def check_rate(sampling_rate: float, name: str, least: int = MIN_RATE) -> int:
    """A sampling rate as a whole number.

    Args:
        least: Hz; a file below `MIN_RATE` is no sound, and what a caller hands over is the caller's.

    Raises:
        ValueError: If it is none, or none of sound; the message begins with `name`.
    """
    if int(sampling_rate) != sampling_rate or not least <= sampling_rate <= MAX_RATE:
        raise ValueError(
            f"{name}: a sampling rate must be a whole number of Hz from {least} to {MAX_RATE}, got {sampling_rate}"
        )
    return int(sampling_rate)


def warn_of_level(name: str, peak: float) -> bool:
    """Warns of floats that are far above full scale, and tells whether they are."""
    is_far = _FAR_ABOVE_FULL_SCALE < peak < np.inf
    if is_far:
        warnings.warn(
            f"{name}: samples reach {peak:,.0f} times full scale, which is 1 for floats: they may be integers that "
            "were never scaled",
            RecordingWarning,
            stacklevel=5,
        )
    return is_far


def import_for(purpose: str, name: str) -> ModuleType:
    """Imports an optional package at the moment it is needed (by name: the Hub's scanner demands what it sees)."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # the last of torchaudio, for another CUDA than torch's
        repair = "python -m pip install --force-reinstall " + (
            "--no-deps torchaudio==2.11.0, or torchaudio==2.11.1 from torch 2.13 on, or the one of a CPU-only torch"
            if name.startswith("torchaudio")
            else name
        )
        raise ImportError(
            f"{name} is needed for {purpose} and does not load: {error}. Repair it with: {repair}"
        ) from error


def versions() -> dict[str, str]:
    """What decodes and resamples here, with versions: codes of an MP3 depend on them.

    Returns:
        `reader` and `resampler`; empty where a package is missing.
    """
    readers = [_version_of("soundfile"), _version_of("av")]
    return {"reader": ", ".join(filter(None, readers)), "resampler": _version_of("torchaudio")}


@functools.cache
def _version_of(name: str) -> str:
    try:
        package = importlib.import_module(name)
    except (ImportError, OSError):
        return ""
    version = f"{name} {package.__version__}"
    return f"{version} (libsndfile {package.__libsndfile_version__})" if name == "soundfile" else version


def _open_file(path: str | os.PathLike, name: str) -> BinaryIO:
    """Opens a regular file, and says what anything else is. Nothing is opened that could block."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"No such audio file: {name}") from None
    except NotADirectoryError:
        raise FileNotFoundError(f"No such audio file: {name} (a part of its path is a file)") from None
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        reason = "it is a link that leads in a circle" if getattr(error, "errno", 0) == errno.ELOOP else error
        raise ValueError(f"Cannot read {name} as audio: {reason}") from None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(mode):
        raise ValueError(f"Expected an audio file, got {kinds.get(stat.S_IFMT(mode), 'a device')}: {name}")
    return open(path, "rb", buffering=0)


def _checked(stream: "_Stream", num_bytes: int, name: str) -> "_Stream":
    check_rate(stream.rate, name)
    if not 1 <= stream.num_channels <= MAX_CHANNELS:
        raise ValueError(f"{name}: from 1 to {MAX_CHANNELS} channels are read, and it has {stream.num_channels}")
    if stream.promised is not None and stream.promised > _MAX_SAMPLES_PER_BYTE * num_bytes:
        raise ValueError(
            f"{name} says that it holds {stream.promised:,} samples, for which its {num_bytes:,} bytes are too few: "
            "its header is damaged"
        )
    return stream


class _BrokenOffError(Exception):
    """A decoder cannot go on."""


class _Bytes:
    """A file, read wherever it is wanted."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self.size = raw.seek(0, os.SEEK_END)

    def at(self, position: int, num_bytes: int) -> bytes:
        self._raw.seek(position)
        return self._raw.read(max(0, num_bytes))

    def find(self, pattern: bytes, start: int) -> int:
        """Where a pattern lies from `start` on; -1 if nowhere."""
        while start < self.size:
            window = self.at(start, _SCANNED_BYTES + len(pattern))
            place = window.find(pattern)
            if place >= 0:
                return start + place
            start += _SCANNED_BYTES
        return -1


class _View(io.RawIOBase):
    """A file that is put together from pieces of another one and from other bytes.

    Args:
        pieces: Bytes, or (start, stop) in the file.
    """

    def __init__(self, file: _Bytes, pieces: list[bytes | tuple[int, int]]):
        super().__init__()
        self._file = file
        self._pieces = [piece for piece in pieces if (len(piece) if isinstance(piece, bytes) else piece[1] > piece[0])]
        lengths = [len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in self._pieces]
        self._ends = np.cumsum([0, *lengths])
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: int(self._ends[-1])}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        place = int(np.searchsorted(self._ends, self._position, side="right")) - 1
        if place >= len(self._pieces):
            return 0
        piece, skipped = self._pieces[place], self._position - int(self._ends[place])
        if isinstance(piece, bytes):
            content = piece[skipped : skipped + len(buffer)]
        else:
            content = self._file.at(piece[0] + skipped, min(len(buffer), piece[1] - piece[0] - skipped))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


@dataclasses.dataclass
class _Stream:
    """One stream of samples.

    Args:
        num_samples: How many there are; `None` if only decoding tells.
        promised: How many its header says that there are; `None` if it says nothing.
        decoder: The library that decodes it.
        problem: What is known to be wrong before a sample is decoded; empty if nothing.
    """

    rate: int
    num_channels: int
    num_samples: int | None
    promised: int | None
    decoder: str
    problem: str = ""

    def chunks(self, start: int) -> Iterator[np.ndarray]:
        """Samples (n, C) from `start` to the end of what is there.

        Raises:
            _BrokenOffError: Where the decoder cannot go on.
        """
        raise NotImplementedError


def _streams(file: _Bytes, name: str, notes: list[str]) -> "list[_Stream]":
    """The streams of a file, one after the other."""
    begin = _behind_id3(file)
    magic = file.at(begin, 16)
    if magic[:4] == b"fLaC":
        return _flac_streams(file, begin, name, notes)
    if magic[:4] == b"OggS":
        return _ogg_streams(file, begin, name, notes)
    if magic[:4] == b"RIFF" and magic[8:12] == b"WAVE":
        return _wav_streams(file, begin, name, notes)
    container = _container(magic)
    runs = [] if container else _mp3_runs(file, begin, notes)
    if runs:
        return [_Mp3Stream(file, run, name, notes) for run in runs]
    stream = _AvStream(file, container, name) if container else _sndfile_stream(file, [(0, file.size)], name)
    if container not in _REPEATING and file.find(magic, begin + 16) >= 0:
        raise ValueError(
            f"{name} begins anew in its middle: files were put behind one another, which is read of WAV, FLAC, OGG "
            "and MP3 alone. Split it first."
        )
    return [stream]


def _behind_id3(file: _Bytes) -> int:
    begin = 0
    while (behind := _behind_id3_at(file, begin)) > begin:
        begin = behind
    return begin


def _behind_id3_at(file: _Bytes, position: int) -> int:
    """Where a tag ends that begins there; the same place if none does."""
    tag = file.at(position, 10)
    if tag[:3] != b"ID3" or len(tag) < 10 or max(tag[6:10]) > 127:
        return position
    length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
    return position + 10 + length + (10 if tag[5] & 16 else 0)


# --- libsndfile


class _SndfileStream(_Stream):
    """Decoded by libsndfile."""

    def __init__(self, file: _Bytes, pieces: list[bytes | tuple[int, int]], name: str):
        self._open = functools.partial(_open_sndfile, file, pieces, name)
        with self._open() as sound:
            frames = int(sound.frames)
            self.subtype = str(sound.subtype)
            self.log = str(sound.extra_info)
            self.is_seekable = self.subtype in _SEEKABLE
            self.last_seek = 1 << 62
            known = frames if frames < 1 << 62 else None
            super().__init__(int(sound.samplerate), int(sound.channels), known, known, _version_of("soundfile"))

    def chunks(self, start: int) -> Iterator[np.ndarray]:
        first = min(start, self.last_seek) // _GRAIN * _GRAIN if self.is_seekable and not self.problem else 0
        with contextlib.ExitStack() as stack:
            sound = stack.enter_context(self._open())
            if first > 0:
                try:
                    sound.seek(first)
                except RuntimeError:  # also for what lies behind the end of a FLAC: from its start it reads well
                    sound, first = stack.enter_context(self._open()), 0
            yield from _decoded(sound, start - first, None if self.num_samples is None else self.num_samples - first)


def _open_sndfile(file: _Bytes, pieces: list[bytes | tuple[int, int]], name: str) -> Any:
    soundfile = import_for("reading audio files", "soundfile")
    try:
        return _sequential(soundfile)(io.BufferedReader(_View(file, pieces), 1 << 16))
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        taken = next(filter(os.path.exists, _RESOURCE_FORKS), None)
        cause = f"libsndfile mixes it up with {os.path.abspath(taken)}: work in another folder" if taken else ""
        raise _unreadable(name, cause or _reason(error)) from error


# Where libsndfile looks, from the folder that the process works in, for a part of any file that it does not know at
# once, as it does an MP3.
_RESOURCE_FORKS = ("._", ".AppleDouble/")


@functools.cache
def _sequential(soundfile: ModuleType) -> type:
    base: Any = soundfile.SoundFile

    class Sequential(base):
        """soundfile seeks after every read if it can, and that damages what an MP3 decoder gives next."""

        def seekable(self) -> bool:
            return False

    return Sequential


def _decoded(sound: Any, num_skipped: int, num_left: int | None) -> Iterator[np.ndarray]:
    """Everything from where a sound file stands, but for its first samples, in pieces (n, C)."""
    while num_left is None or num_left > 0:
        wanted = _GRAIN if num_left is None else min(_GRAIN, num_left)
        try:
            chunk = sound.read(wanted, dtype="float32", always_2d=True)
        except RuntimeError as error:
            raise _BrokenOffError(f"cannot be decoded ({_reason(error)})") from error
        num_left = None if num_left is None else num_left - len(chunk)
        skipped = min(num_skipped, len(chunk))
        num_skipped -= skipped
        if len(chunk) > skipped:
            yield chunk[skipped:]
        if len(chunk) < wanted:
            return


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", "") or re.sub(r"^Error opening <.*?>: ", "", str(error))
    return text.strip().rstrip(".") or type(error).__name__


def _unreadable(name: str, reason: str) -> ValueError:
    return ValueError(
        f"Cannot read {name} as audio ({reason}). Readable formats: {_READABLE}, and with the extra `audio` "
        f"({EXTRA}) M4A, MP4 and WebM."
    )


# Where libsndfile notes that a header promises more bytes than the file has.
_LOGGED = re.compile(r"^\s*(?:data|SSND|BODY|Data Size|Data length|riff)\s*:?\s*(\d+) \(?should be (\d+)", re.M)
_LOGGED_FRAMES = re.compile(
    r"Calculated frame count (?P<there>\d+) does not match value from 'ds64' chunk of (?P<promised>\d+)"
    r"|Frame count read from 'COMM' chunk \((?P<stated>\d+)\) not equal"
)


def _sndfile_stream(file: _Bytes, pieces: list[bytes | tuple[int, int]], name: str) -> _SndfileStream:
    """A stream of a format whose header libsndfile compares with the file itself."""
    stream = _SndfileStream(file, pieces, name)
    frames, sizes = _LOGGED_FRAMES.search(stream.log), _LOGGED.search(stream.log)
    known = stream.num_samples
    if known is not None and frames:
        promised = int(frames["promised"] or frames["stated"])
        if promised > known:
            stream.promised, stream.problem = promised, "ends"
    elif known is not None and sizes and not _is_placeholder(int(sizes[1])) and int(sizes[1]) > int(sizes[2]):
        stream.promised = max(known + 1, known * int(sizes[1]) // max(1, int(sizes[2])))
        stream.problem = "ends"
    if stream.log.startswith("Midi Sample Dump"):  # libsndfile makes up what is missing of it
        _check_sample_dump(file, stream)
    return stream


def _check_sample_dump(file: _Bytes, stream: _SndfileStream) -> None:
    bits = file.at(6, 1)[0]
    samples_per_packet = 120 // (2 if bits <= 14 else 3 if bits <= 21 else 4)
    there = (file.size - 21) // 127 * samples_per_packet
    if stream.promised is not None and there < stream.promised:
        stream.num_samples, stream.problem = there, "ends"


# --- WAV


# Sizes that programs write before they know better, most of them near the largest of 31 or 32 bits.
def _is_placeholder(num_bytes: int) -> bool:
    return num_bytes == 0 or any(0 <= limit - num_bytes <= 4096 for limit in (1 << 31, (1 << 32) - 1, (1 << 63) - 1))


def _wav_streams(file: _Bytes, begin: int, name: str, notes: list[str]) -> "list[_Stream]":
    streams: list[_Stream] = []
    while begin >= 0:
        stream, begin = _wav_stream(file, begin, name, notes)
        streams.append(stream)
    return streams


def _wav_stream(file: _Bytes, begin: int, name: str, notes: list[str]) -> tuple[_Stream, int]:
    """One RIFF file, and where the next one begins; -1 if none does."""
    position, data, fmt = begin + 12, None, b""
    while position + 8 <= file.size:
        kind, size = struct.unpack("<4sI", file.at(position, 8))
        if kind == b"RIFF" or not all(32 <= byte < 127 for byte in kind):
            break
        if kind == b"fmt ":
            fmt = file.at(position + 8, min(size, 64))
        if kind == b"data":
            data = position, size
            there = file.size - position - 8
            if _is_placeholder(size) and size != there and (size or not _is_chunk(file, position + 8)):
                position = file.size
                break
        position += 8 + size + size % 2
    end = min(position, file.size)
    follows = end if _is_wav(file, end) else -1
    if data is None:
        return _SndfileStream(file, [(begin, end)], name), follows
    place, size = data
    first = place + 8
    there = max(0, min(size, file.size - first))
    if end == file.size and _is_placeholder(size) and size != file.size - first > 0:
        there = file.size - first
        notes.append(
            f"its header was never finished: it gives its data {size:,} bytes, and all {there:,} to the file's end "
            "are taken"
        )
        head: list[bytes | tuple[int, int]] = [(begin, place + 4), struct.pack("<I", min(there, 0xFFFFFFFE))]
        return _SndfileStream(file, [*head, (first, file.size)], name), -1
    stream = _SndfileStream(file, [(begin, end)], name)
    if there < size and stream.num_samples is not None:
        stream.promised, stream.num_samples = _wav_lengths(fmt, size, there, stream)
        stream.problem = "ends"
    elif follows < 0 and end < file.size and any(file.at(end, 4096)) and file.at(end, 3) != b"TAG":
        notes.append(_LEFTOVER.format(file.size - end))
    return stream, follows


def _wav_lengths(fmt: bytes, size: int, there: int, stream: _SndfileStream) -> tuple[int, int]:
    """Samples that a data chunk was to have, and those whose bytes are there."""
    known = stream.num_samples or 0
    align, extra = struct.unpack("<HxxH", fmt[12:18].ljust(6, b"\0"))
    if stream.subtype in _BLOCKED and align and extra >= 2 and len(fmt) >= 20:
        per_block = struct.unpack("<H", fmt[18:20])[0]
        return size // align * per_block, min(known, there // align * per_block)
    num_bits = int.from_bytes(fmt[14:16], "little") * stream.num_channels
    found = min(known, there * 8 // num_bits) if num_bits else known
    return max(found + 1, size * 8 // num_bits if num_bits else known * size // max(1, there)), found


_BLOCKED = frozenset(("IMA_ADPCM", "MS_ADPCM", "GSM610"))


def _is_wav(file: _Bytes, position: int) -> bool:
    magic = file.at(position, 12)
    return magic[:4] == b"RIFF" and magic[8:] == b"WAVE"


def _is_chunk(file: _Bytes, position: int) -> bool:
    """Whether a chunk lies there that ends within the file."""
    head = file.at(position, 8)
    if len(head) < 8:
        return True
    return head[:4].isalnum() and position + 8 + struct.unpack("<I", head[4:])[0] <= file.size + 1


# --- FLAC

_FLAC_MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")


class _FlacStream(_SndfileStream):
    """A FLAC stream, decoded as if its header did not say how long it is: then it ends where it ends."""

    def __init__(self, file: _Bytes, begin: int, end: int, name: str, notes: list[str]):
        packed = int.from_bytes(file.at(begin + 18, 8), "big")
        total = packed & (1 << 36) - 1
        without = (packed >> 36 << 36).to_bytes(8, "big")
        super().__init__(file, [(begin, begin + 18), without, (begin + 26, end)], name)
        if self.num_samples is not None:  # so short that libsndfile has counted
            self.promised = total or None
        elif total:
            self.promised = total
            self.num_samples = total
            if total <= _MAX_SAMPLES_PER_BYTE * file.size:
                self._look_at_end(total, notes)

    def _look_at_end(self, total: int, notes: list[str]) -> None:
        found = 0
        with contextlib.suppress(RuntimeError), self._open() as sound:
            sound.seek(total - 1)
            for _ in range(2):  # one by one: what lies behind need not be FLAC
                found += len(sound.read(1, dtype="float32", always_2d=True))
        if found == 1:
            return
        self.num_samples = None
        self.num_samples = count = _count(self)
        if count < total:
            self.problem = "ends"
        elif count > total:
            self.promised = count
            notes.append(
                f"it goes on behind the {total / self.rate:g} s that its header names, and all "
                f"{count / self.rate:g} s are read"
            )


def _flac_streams(file: _Bytes, begin: int, name: str, notes: list[str]) -> "list[_Stream]":
    starts, place = [begin], begin
    while (place := file.find(b"fLaC", place + 4)) >= 0:
        if file.at(place, 8) in _FLAC_MARKS:
            starts.append(place)
    ends = [*starts[1:], file.size]
    return [_FlacStream(file, start, end, name, notes) for start, end in zip(starts, ends, strict=True)]


# --- OGG


def _ogg_streams(file: _Bytes, begin: int, name: str, notes: list[str]) -> "list[_Stream]":
    """The links of a chain, each of which begins with a page that says so."""
    links = [begin]
    problems = [""]
    granules: list[list[int]] = [[]]  # at the ends of the last pages: samples, or more than these
    numbers: dict[bytes, int] = {}
    is_open: dict[bytes, bool] = {}
    is_in_head = True
    position = begin
    while position < file.size:
        page = file.at(position, 282)
        length = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) >= 27 else 27
        if page[:4] != b"OggS" or position + length > file.size:
            further = file.find(b"OggS", position + 1)
            if not any(is_open.values()) and further < 0:
                if any(page):
                    notes.append(_LEFTOVER.format(file.size - position))
                break
            if further < 0:
                problems[-1] = problems[-1] or "breaks off"
                break
            problems[-1] = problems[-1] or "lacks something"
            position = further
            continue
        if _ogg_checksum(file.at(position, length)) != int.from_bytes(page[22:26], "little"):
            problems[-1] = problems[-1] or "is damaged"
        flags, serial, number = page[5], page[14:18], int.from_bytes(page[18:22], "little")
        if flags & 2 and not is_in_head:
            problems[-1] = problems[-1] or ("lacks its last page" if any(is_open.values()) else "")
            links.append(position)
            problems.append("")
            granules.append([])
            is_open, numbers = {}, {}
        is_in_head = bool(flags & 2)
        if number != numbers.get(serial, number - 1) + 1 and flags & 2 == 0 and serial in numbers:
            problems[-1] = problems[-1] or "lacks something"
        numbers[serial], is_open[serial] = number, not flags & 4
        granules[-1] = [*granules[-1][-2:], int.from_bytes(page[6:14], "little", signed=True)]
        position += length
    if any(is_open.values()):
        problems[-1] = problems[-1] or "lacks its last page"
    streams: list[_Stream] = []
    ends = [*links[1:], min(position, file.size)]
    for start, end, problem, last in zip(links, ends, problems, granules, strict=True):
        stream = _SndfileStream(file, [(start, end)], name)
        if stream.num_samples is not None:  # libsndfile misses the place if it lies in the last page, which is cut
            stream.last_seek = max(0, stream.num_samples - (max(last) - min(last)) - _GRAIN)
        if problem:
            stream.problem = problem
            stream.promised = None
            stream.num_samples = _count(stream)
        streams.append(stream)
    return streams


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """The CRC of a page, without the one that it holds: zlib's, with bits and bytes the other way round."""
    content = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    return int(f"{zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


_LEFTOVER = "{:,} bytes lie behind its end that no header explains, and are left out"


def _count(stream: _Stream) -> int:
    count = 0
    with contextlib.suppress(_BrokenOffError):
        for chunk in stream.chunks(0):
            count += len(chunk)
    return count


# --- MP3

_BITRATES = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2
    0: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2.5
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# Frames that are decoded before a part begins, besides those whose bytes it may need: filters reach back over one,
# and some are left out. The synthesis filter adds in an order that repeats after 4 or 8 frames.
_MP3_PREROLL, _MP3_PERIOD = 12, 8
_MP3_RESERVOIR = {3: 511, 2: 255, 0: 255}
# Samples by which every decoder is late; the encoder's own delay comes on top. Where an MP3 does not say what to leave
# out at its ends, it gets as many silent frames in front as the decoder is then told to leave out: a whole number of
# the periods.
_MP3_DECODER_DELAY = 529
_MP3_TRIMMED = 4608


@dataclasses.dataclass(frozen=True)
class _Mp3Form:
    """What a frame's header says. Frames of one stream have `kind` in common."""

    size: int
    num_samples: int
    kind: tuple[int, int]


@functools.cache
def _mp3_forms() -> dict[bytes, _Mp3Form]:
    """Forms of layer III by the first three bytes of a frame."""
    forms = {}
    for version, bitrates in _BITRATES.items():
        for place, rate in enumerate(_RATES[version]):
            for index, bitrate in enumerate(bitrates, start=1):
                for low in range(4):
                    samples = 1152 if version == 3 else 576
                    size = samples // 8 * bitrate * 1000 // rate + (low >> 1)
                    form = _Mp3Form(size, samples, (version, rate))
                    for is_unprotected in (0, 1):
                        head = 0xFF, 0xE2 | version << 3 | is_unprotected, index << 4 | place << 2 | low
                        forms[bytes(head)] = form
    return forms


def _side_bytes(version: int, is_mono: bool) -> int:
    return (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)


@dataclasses.dataclass
class _Mp3Run:
    """The frames of one MP3 stream, and the one before them that describes them, if there is one."""

    kind: tuple[int, int]
    num_samples: int
    info: bytes = b""
    places: list[int] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)
    problem: str = ""


def _mp3_runs(file: _Bytes, begin: int, notes: list[str]) -> list[_Mp3Run]:
    """Walks through all frames, by their headers; none if this is no MP3."""
    forms = _mp3_forms()
    runs: list[_Mp3Run] = []
    run: _Mp3Run | None = None
    base, window, position = 0, b"", begin
    while position < file.size:
        if position + 44 > base + len(window):
            base, window = position, file.at(position, _SCANNED_BYTES)
        first = position - base
        form = forms.get(window[first : first + 3])
        if form is None:
            following, leftover = _mp3_resync(file, position, run)
            if following < 0 or run is None:
                if run is None and (following < 0 or leftover):
                    return []
                if leftover:
                    notes.append(_LEFTOVER.format(file.size - position))
                if following < 0:
                    break
            elif leftover:
                run.problem = run.problem or "lacks something"
            position = following
            continue
        mode = window[first + 3] if first + 3 < len(window) else 0
        side = 4 + _side_bytes(form.kind[0], mode >> 6 == 3)
        is_info = window[first + side : first + side + 4] in (b"Xing", b"Info")
        if is_info or run is None or form.kind != run.kind:
            if run is None and not is_info and not _is_followed(file, position, form):
                return []
            run = _Mp3Run(form.kind, form.num_samples)
            runs.append(run)
        if position + form.size > file.size:
            run.problem = run.problem or "ends in the middle of a frame"
            break
        if is_info:
            run.info = file.at(position, form.size)
        else:
            run.places.append(position)
            run.sizes.append(form.size)
        position += form.size
    return [run for run in runs if run.places] or runs[:1]


def _is_followed(file: _Bytes, position: int, form: _Mp3Form) -> bool:
    """Whether another frame of its kind, or the end, comes behind a frame."""
    following = _mp3_forms().get(file.at(position + form.size, 3))
    return position + form.size >= file.size or (following is not None and following.kind == form.kind)


def _mp3_resync(file: _Bytes, position: int, run: _Mp3Run | None) -> tuple[int, bool]:
    """The next frame behind something else, -1 if there is none; and whether that is more than tags and zeros."""
    forms = _mp3_forms()
    leftover = False
    while position < file.size:
        window = file.at(position, 4096)
        if window[:3] == b"ID3" and (behind := _behind_id3_at(file, position)) > position:
            position = behind
        elif window[:3] == b"TAG":
            position += 128
        elif window[:8] == b"APETAGEX" and len(window) >= 32:
            position += 32 + int.from_bytes(window[12:16], "little")
        elif not any(window):
            position += len(window)
        elif window[0] == 0:
            position += len(window) - len(window.lstrip(b"\0"))
        else:
            form = forms.get(window[:3])
            if form is not None and (run is None or form.kind == run.kind) and _is_followed(file, position, form):
                return position, leftover
            leftover = True
            further = window.find(b"\xff", 1)
            position += further if further > 0 else len(window)
    return -1, leftover


class _Mp3Stream(_SndfileStream):
    """An MP3 stream, given to libsndfile as its frames alone, with their true number in front."""

    def __init__(self, file: _Bytes, run: _Mp3Run, name: str, notes: list[str]):
        self._file, self._run, self._name = file, run, name
        number, spf = len(run.places), run.num_samples
        if not number:
            raise _unreadable(name, "it holds no frame of MP3")
        named, delay, padding = _info_of(run)
        if named:
            front = run.info if named == number else _renumbered(run, number)
        else:
            head = file.at(run.places[0], 4)
            start = _head(head, 64)
            frame = start + bytes(_mp3_forms()[start[:3]].size - 4)
            num_silent = _MP3_TRIMMED // spf
            front = _made_info(file, run, number + num_silent) + num_silent * frame
        super().__init__(file, [front, *self._pieces(0)], name)
        self.subtype = "MPEG_LAYER_III"
        # Where the first sample that is kept lies in what the decoder gives.
        self._skipped = delay + _MP3_DECODER_DELAY if delay is not None else 0
        if self.num_samples is not None and not 0 <= number * spf - self.num_samples - self._skipped <= 4096:
            self._skipped = 0 if self.num_samples == number * spf else -1
        self.problem = run.problem
        if named and number < named:
            self.problem = self.problem if self.problem == "lacks something" else "ends"
            self.promised = named * spf - max(0, self._skipped) - max(0, padding - _MP3_DECODER_DELAY)
        elif named and number > named:
            seconds = named * spf / self.rate
            notes.append(
                f"it goes on behind the {seconds:g} s that its header names, and all "
                f"{number * spf / self.rate:g} s are read"
            )
        elif self.problem:
            self.promised = None
        if named and number >= named and self.problem == "ends in the middle of a frame":
            self.problem = ""

    def chunks(self, start: int) -> Iterator[np.ndarray]:
        run, spf = self._run, self._run.num_samples
        side = _side_bytes(run.kind[0], self._file.at(run.places[0], 4)[3] >> 6 == 3)
        first, held = (start + self._skipped) // spf, 0
        while first > 0 and held < _MP3_RESERVOIR[run.kind[0]]:
            first -= 1
            held += max(0, run.sizes[first] - 6 - side)
        first -= _MP3_PREROLL
        first -= first % _MP3_PERIOD
        if first <= 0 or self._skipped < 0:
            yield from super().chunks(start)
            return
        # What the first frames need of those before them is not there. They are made silent, keep their bytes for
        # those behind them, and lie in the part that is not kept.
        silent, place, held = b"", first, 0
        while held < _MP3_RESERVOIR[run.kind[0]] and place < len(run.places):
            frame = self._file.at(run.places[place], run.sizes[place])
            silent += _silent(frame, run.kind[0], held)
            held += max(0, len(frame) - _main_place(frame, run.kind[0]))
            place += 1
        info = _made_info(self._file, run, len(run.places) - first)
        discarded = first * spf + _MP3_TRIMMED
        left = None if self.num_samples is None else self.num_samples + self._skipped - discarded
        with _open_sndfile(self._file, [info, silent, *self._pieces(place)], self._name) as sound:
            yield from _decoded(sound, start + self._skipped - discarded, left)

    def _pieces(self, first: int) -> list[bytes | tuple[int, int]]:
        """The frames from one on, as few pieces of the file as there are gaps between them."""
        places = np.array(self._run.places[first:], dtype=np.int64)
        if not len(places):
            return []
        ends = places + np.array(self._run.sizes[first:], dtype=np.int64)
        breaks = np.flatnonzero(ends[:-1] != places[1:])
        starts = [places[0], *places[breaks + 1]]
        return [(int(start), int(end)) for start, end in zip(starts, [*ends[breaks], ends[-1]], strict=True)]


def _info_of(run: _Mp3Run) -> tuple[int, int | None, int]:
    """How many frames the describing one names, 0 if none; and the encoder's delay and padding, if it says them."""
    place = _info_place(run)
    if not run.info or place + 12 > len(run.info) or not run.info[place + 7] & 1:
        return 0, None, 0
    number = int.from_bytes(run.info[place + 8 : place + 12], "big")
    lame = _lame_place(place, run.info[place + 7])
    if lame + 24 > len(run.info) or not any(run.info[lame : lame + 9]):
        return number, None, 0
    trims = int.from_bytes(run.info[lame + 21 : lame + 24], "big")
    return number, trims >> 12, trims & 0xFFF


def _info_place(run: _Mp3Run) -> int:
    return 4 + _side_bytes(run.kind[0], bool(run.info) and run.info[3] >> 6 == 3)


def _lame_place(place: int, flags: int) -> int:
    return place + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)


def _renumbered(run: _Mp3Run, number: int) -> bytes:
    """A describing frame with another number, and without a cut at the end, which is not where it says."""
    info, place = bytearray(run.info), _info_place(run)
    info[place + 8 : place + 12] = number.to_bytes(4, "big")
    if info[place + 7] & 2:
        info[place + 12 : place + 16] = (len(info) + sum(run.sizes)).to_bytes(4, "big")
    lame = _lame_place(place, info[place + 7])
    if lame + 24 <= len(info):
        info[lame + 22 : lame + 24] = bytes((info[lame + 22] & 0xF0, 0))
    return bytes(info)


def _made_info(file: _Bytes, run: _Mp3Run, number: int) -> bytes:
    """A describing frame that makes the decoder leave out `_MP3_TRIMMED` samples at the start and none at the end."""
    head = file.at(run.places[0], 4)
    place = 4 + _side_bytes(run.kind[0], head[3] >> 6 == 3)
    start = _head(head, place + 64)
    trims = (_MP3_TRIMMED - _MP3_DECODER_DELAY) << 12 | _MP3_DECODER_DELAY
    tag = b"Info" + b"\0\0\0\1" + number.to_bytes(4, "big") + b"LAME3.100".ljust(21, b"\0") + trims.to_bytes(3, "big")
    return (start + bytes(place - 4) + tag).ljust(_mp3_forms()[start[:3]].size, b"\0")


def _head(head: bytes, num_bytes: int) -> bytes:
    """The header of a frame like another one, of at least so many bytes."""
    for index in range(1, 15):
        start = bytes((head[0], head[1] | 1, index << 4 | head[2] & 0x0C, head[3]))
        if _mp3_forms()[start[:3]].size >= num_bytes:
            return start
    return start


def _main_place(frame: bytes, version: int) -> int:
    """Where the bytes begin that later frames may need."""
    return 4 + (0 if frame[1] & 1 else 2) + _side_bytes(version, frame[3] >> 6 == 3)


def _silent(frame: bytes, version: int, held: int) -> bytes:
    """A frame without sound of its own, that hands on its bytes and `held` ones from before it."""
    main = _main_place(frame, version)
    side = main - _side_bytes(version, frame[3] >> 6 == 3)
    back = min(held, _MP3_RESERVOIR[version]) << (7 if version == 3 else 8)  # the first 9 or 8 bits
    return frame[:side] + back.to_bytes(2, "big") + bytes(main - side - 2) + frame[main:]


# --- FFmpeg


def _container(magic: bytes) -> str:
    """FFmpeg's name of a container that libsndfile does not read; empty for any other."""
    if magic[4:8] == b"ftyp":
        return "mp4"
    if magic[:4] == b"RIFF" and magic[8:12] == b"AVI ":
        return "avi"
    if magic[:1] == b"\xff" and magic[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9"):
        return "aac"
    return next((form for mark, form in _CONTAINERS.items() if magic.startswith(mark)), "")


# Those whose frames may begin as the file does, and the one that FFmpeg reads on.
_REPEATING = ("aac", "amr", "wv", "matroska")
_CONTAINERS = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"#!AMR": "amr",
    b"FLV\x01": "flv",
    b"wvpk": "wv",
    b"MAC ": "ape",
}
# Containers count in units of their own, and what is trimmed at both ends need not be in it.
_AV_SLACK_S = 0.1


class _AvStream(_Stream):
    """Decoded by FFmpeg, and always from the start: what it gives depends on all that came before."""

    def __init__(self, file: _Bytes, container: str, name: str):
        self._file, self._container, self._name = file, container, name
        av = _import_av(name, container)
        try:
            with self._open(av) as opened:
                sound = opened.streams.audio[0] if opened.streams.audio else None
                if sound is None:
                    raise ValueError(f"{name} holds no sound")
                frame = next(opened.decode(sound), None)
                if frame is None:
                    raise ValueError(f"{name} has no sample")
                promised = _promised_s(opened, sound)
                rate = int(frame.sample_rate)
                super().__init__(
                    rate,
                    len(frame.layout.channels),
                    None,
                    None if promised is None else max(1, int((promised - _AV_SLACK_S) * rate)),
                    _version_of("av"),
                )
        except av.FFmpegError as error:
            raise _unreadable(name, _av_reason(error)) from error

    def _open(self, av: ModuleType) -> Any:
        view = io.BufferedReader(_View(self._file, [(0, self._file.size)]), 1 << 16)
        return av.open(view, format=self._container, metadata_errors="replace")

    def chunks(self, start: int) -> Iterator[np.ndarray]:
        av = _import_av(self._name, self._container)
        skipped = start
        try:
            with self._open(av) as opened:
                converter = av.AudioResampler(format="fltp")
                for frame in opened.decode(opened.streams.audio[0]):
                    if (int(frame.sample_rate), len(frame.layout.channels)) != (self.rate, self.num_channels):
                        raise _BrokenOffError("changes its rate or channels")
                    for converted in converter.resample(frame):
                        chunk = converted.to_ndarray().T  # (C, n) -> (n, C)
                        if len(chunk) > skipped:
                            yield chunk[skipped:]
                        skipped = max(0, skipped - len(chunk))
        except av.FFmpegError as error:
            raise _BrokenOffError(f"cannot be decoded ({_av_reason(error)})") from error


def _import_av(name: str, container: str) -> ModuleType:
    try:
        return importlib.import_module("av")
    except (ImportError, OSError) as error:
        raise ValueError(
            f"Cannot read {name} as audio: it is {container.upper()}, which needs the extra `audio` ({error}). "
            f"Install it with: {EXTRA}. Without it, {_READABLE} are read."
        ) from error


def _promised_s(opened: Any, sound: Any) -> float | None:
    """How long a container says that its sound is, where it says so."""
    if sound.duration:
        return float(sound.duration * sound.time_base)
    stated = sound.metadata.get("DURATION", "")
    if re.fullmatch(r"\d+:\d+:\d+\.\d+", stated):
        hours, minutes, seconds = stated.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return opened.duration / 1e6 if opened.duration and len(opened.streams) == 1 else None


def _av_reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error).rstrip(".")
