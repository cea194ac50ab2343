"""Finding and writing audio files; reading them is `audio_input`'s."""

import collections
import dataclasses
import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio_input import import_for, read_audio

# By which a folder's recordings are known; opening one tells whether it can be read here.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".wave", ".rf64", ".w64", ".aif", ".aiff"),
    *(".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba"),
    *(".mka", ".mkv", ".mov", ".wma", ".amr", ".ape", ".wv", ".tta", ".spx", ".ac3", ".3gp"),
)

_PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATS = ("FLOAT", "DOUBLE")
_BLOCK_SAMPLES = 1 << 16


@dataclasses.dataclass(frozen=True)
class _Encoding:
    container: str
    subtype: str


_ENCODINGS = {
    ".wav": _Encoding("WAV", "PCM_16"),
    ".flac": _Encoding("FLAC", "PCM_16"),
    ".ogg": _Encoding("OGG", "VORBIS"),
    ".mp3": _Encoding("MP3", "MPEG_LAYER_III"),
}
WRITABLE_SUFFIXES = tuple(_ENCODINGS)

__all__ = [
    "AUDIO_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "FoundFile",
    "find_files",
    "read_audio",
    "write_audio",
    "write_audio_blocks",
]


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A file, and where it lies below the folder or pattern that it was found under."""

    path: Path
    relative: Path


def find_files(
    inputs: Iterable[str | os.PathLike[str]],
    suffixes: Sequence[str] = AUDIO_SUFFIXES,
    passed_over: collections.Counter[str] | None = None,
) -> list[FoundFile]:
    """Lists the files that a user names: files, folders and patterns.

    A file is taken whatever its suffix, also one that does not exist: opening it tells what is wrong with it. A folder
    is walked to the bottom, through links to folders but not round in circles, for the files with one of `suffixes`,
    in any case; hidden files are left out. A folder that may not be listed stands in the list itself. A pattern
    (`*`, `?`, `[…]`, `**`) may be needed where no shell expands it; it is used as one where no file of that name
    exists.

    Args:
        passed_over: Counts what was seen and is not listed, by suffix.

    Raises:
        FileNotFoundError: If a folder or a pattern holds no such file.
    """
    passed_over = collections.Counter() if passed_over is None else passed_over
    found = []
    for given in inputs:
        name, path = os.fspath(given), Path(given)
        if path.is_dir():
            files = list(walk(path, suffixes, passed_over))
        elif glob.has_magic(name) and not path.exists():
            files = list(_match(name, suffixes, passed_over))
        else:
            files = [FoundFile(path, Path(path.name))]
        if not files:
            raise FileNotFoundError(f"{name} holds no file that ends in {', '.join(suffixes)}")
        found += files
    return found


def walk(root: Path, suffixes: Sequence[str], passed_over: collections.Counter[str]) -> Iterator[FoundFile]:
    """Files of a folder, as `find_files` lists them: by name, then those of its folders."""
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, around = waiting.pop()
        try:
            seen = os.stat(folder)
            with os.scandir(folder) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError:
            yield FoundFile(folder, folder.relative_to(root))
            continue
        if (seen.st_dev, seen.st_ino) in around:  # a link to a folder that it lies in
            continue
        around = (*around, (seen.st_dev, seen.st_ino))
        folders = []
        for name, is_folder in found:
            path = folder / name
            if name.startswith("."):
                passed_over["hidden"] += 1
            elif is_folder:
                folders.append((path, around))
            elif _is_wanted(path, suffixes, passed_over):
                yield FoundFile(path, path.relative_to(root))
        waiting += reversed(folders)


def kind_by_suffix(path: PurePath) -> str:
    """What to count a file under; never what nobody would call a suffix, as it is shown to people."""
    if not path.suffix:
        return "without a suffix"
    return path.suffix.lower() if re.fullmatch(r"\.\w{1,16}", path.suffix, re.ASCII) else "with another suffix"


def write_audio(
    path: str | os.PathLike[str], samples: np.ndarray, sampling_rate: int, *, subtype: str | None = None
) -> int:
    """Writes samples whole or not at all, in the format that the suffix names, and over a file that exists.

    Integer PCM is rounded here rather than by libsndfile, whose scale of 2^(bits-1) - 1 differs from the 2^(bits-1) by
    which it reads: what is read from a PCM file and written at the same depth is bit-identical.

    Args:
        path: Ends in `.wav`, `.flac`, `.ogg` (Vorbis) or `.mp3`.
        samples: Floats with full scale at 1. Except in a float subtype, samples beyond full scale are clipped.
        sampling_rate: In Hz.
        subtype: Soundfile's name of the encoding, such as `"PCM_24"` or `"FLOAT"`; `None` means 16 bits for WAV and
            FLAC.

    Shape:
        samples: (T,) or (C, T).

    Returns:
        The number of samples that were clipped.

    Raises:
        ValueError: If the suffix, the subtype or the samples cannot be written.
    """
    _encoding_for(path)
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind != "f" or samples.size == 0:
        raise ValueError(f"samples must be floats (T,) or (C, T), got {samples.dtype} of shape {samples.shape}")
    samples = np.atleast_2d(samples)
    return write_audio_blocks(path, [samples], sampling_rate, num_channels=len(samples), subtype=subtype)


def write_audio_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[np.ndarray],
    sampling_rate: int,
    *,
    num_channels: int = 1,
    subtype: str | None = None,
) -> int:
    """As `write_audio`, of a clip that comes in blocks, one of which is in memory at a time.

    An error that the blocks raise leaves no file behind.

    Shape:
        blocks: each (C, T), T of 0 or more.
    """
    encoding = _encoding_for(path)
    subtype = subtype or encoding.subtype

    soundfile = import_for("writing audio files", "soundfile")
    if not soundfile.check_format(encoding.container, subtype):
        available = ", ".join(soundfile.available_subtypes(encoding.container))
        raise ValueError(f"{encoding.container} has no subtype {subtype!r}; it has {available}")
    num_clipped = 0
    with replacing(path) as temporary:
        try:
            file = soundfile.SoundFile(temporary, "w", sampling_rate, num_channels, subtype, format=encoding.container)
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{encoding.container} cannot hold {num_channels} channels at {sampling_rate} Hz: {error.error_string}"
            ) from error
        with file:
            for block in blocks:
                if not np.isfinite(block).all():
                    raise ValueError(f"samples for {os.fspath(path)} hold NaN or infinity")
                frames = block.T  # (C, T) -> (T, C)
                # libsndfile's Vorbis encoder overflows the stack when it is handed a long clip in one piece.
                for start in range(0, len(frames), _BLOCK_SAMPLES):
                    file.write(_quantized(frames[start : start + _BLOCK_SAMPLES], subtype))
                num_clipped += 0 if subtype in _FLOATS else int((np.abs(frames) > 1).sum())
    return num_clipped


def _encoding_for(path: str | os.PathLike[str]) -> _Encoding:
    encoding = _ENCODINGS.get(Path(path).suffix.lower())
    if encoding is None:
        raise ValueError(f"audio is written as {', '.join(WRITABLE_SUFFIXES)}, got {os.fspath(path)}")
    return encoding


def _quantized(frames: np.ndarray, subtype: str) -> np.ndarray:
    """What to hand to soundfile, which takes the upper bits of an int32 for an integer subtype."""
    if subtype in _FLOATS:
        return frames
    bits = _PCM_BITS.get(subtype)
    if bits is None:
        return frames.clip(-1, 1)
    full_scale = 1 << (bits - 1)
    steps = np.rint(frames.astype(np.float64) * full_scale).clip(-full_scale, full_scale - 1)
    return steps.astype(np.int32) << (32 - bits)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Or a link to one; without asking the disk about anything but links."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _match(pattern: str, suffixes: Sequence[str], passed_over: collections.Counter[str]) -> Iterator[FoundFile]:
    # The fixed folders in front of the first wildcard are the root, as for a folder.
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    if "**" in parts:  # glob itself goes round in circles
        for file in walk(root, suffixes, passed_over):
            if _fits(file.relative.parts, parts[fixed:]) or file.path.is_dir():
                yield file
        return
    for path in map(Path, sorted(glob.glob(pattern))):
        if path.is_dir():
            passed_over["folder"] += 1
        elif _is_wanted(path, suffixes, passed_over):
            yield FoundFile(path, path.relative_to(root))


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path is one of a pattern's."""
    if not parts:
        return not names
    if parts[0] == "**":
        return _fits(names, parts[1:]) or (bool(names) and _fits(names[1:], parts))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _is_wanted(path: Path, suffixes: Sequence[str], passed_over: collections.Counter[str]) -> bool:
    if path.suffix.lower() in suffixes:
        return True
    passed_over[kind_by_suffix(path)] += 1
    return False
