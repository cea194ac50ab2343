"""Lists of recordings: a folder, a pattern, or a manifest that says more about each of them."""

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from wavtokenizer_hf.audio.files import find_files

MANIFEST_SUFFIXES = (".tsv", ".jsonl")
# A folder with one of these in it is taken as the manifest says.
MANIFEST_NAMES = ("manifest.tsv", "manifest.jsonl")

PATH_COLUMNS = ("file", "path")
KIND_COLUMNS = ("kind", "domain")
_START_COLUMNS = ("start", "start_s")
_END_COLUMNS = ("end", "end_s")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A recording, or a part of one.

    Args:
        path: The audio file, which need not exist.
        name: What the list calls it; a part has its bounds before the suffix (`a/b@0.5-2.flac`).
        start_s: Where the part begins, in seconds.
        end_s: Where it ends; `None` is the recording's end.
        kind: What is heard, such as speech, music or sound, in lower case; empty if unknown.
        columns: All that the manifest says of it, as text.
    """

    path: Path
    name: str
    start_s: float = 0.0
    end_s: float | None = None
    kind: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_entries(source: str | os.PathLike[str]) -> list[Entry]:
    """Lists the recordings that a user names: a manifest, a folder, a pattern or a file.

    Raises:
        FileNotFoundError, ValueError: As `iterate_entries`.
    """
    return list(iterate_entries(source))


def iterate_entries(source: str | os.PathLike[str]) -> Iterator[Entry]:
    """As `find_entries`, one after the other, so that a manifest of any length needs no memory.

    A folder that holds a `manifest.tsv` or `manifest.jsonl` is taken as that says; any other is walked for audio.

    Raises:
        FileNotFoundError: If there is no such file, or the folder or pattern holds no audio file.
        ValueError: If the manifest cannot be read, or lists nothing.
    """
    path = Path(source)
    manifests = [path / name for name in MANIFEST_NAMES if (path / name).is_file()]
    if manifests:
        yield from iterate_manifest(manifests[0])
    elif path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        yield from iterate_manifest(path)
    else:
        found = find_files([source])
        if len(found) == 1 and not found[0].path.exists():
            raise FileNotFoundError(f"no such file: {os.fspath(source)}")
        yield from (Entry(file.path, file.relative.as_posix()) for file in found)


def read_manifest(path: str | os.PathLike[str]) -> list[Entry]:
    """Reads a list of recordings.

    Raises:
        FileNotFoundError, ValueError: As `iterate_manifest`.
    """
    return list(iterate_manifest(path))


def iterate_manifest(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Reads a list of recordings: tab-separated columns under a header (`.tsv`), or one JSON object a line (`.jsonl`).

    The column `file`, or else `path`, names the recording, relative to the manifest's folder. `start` and `end` (or
    `start_s` and `end_s`), in seconds, cut a part out of it. `kind`, or else `domain`, says what is heard. Other
    columns are kept as they are, and empty lines are passed over.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line cannot be read, with its number; or if nothing is listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    readers = {".tsv": _read_tsv, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"a manifest ends in {' or '.join(MANIFEST_SUFFIXES)}, got {path}")
    is_empty = True
    with open(path, encoding="utf-8-sig") as lines:
        for entry in _read_entries(reader(lines), path):
            is_empty = False
            yield entry
    if is_empty:
        raise ValueError(f"{path} lists no recording")


def _read_entries(rows: Iterator[tuple[int, Mapping[str, str]]], path: Path) -> Iterator[Entry]:
    try:
        for line, columns in rows:
            try:
                yield _entry(columns, path.parent)
            except ValueError as error:
                raise ValueError(f"line {line}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_tsv(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] = []
    for line, row in enumerate(rows, start=1):
        if not any(cell.strip() for cell in row):
            continue
        if not header:
            header = [cell.strip() for cell in row]
        elif len(row) > len(header):
            raise ValueError(f"line {line}: {len(row)} cells under a header of {len(header)}")
        else:
            yield line, dict(zip(header, row, strict=False))


def _read_jsonl(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    for line, item in enumerate(lines, start=1):
        if not item.strip():
            continue
        try:
            content = json.loads(item)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {line}: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"line {line}: expected an object, got {item.strip()[:80]}")
        yield line, {name: as_text(value) for name, value in content.items()}


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _entry(columns: Mapping[str, str], folder: Path) -> Entry:
    file = _first(columns, PATH_COLUMNS)
    if not file:
        raise ValueError(
            f"no recording is named; expected a column {' or '.join(PATH_COLUMNS)}, found {', '.join(columns)}"
        )
    start_s = _seconds(columns, _START_COLUMNS)
    end_s = _seconds(columns, _END_COLUMNS)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ValueError(f"{file} ends at {end_s:g} s, which is not after its start at {start_s or 0.0:g} s")
    name = PurePath(file)
    if start_s is not None or end_s is not None:
        # So many digits that a microsecond tells two parts of a day apart.
        name = name.with_stem(f"{name.stem}@{start_s or 0.0:.12g}-{'' if end_s is None else f'{end_s:.12g}'}")
    return Entry(
        path=folder / file,
        name=name.as_posix(),
        start_s=start_s or 0.0,
        end_s=end_s,
        kind=_first(columns, KIND_COLUMNS).casefold(),
        columns=dict(columns),
    )


def _first(columns: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((columns[name].strip() for name in names if columns.get(name, "").strip()), "")


def _seconds(columns: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    text = _first(columns, names)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{names[0]} must be a number of seconds, 0 or more, got {text!r}")
    return seconds
