"""The file that holds the codes of one clip, as `.npz` (NumPy) or `.json`."""

import dataclasses
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wavtokenizer_hf.audio.atomic import replacing

FORMAT = "wavtokenizer-codes"
FORMAT_VERSION = 1
CODE_SUFFIXES = (".npz", ".json")

_COUNTS = ("sampling_rate", "num_samples", "hop_length", "codebook_size")
_TEXTS = ("fingerprint", "model", "source", "reader", "resampler")
# Those that files of older versions of the package lack.
_LATER_TEXTS = ("reader", "resampler")
# More than any of the values beside the codes takes, in bytes.
_MOST_BYTES_OF_A_VALUE = 1 << 20
# What zipfile, NumPy and json raise on a file that is cut short, altered or of another kind.
_DAMAGE = (ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True, eq=False)
class CodeFile:
    """The codes of one clip and what is needed to decode them to its exact length.

    Args:
        audio_codes: Codebook indices in `[0, codebook_size)`.
        sampling_rate: Rate of the clip that was encoded, in Hz; that of the model, not of the file it came from.
        num_samples: Length of that clip in samples at `sampling_rate`.
        hop_length: Samples per code.
        codebook_size: Entries of the model's codebook.
        fingerprint: That of the model which made the codes; empty if unknown.
        model: Its name, for people; empty if unknown.
        source: Name of the audio file; empty if unknown.
        reader: What decoded it, with its version; empty if unknown, as in files of older versions of the package.
        resampler: What would bring it to the rate, with its version; empty if unknown.

    Shape:
        audio_codes: (L,) or (1, L), kept as (1, L) int64, with `L = ceil(num_samples / hop_length)`.

    Raises:
        ValueError: If the values do not belong together; the message names them.
    """

    audio_codes: np.ndarray
    sampling_rate: int
    num_samples: int
    hop_length: int
    codebook_size: int
    fingerprint: str = ""
    model: str = ""
    source: str = ""
    reader: str = ""
    resampler: str = ""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
            object.__setattr__(self, name, int(value))
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}")
        codes = np.asarray(self.audio_codes)
        if codes.dtype.kind not in "iu" or codes.ndim not in (1, 2) or codes.shape[:-1] not in ((), (1,)):
            raise ValueError(
                f"audio_codes must be whole numbers of shape (L,) or (1, L), got {codes.dtype} of shape {codes.shape}"
            )
        num_codes = math.ceil(self.num_samples / self.hop_length)
        if codes.shape[-1] != num_codes:
            raise ValueError(
                f"{self.num_samples} samples at {self.hop_length} samples per code make {num_codes} codes, "
                f"but audio_codes holds {codes.shape[-1]}"
            )
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise ValueError(
                f"audio_codes must lie from 0 to {self.codebook_size - 1}, got {codes.min()} to {codes.max()}"
            )
        object.__setattr__(self, "audio_codes", codes.reshape(1, -1).astype(np.int64))

    @property
    def num_codes(self) -> int:
        return self.audio_codes.shape[-1]

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sampling_rate

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sampling_rate / self.hop_length

    @property
    def bitrate_kbps(self) -> float:
        return self.frame_rate * math.log2(self.codebook_size) / 1000

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file whole or not at all, and over one that exists.

        Args:
            path: Ends in `.npz` or `.json`. An `.npz` stores a code in two bytes where the codebook allows it, and has
                a checksum for each value; a `.json` has one for all, which a file of other origin may lack.
        """
        suffix = _suffix(path)
        fields = {name: getattr(self, name) for name in (*_COUNTS, *_TEXTS)}
        fields = {name: value for name, value in fields.items() if value or name not in _LATER_TEXTS}
        header = {"format": FORMAT, "format_version": FORMAT_VERSION, **fields}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            if suffix == ".npz":
                codes = self.audio_codes.astype(np.uint16 if self.codebook_size <= 1 << 16 else np.uint32)
                np.savez_compressed(file, audio_codes=codes, **header)
            else:
                content = {**header, "audio_codes": self.audio_codes.tolist()}
                content["checksum"] = _checksum(content)
                file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CodeFile":
        """Reads a file that `save` wrote. Nothing in it is ever unpickled, and only what is needed is read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not one of codes, is damaged, or is of a later format version.
        """
        suffix = _suffix(path)
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {os.fspath(path)}")
        try:
            content = _read_npz(path) if suffix == ".npz" else _read_json(path)
        except _DAMAGE as error:
            raise ValueError(f"{os.fspath(path)} is not a readable {suffix} file of codes: {error}") from error
        if content.get("format") != FORMAT:
            raise ValueError(f"{os.fspath(path)} is not a file of codes: its 'format' is not {FORMAT!r}")
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{os.fspath(path)} has format version {content.get('format_version')!r}, and this package reads "
                f"version {FORMAT_VERSION}: update wavtokenizer-hf or encode the clip again"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        content = dict.fromkeys(_LATER_TEXTS, "") | dict(content)
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"{os.fspath(path)} lacks {', '.join(missing)}: encode the clip again")
        try:
            loaded = cls(**{name: content[name] for name in names})
            if "checksum" in content and content["checksum"] != _checksum(content):
                raise ValueError("its checksum is that of other values; without `checksum` it is taken as it is")
            return loaded
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{os.fspath(path)} is damaged: {error}") from error


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in CODE_SUFFIXES:
        raise ValueError(f"codes are stored as {' or '.join(CODE_SUFFIXES)}, got {os.fspath(path)}")
    return suffix


def _read_npz(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The values of an archive that a file of codes has, each looked at before memory is taken for it."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a zip archive")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if len(names) != len(set(names)):
            raise ValueError("it holds a value twice")
        wanted = [name for name in ("format", "format_version", *_COUNTS, *_TEXTS) if name in names]
        content = {name: _read_member(archive, name, ()).item() for name in wanted}
        if "audio_codes" in names:
            num_samples, hop_length = content.get("num_samples"), content.get("hop_length")
            shape: tuple[int, ...] = ()
            if isinstance(num_samples, int) and isinstance(hop_length, int) and hop_length > 0:
                shape = (-(-num_samples // hop_length),)
            content["audio_codes"] = _read_member(archive, "audio_codes", shape)
    return content


def _read_member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape, in front of which there may be an axis of 1; or of any small one."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} is stored in version {version} of NumPy's format, not (1, 0)")
        found, _, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    stored = archive.getinfo(f"{name}.npy").file_size
    if math.prod(found) * dtype.itemsize > _MOST_BYTES_OF_A_VALUE and found not in (shape, (1, *shape)):
        raise ValueError(f"{name} has the shape {found}, expected {shape}")
    if not 0 < stored - math.prod(found) * dtype.itemsize <= _MOST_BYTES_OF_A_VALUE:
        raise ValueError(f"{name} has {stored:,} bytes, which do not fit its shape {found}")
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _read_json(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    content = json.loads(Path(path).read_bytes())
    if not isinstance(content, dict):
        raise ValueError("it does not hold an object")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the values by their names, in alphabetical order; of texts only what is not empty, so that more may come."""
    checked = {name: content.get(name, "") for name in (*_COUNTS, *_TEXTS, "audio_codes")}
    text = json.dumps({name: value for name, value in checked.items() if value != ""}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
