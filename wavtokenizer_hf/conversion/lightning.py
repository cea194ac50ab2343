"""Reading the original's checkpoints (pickles, written by PyTorch Lightning) without running anything in them.

A pickle is a program for a small stack machine, and the one of the standard library calls whatever function a file
names. The machine here has no instruction that calls anything: it builds lists, dicts and plain values, recognises the
few functions that describe a tensor, and puts an inert `Placeholder` wherever the file asks for another object.

`pickle.Unpickler` with an inert `find_class` would call nothing either, but its dicts and its memo are out of reach:
nested tuples as a key overflow its stack (200 kB) or are hashed without end (400 bytes), a whole number of 16 MB is
hashed again for each entry that it is the key of, and a memo index takes memory of its own size. Here, steps and bytes
are limited, a key is a short number or a string, and nothing that a file says once is copied each time it is used.

Tensors stay on disk. The file is mapped, a tensor is copied out when it is asked for, and its pages are let go again.
"""

import itertools
import mmap
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from wavtokenizer_hf.audio.shown import folded
from wavtokenizer_hf.conversion.errors import ConversionError

# A released checkpoint's pickle, optimiser states included, is about 1 MB, and about 3 bytes are a step.
_MAX_PICKLE_BYTES = 2**23
_MAX_PICKLE_STEPS = 2**20
_MAX_NAME = 80
_BLOCK_BYTES = 2**24
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module[:_MAX_NAME]}.{self.name[:_MAX_NAME]}"


@dataclass(frozen=True, eq=False)
class Placeholder:
    """Stands for an object that is not read, and says why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of numbers in a file's record."""

    record_name: str
    dtype: torch.dtype
    num_elements: int


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """Where a tensor lies: a view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def num_elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Element after the last one that the view reaches."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + reach + 1 if self.num_elements else self.offset


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(arguments: tuple) -> object:
    """`_rebuild_tensor(storage, offset, size, stride)`, and its successor with more that only autograd needs."""
    if arguments and isinstance(arguments[0], Placeholder):
        return arguments[0]
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        return Placeholder("its storage is not one of plain numbers")
    storage, offset, shape, strides = arguments[:4]
    metadata = arguments[6] if len(arguments) > 6 else None
    if metadata:
        return Placeholder("it is a conjugate or negative view")
    if not (_is_count(offset) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        return Placeholder("its offset, shape or strides are not whole numbers from 0 up")
    if len(shape) != len(strides) or len(shape) > 64 or not all(map(_is_count, shape + strides)):
        return Placeholder("its shape and strides are not equally many whole numbers from 0 up")
    record = TensorRecord(storage, offset, shape, strides)
    if record.end > storage.num_elements:
        return Placeholder(f"it reaches to element {record.end} of a storage of {storage.num_elements}")
    return record


def _first(arguments: tuple) -> object:
    return arguments[0] if arguments else Placeholder("it is a parameter without data")


def _subclass(arguments: tuple) -> object:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes, which are left out."""
    function, inner = (arguments[0], arguments[2]) if len(arguments) > 2 else (None, None)
    if _understood(function) in (_tensor, _first):
        return _reduce(function, inner)
    return Placeholder("it is a tensor subclass")


def _ordered_dict(arguments: tuple) -> object:
    """Python 3 pickles it empty, and sets its items afterwards."""
    return Placeholder("it is a dict made of something") if arguments else {}


def _is_key(value: object) -> bool:
    # Only keys whose hash is cheap: that of a tuple recurses, and that of a long number is taken anew each time.
    if isinstance(value, int):
        return value.bit_length() <= 1024
    return isinstance(value, (str, bytes, float)) or value is None


_UNDERSTOOD: dict[Name, Callable[[tuple], object]] = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _first,
    Name("torch._utils", "_rebuild_parameter_with_state"): _first,
    Name("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Name("collections", "OrderedDict"): _ordered_dict,
}


def _understood(function: object) -> Callable[[tuple], object] | None:
    return _UNDERSTOOD.get(function) if isinstance(function, Name) else None


def _reduce(function: object, arguments: object) -> object:
    """What a pickle's "call this with that" gives."""
    understood = _understood(function)
    return understood(arguments) if understood and isinstance(arguments, tuple) else _instance(function)


def _instance(of: object) -> Placeholder:
    return Placeholder(f"it is an object made by {of}" if isinstance(of, Name) else "it is an object of unknown type")


