"""The file that holds the codes of one clip, as `.npz` (NumPy) or `.json`."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.codecs.spec import CodecSpec

FORMAT = "wavtokenizer-codes"
# The second is that of several codebooks, or of codes whose number does not follow from the length.
FORMAT_VERSIONS = (1, 2)
CODE_SUFFIXES = (".npz", ".json")

_COUNTS = ("sampling_rate", "num_samples", "hop_length")
_SIZES = ("codebook_size", "codebook_sizes")
_TEXTS = ("fingerprint", "model", "source", "reader", "resampler")
# Those that files of older versions of the package lack.
_LATER_TEXTS = ("reader", "resampler")
# More than any of the values beside the codes takes, in bytes.
_MOST_BYTES_OF_A_VALUE = 1 << 20
_MOST_CODEBOOKS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class CodeFile:
    """The codes of one clip and what is needed to decode them to its exact length.

    Args:
        audio_codes: Codebook indices, a line of them for each codebook.
        sampling_rate: Rate of the clip that was encoded, in Hz; that of the model, not of the file it came from.
        num_samples: Length of that clip in samples at `sampling_rate`.
        hop_length: Samples per frame of codes; `None` where the number of frames does not follow from the length.
        codebook_size: Entries of the model's codebook; of each, where it has several.
        fingerprint: That of the model which made the codes; empty if unknown.
        model: Its name, for people; empty if unknown.
        source: Name of the audio file; empty if unknown.
        reader: What decoded it, with its version; empty if unknown, as in files of older versions of the package.
        resampler: What would bring it to the rate, with its version; empty if unknown.

    Shape:
        audio_codes: (L,) or (Q, L), kept as (Q, L) int64, with `L = ceil(num_samples / hop_length)` where there is
            a hop.

    Raises:
        ValueError: If the values do not belong together; the message names them.
    """

    audio_codes: np.ndarray
    sampling_rate: int
    num_samples: int
    hop_length: int | None
    codebook_size: int | tuple[int, ...]
    fingerprint: str = ""
    model: str = ""
    source: str = ""
    reader: str = ""
    resampler: str = ""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if name == "hop_length" and value is None:
                continue
            object.__setattr__(self, name, _checked_count(name, value))
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}")
        has_several = isinstance(self.codebook_size, (tuple, list, np.ndarray))
        sizes: Any = self.codebook_size if has_several else (self.codebook_size,)
        sizes = tuple(_checked_count("codebook_size", size) for size in sizes)
        if not sizes:
            raise ValueError("codebook_size must tell at least one codebook")
        object.__setattr__(self, "codebook_size", sizes if len(sizes) > 1 else sizes[0])
        codes = np.asarray(self.audio_codes)
        codes = codes[None] if codes.ndim == 1 else codes
        if codes.dtype.kind not in "iu" or codes.ndim != 2 or len(codes) != len(sizes):
            expected = "(L,) or (1, L)" if len(sizes) == 1 else f"({len(sizes)}, L)"
            raise ValueError(
                f"audio_codes must be whole numbers of shape {expected}, got {codes.dtype} of shape "
                f"{np.shape(self.audio_codes)}"
            )
        num_codes = self.spec.num_frames(self.num_samples)
        if num_codes is not None and codes.shape[-1] != num_codes:
            raise ValueError(
                f"{self.num_samples} samples at {self.hop_length} samples per code make {num_codes} codes, "
                f"but audio_codes holds {codes.shape[-1]}"
            )
        for line, size in zip(codes, sizes, strict=True):
            if line.size and (line.min() < 0 or line.max() >= size):
                raise ValueError(f"audio_codes must lie from 0 to {size - 1}, got {line.min()} to {line.max()}")
        object.__setattr__(self, "audio_codes", codes.astype(np.int64))

    @classmethod
    def made_by(cls, spec: CodecSpec, audio_codes: np.ndarray, num_samples: int, **texts: str) -> "CodeFile":
        """Codes of a codec, (Q, L); `texts` are `source`, `reader` and `resampler`."""
        return cls(
            audio_codes=audio_codes,
            sampling_rate=spec.sampling_rate,
            num_samples=num_samples,
            hop_length=spec.hop_length,
            codebook_size=spec.codebook_sizes,
            fingerprint=spec.fingerprint,
            model=spec.name,
            **texts,
        )

    @functools.cached_property
    def spec(self) -> CodecSpec:
        """What is known of the codec that made the codes."""
        sizes = self.codebook_size
        return CodecSpec(
            sampling_rate=self.sampling_rate,
            hop_length=self.hop_length,
            codebook_sizes=(sizes,) if isinstance(sizes, int) else sizes,
            fingerprint=self.fingerprint,
            name=self.model,
        )

    @property
    def num_codes(self) -> int:
        """Of all codebooks."""
        return self.audio_codes.size

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sampling_rate

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second; counted, where there is no hop."""
        return self.spec.frame_rate or self.audio_codes.shape[-1] / self.duration_s

    @property
    def bitrate_kbps(self) -> float:
        return self.frame_rate * self.spec.bits_per_frame / 1000

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file whole or not at all, and over one that exists.

        Args:
            path: Ends in `.npz` or `.json`. An `.npz` stores a code in two bytes where the codebook allows it, and has
                a checksum for each value; a `.json` has one for all, which a file of other origin may lack.
        """
        suffix = _suffix(path)
        fields = {name: getattr(self, name) for name in _COUNTS}
        sizes = self.spec.codebook_sizes
        is_first = len(sizes) == 1 and self.hop_length is not None
        fields |= {"codebook_size": sizes[0]} if is_first else {"codebook_sizes": list(sizes)}
        fields |= {name: getattr(self, name) for name in _TEXTS if getattr(self, name) or name not in _LATER_TEXTS}
        fields = {name: value for name, value in fields.items() if value is not None}
        header = {"format": FORMAT, "format_version": FORMAT_VERSIONS[0 if is_first else 1], **fields}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            if suffix == ".npz":
                codes = self.audio_codes.astype(np.uint16 if max(sizes) <= 1 << 16 else np.uint32)
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
        with open(path, "rb") as file:
            try:
                content = _read_npz(file) if suffix == ".npz" else _read_json(file)
            except Exception as error:  # zipfile, NumPy and json raise a dozen types on damaged bytes
                raise ValueError(f"{os.fspath(path)} is not a readable {suffix} file of codes: {error}") from error
        if content.get("format") != FORMAT:
            raise ValueError(f"{os.fspath(path)} is not a file of codes: its 'format' is not {FORMAT!r}")
        version = content.get("format_version")
        if not isinstance(version, int) or version not in FORMAT_VERSIONS:
            raise ValueError(
                f"{os.fspath(path)} has format version {version!r}, and this package reads "
                f"version {' and '.join(map(str, FORMAT_VERSIONS))}: update wavtokenizer-hf or encode the clip again"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        content = dict.fromkeys(_LATER_TEXTS, "") | dict(content)
        if content["format_version"] == 2:
            content = {"hop_length": None, **content}
            if "codebook_sizes" in content:
                content["codebook_size"] = content["codebook_sizes"]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"{os.fspath(path)} lacks {', '.join(missing)}: encode the clip again")
        try:
            if content["format_version"] == 1:  # of one codebook and a fixed hop
                for name in ("hop_length", "codebook_size"):
                    _checked_count(name, content[name])
            values: dict[str, Any] = {name: content[name] for name in names}
            loaded = cls(**values)
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


def _read_npz(file: BinaryIO) -> Mapping[str, Any]:
    """The values of an archive that a file of codes has, each looked at before memory is taken for it."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not a zip archive")
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if len(names) != len(set(names)):
            raise ValueError("it holds a value twice")
        wanted = [name for name in ("format", "format_version", *_COUNTS, *_SIZES, *_TEXTS) if name in names]
        content = {name: _read_member(archive, name).tolist() for name in wanted}
        if "audio_codes" in names:
            num_samples, hop_length = content.get("num_samples"), content.get("hop_length")
            num_frames = None
            if isinstance(num_samples, int):
                # Without a hop, nothing but the length bounds how many frames there are: at most one per sample.
                num_frames = -(-num_samples // hop_length) if isinstance(hop_length, int) and hop_length > 0 else None
            content["audio_codes"] = _read_member(archive, "audio_codes", num_frames, num_samples)
    return content


def _read_member(
    archive: zipfile.ZipFile, name: str, num_frames: int | None = None, most_frames: Any = 0
) -> np.ndarray:
    """An array of any small shape; a larger one only of as many frames as told or, where none are told, at most."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} is stored in version {version} of NumPy's format, not (1, 0)")
        found, _, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    stored = archive.getinfo(f"{name}.npy").file_size
    if math.prod(found) * dtype.itemsize > _MOST_BYTES_OF_A_VALUE:
        num_found = found[-1] if 1 <= len(found) <= 2 else -1
        fits = num_found == num_frames if num_frames is not None else 0 <= num_found <= most_frames
        if not fits or math.prod(found[:-1]) > _MOST_CODEBOOKS:
            raise ValueError(f"{name} has the shape {found}, expected {num_frames or most_frames} frames")
    if not 0 < stored - math.prod(found) * dtype.itemsize <= _MOST_BYTES_OF_A_VALUE:
        raise ValueError(f"{name} has {stored:,} bytes, which do not fit its shape {found}")
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _read_json(file: BinaryIO) -> Mapping[str, Any]:
    content = json.load(file)
    if not isinstance(content, dict):
        raise ValueError("it does not hold an object")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the values by their names, in alphabetical order; of texts only what is not empty, so that more may come."""
    names = (*_COUNTS, _SIZES[content["format_version"] - 1], *_TEXTS, "audio_codes")
    checked = {name: content.get(name) for name in names}
    text = json.dumps({name: value for name, value in checked.items() if value not in ("", None)}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _checked_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
    return int(value)