def _storage(identity: object) -> object:
    """A persistent id: `("storage", class, key, location, number of elements)`."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        return Placeholder("it is not a storage")
    _, kind, key, _, num_elements = identity
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.cuda") or kind.name not in _STORAGE_DTYPES:
        of_what = f", a {kind}," if isinstance(kind, Name) else ""
        return Placeholder(f"its storage{of_what} is not one of plain numbers")
    if not isinstance(key, str) or len(key) > _MAX_NAME or not _is_count(num_elements):
        return Placeholder("its storage is not described by a name and a size")
    return Storage(f"data/{key}", _STORAGE_DTYPES[kind.name], num_elements)


class _StackMachine:
    """Runs the instructions of a pickle, each on plain values; see the module's docstring."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> object:
        for instruction, argument, _ in itertools.islice(pickletools.genops(data), _MAX_PICKLE_STEPS):
            if instruction.name == "STOP":
                return self.stack.pop()
            self.step(instruction.name, argument)
        raise ValueError(f"no STOP within {_MAX_PICKLE_STEPS:,} steps")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT" | "NONE":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "MARK":
                self.below_marks.append(stack)
                self.stack = []
            case "POP_MARK":
                self.since_mark()
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise ValueError("stack underflow")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                items = self.since_mark()
                self.stack.append(items)
            case "APPEND":
                item = stack.pop()
                self.extend(stack[-1], [item])
            case "APPENDS":
                items = self.since_mark()
                self.extend(self.stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self.since_mark()
                self.stack.append({})
                self.update(self.stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.update(stack[-1], [key, value])
            case "SETITEMS":
                items = self.since_mark()
                self.update(self.stack[-1], items)
            case "EMPTY_SET":
                stack.append(Placeholder("it is a set"))
            case "ADDITEMS":
                self.since_mark()
            case "FROZENSET":
                self.since_mark()
                self.stack.append(Placeholder("it is a set"))
            case "GLOBAL":
                module, _, qualified = argument.partition(" ")
                stack.append(Name(module, qualified))
            case "STACK_GLOBAL":
                qualified, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(qualified, str):
                    raise ValueError("a class is named by something that is not a string")
                stack.append(Name(module, qualified))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_reduce(function, arguments))
            case "NEWOBJ":
                _, of = stack.pop(), stack.pop()
                stack.append(_instance(of))
            case "NEWOBJ_EX":
                _, _, of = stack.pop(), stack.pop(), stack.pop()
                stack.append(_instance(of))
            case "OBJ":
                items = self.since_mark()
                self.stack.append(_instance(items[0]))
            case "INST":
                self.since_mark()
                module, _, qualified = argument.partition(" ")
                self.stack.append(_instance(Name(module, qualified)))
            case "BUILD":
                stack.pop()  # The state of an object: a placeholder has none, and torch's dicts carry only versions.
            case "PERSID":
                stack.append(Placeholder("it is not a storage"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise ValueError(f"instruction {name}")

    @staticmethod
    def extend(target: object, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)

    @staticmethod
    def update(target: object, items: list[Any]) -> None:
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[key if _is_key(key) else Placeholder("it is not a name")] = value


def read_pickle(data: bytes) -> object:
    """The plain values, tensor records and placeholders that a pickle describes.

    Raises:
        ConversionError: If it is not a whole, valid pickle.
    """
    try:
        return _StackMachine().run(data)
    except Exception as error:  # Whatever a broken or hostile program makes of the machine, it is the file's fault.
        raise ConversionError(f"its pickle is broken ({type(error).__name__}: {str(error)[:200]})") from None


class _Record(NamedTuple):
    start: int
    num_bytes: int
    crc: int


class OriginalCheckpoint:
    """An open checkpoint of the original: names, shapes and settings at once, values one tensor at a time.

    A context manager; the file is closed at its end.

    Args:
        path: A file that `torch.save` wrote: a dict with a `state_dict`, or a state dict alone.

    Raises:
        ConversionError: If it is not such a file, or truncated or corrupt.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        self._checked: set[_Record] = set()
        try:
            with open(path, "rb") as file:
                _refuse_other_formats(file.read(64))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ConversionError(f"cannot read {self._path}: {error.strerror or error}") from None
        except ConversionError as error:
            raise ConversionError(f"{self._path} {error}") from None
        try:
            with self._naming_the_file():
                self._records = self._read_directory()
                root = read_pickle(self._read_pickle_bytes())
                self._state, self.hyper_parameters = _find_state(root)
                self._state = {name: self._located(value) for name, value in self._state.items()}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "OriginalCheckpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._map.close()

    @property
    def names(self) -> list[object]:
        """The keys of the state dict, in its order; a hostile file may hold keys that are no strings."""
        return list(self._state)

    def record(self, name: str) -> TensorRecord:
        """Shape, dtype and place of one tensor.

        Raises:
            ConversionError: If the value under that key cannot be read as a tensor.
        """
        value = self._state[name]
        if isinstance(value, TensorRecord):
            return value
        reason = value.reason if isinstance(value, Placeholder) else f"it is a {type(value).__name__}"
        raise ConversionError(f"{self._path}: the tensor {name} cannot be read: {reason}")

    def read(self, name: str) -> torch.Tensor:
        """One tensor's values, contiguous and in memory of their own.

        Raises:
            ConversionError: If it cannot be read, or its bytes do not have the checksum that the file records.
        """
        record = self.record(name)
        if not record.num_elements:
            return torch.empty(record.shape, dtype=record.dtype)
        place = self._records[record.storage.record_name]
        if place not in self._checked:
            with self._naming_the_file():
                self._check_sum(f"the data of {name}", place)
            self._checked.add(place)
        start = place.start + record.offset * record.dtype.itemsize
        num_bytes = (record.end - record.offset) * record.dtype.itemsize
        values = torch.from_numpy(np.frombuffer(self._map, np.uint8, num_bytes, start).copy())
        self._let_go(start, num_bytes)
        values = values.view(record.dtype).as_strided(record.shape, record.strides).contiguous()
        # An axis of length 1 counts as contiguous whatever its stride; here it gets the usual one.
        return values.as_strided((record.num_elements,), (1,)).view(record.shape)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except ConversionError as error:
            raise ConversionError(f"{self._path}: {error}") from None

    def _read_directory(self) -> dict[str, _Record]:
        """Where each record of the zip file lies."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                entries = archive.infolist()
            records = {}
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ConversionError("its records are compressed or encrypted, which torch.save never does")
                magic, name_length, extra_length = _LOCAL_HEADER.unpack_from(self._map, entry.header_offset)
                start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
                if magic != b"PK\x03\x04" or start + entry.file_size > len(self._map):
                    raise ConversionError("truncated or corrupt: its directory points outside the file")
                _, _, name = entry.filename.partition("/")  # The rest of the path lies in a folder of any name.
                records[name] = _Record(start, entry.file_size, entry.CRC)
        except ConversionError:
            raise
        except Exception as error:  # zipfile raises half a dozen types for broken files.
            raise ConversionError(f"truncated or corrupt: {error}") from None
        return records

    def _read_pickle_bytes(self) -> bytes:
        record = self._records.get("data.pkl")
        if record is None:
            raise ConversionError("a zip file without data.pkl, so not written by torch.save")
        if record.num_bytes > _MAX_PICKLE_BYTES:
            raise ConversionError(f"its pickle has {record.num_bytes} bytes, far more than any WavTokenizer's")
        byte_order = self._records.get("byteorder")
        if byte_order and self._bytes(byte_order).decode("latin-1").strip() != sys.byteorder:
            raise ConversionError("written on a machine of the other byte order; load and save it there again")
        self._check_sum("the pickle", record)
        return self._bytes(record)

    def _bytes(self, record: _Record) -> bytes:
        return self._map[record.start : record.start + record.num_bytes]

    def _check_sum(self, what: str, record: _Record) -> None:
        if not record.crc:  # torch writes 0 where it was told to compute none.
            return
        crc = 0
        for start in range(record.start, record.start + record.num_bytes, _BLOCK_BYTES):
            stop = min(start + _BLOCK_BYTES, record.start + record.num_bytes)
            with memoryview(self._map) as view, view[start:stop] as block:
                crc = zlib.crc32(block, crc)
            self._let_go(start, stop - start)
        if crc != record.crc:
            raise ConversionError(f"corrupt: the checksum of {what} is wrong")

    def _let_go(self, start: int, num_bytes: int) -> None:
        """Gives the pages of a range back, which otherwise count as this process's memory until the file is closed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            aligned = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, aligned, start + num_bytes - aligned)

    def _located(self, value: object) -> object:
        """The value, or a placeholder where it is a tensor whose bytes the file does not have."""
        if not isinstance(value, TensorRecord):
            return value
        storage = value.storage
        place = self._records.get(storage.record_name)
        if place is None:
            return Placeholder(f"the file has no record {folded(storage.record_name)}")
        if storage.num_elements * storage.dtype.itemsize > place.num_bytes:
            return Placeholder(
                f"its storage of {storage.num_elements} elements has {place.num_bytes} bytes in the file"
            )
        if value.num_bytes > len(self._map):
            return Placeholder(f"its {value.num_bytes} bytes are more than the file has")
        return value


def _refuse_other_formats(head: bytes) -> None:
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        reason = "is empty"
    elif head.startswith(b"version https://git-lfs"):
        reason = "is a Git LFS pointer, not the checkpoint itself; fetch it with `git lfs pull` or `hf download`"
    elif head.startswith(_LEGACY_MAGIC):
        reason = (
            "is in torch's format from before release 1.6, which is not read here; where you trust the file, load it "
            "with torch.load and save it again with torch.save"
        )
    elif head[8:9] == b"{":
        reason = "is a safetensors file, not a checkpoint of the original"
    else:
        reason = "is not a checkpoint: torch.save writes zip files, and this is none"
    raise ConversionError(reason)


def _find_state(root: object) -> tuple[dict[object, object], Mapping[object, object]]:
    if not isinstance(root, dict):
        raise ConversionError("not a WavTokenizer checkpoint: it holds no dict")
    state = root.get("state_dict", root)
    if not isinstance(state, dict):
        raise ConversionError("not a WavTokenizer checkpoint: its state_dict is not a dict")
    settings = root.get("hyper_parameters")
    return state, settings if isinstance(settings, dict) else {}
