"""Lists of recordings: a folder, a pattern, or a manifest that says more about each of them."""

import collections
import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES, find_files

MANIFEST_SUFFIXES = (".tsv", ".jsonl")
# A folder with one of these in it is taken as the manifest says.
MANIFEST_NAMES = ("manifest.tsv", "manifest.jsonl")

PATH_COLUMNS = ("file", "path", "audio_filepath")
KIND_COLUMNS = ("kind", "domain")
_START_COLUMNS = ("start", "start_s", "offset")
_END_COLUMNS = ("end", "end_s")
# The length of a part whose start is given and whose end is not; otherwise it is only told.
_LENGTH_COLUMNS = ("duration", "duration_s")
_KNOWN_BOUNDS = (*_START_COLUMNS, *_END_COLUMNS, *_LENGTH_COLUMNS)
# What is called so bounds a part, but in which unit?
_BOUND_NAME = re.compile(
    r"((seg(ment)?|clip|part|utt(erance)?|audio|speech|frame|sample|time)_?)?(start|begin|end|stop|offset|onset)(ing)?"
    r"(_?(s|secs?|seconds?|ms|msecs?|millis(econds)?|us|ns|times?|timestamps?|at|pos(ition)?|samples?|frames?))?",
    re.IGNORECASE,
)
_PART_NAME = re.compile(r"seg(ment)?|interval|range|span|slice|bounds|time_?(stamps?|range|span)?", re.IGNORECASE)
_PART = re.compile(r"\[\s*[\d.]+\s*,\s*[\d.]+\s*\]")


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
        problem: What is wrong with the line of the manifest, which then says nothing else.
    """

    path: Path
    name: str
    start_s: float = 0.0
    end_s: float | None = None
    kind: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    problem: str = ""


def find_entries(source: str | os.PathLike[str]) -> list[Entry]:
    """Lists the recordings that a user names: a manifest, a folder, a pattern or a file.

    Raises:
        FileNotFoundError, ValueError: As `iterate_entries`; and for a line of a manifest that cannot be read.
    """
    checked = []
    for entry in iterate_entries(source):
        if entry.problem:
            raise ValueError(f"{entry.path}: {entry.problem}")
        checked.append(entry)
    return checked


def iterate_entries(
    source: str | os.PathLike[str], passed_over: collections.Counter[str] | None = None
) -> Iterator[Entry]:
    """As `find_entries`, one after the other, so that a manifest of any length needs no memory.

    A folder that holds a `manifest.tsv` or `manifest.jsonl` is taken as that says; any other is walked for audio. A
    line that cannot be read is an entry with a problem.

    Args:
        passed_over: As `audio.files.find_files` takes it.

    Raises:
        FileNotFoundError: If there is no such file, or the folder or pattern holds no audio file.
        ValueError: If a file is named that is neither a recording nor a manifest, by its suffix; or if a manifest
            lists nothing.
    """
    path = Path(source)
    manifests = [path / name for name in MANIFEST_NAMES if (path / name).is_file()]
    if manifests:
        yield from _iterate_manifest(manifests[0])
    elif path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        yield from _iterate_manifest(path)
    elif path.is_file() and path.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(
            f"{path} is neither a recording nor a manifest by its suffix: a manifest, which is a list of recordings, "
            f"ends in {' or '.join(MANIFEST_SUFFIXES)}, and may name recordings of any suffix"
        )
    else:
        found = find_files([source], passed_over=passed_over)
        if found[0].path == path and not path.exists():
            raise FileNotFoundError(f"no such file: {os.fspath(source)}")
        yield from (Entry(file.path, file.relative.as_posix()) for file in found)


def _iterate_manifest(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Reads a list of recordings: tab-separated columns under a header (`.tsv`), or one JSON object a line (`.jsonl`).

    The column `file`, or else `path` or `audio_filepath`, names the recording, relative to the manifest's folder.
    `start` and `end` (or `start_s` and `end_s`), or `offset` and `duration` as NeMo has them, in seconds, cut a part
    out of it. A `duration` without a start is no more than a column. `kind`, or else `domain`, says what is heard.
    Other columns are kept as they are, but those that seem to bound a part in some other way are a problem. Empty
    lines are passed over. A line that cannot be read is an entry that names its number and the problem.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header cannot be read, or nothing is listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    reader_for = {".tsv": _tsv_reader, ".jsonl": _jsonl_reader}[path.suffix.lower()]
    is_empty = True
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as text:
        lines = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
        try:
            read = reader_for(lines)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for number, line in lines:
            is_empty = False
            try:
                yield _entry(read(_checked_text(line)), path.parent)
            except (ValueError, RecursionError) as error:
                yield Entry(path, f"{path.name}:{number}", problem=f"line {number}: {_short(str(error))}")
    if is_empty:
        raise ValueError(f"{path} lists no recording")


def _checked_text(line: str) -> str:
    try:
        line.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}; save the manifest as UTF-8") from None
    return line


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def _tsv_reader(lines: Iterator[tuple[int, str]]) -> Callable[[str], Mapping[str, str]]:
    """What makes columns of a line, from the first line."""
    number, line = next(lines, (0, ""))
    header = [cell.strip() for cell in _checked_text(line).rstrip("\n").split("\t")]
    doubled = [name for name, count in collections.Counter(filter(None, header)).items() if count > 1]
    if doubled:
        raise ValueError(f"line {number}: two columns are called {doubled[0]}")

    def read(line: str) -> Mapping[str, str]:
        cells = line.rstrip("\n").split("\t")
        if len(cells) > len(header):
            raise ValueError(f"{len(cells)} cells under a header of {len(header)}")
        return dict(zip(header, cells, strict=False))

    return read


def _jsonl_reader(lines: Iterator[tuple[int, str]]) -> Callable[[str], Mapping[str, str]]:
    return _json_columns


def _json_columns(line: str) -> Mapping[str, str]:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {line.strip()[:80]}")
    for name in PATH_COLUMNS:
        if not isinstance(content.get(name, ""), (str, type(None))):
            raise ValueError(f"{name} must be text, got {as_text(content[name])}")
    return {name: as_text(value) for name, value in content.items()}


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
    unknown = [name for name, text in columns.items() if _seems_to_bound(name, text.strip())]
    if unknown:
        raise ValueError(
            f"the column {unknown[0]} seems to cut a part out of {file}, and only {', '.join(_KNOWN_BOUNDS)}, in "
            "seconds, are known: rename it"
        )
    start_s = _seconds(columns, _START_COLUMNS)
    end_s = _seconds(columns, _END_COLUMNS)
    if start_s is not None and end_s is None:
        length_s = _seconds(columns, _LENGTH_COLUMNS)
        end_s = None if length_s is None else start_s + length_s
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


def _seems_to_bound(name: str, text: str) -> bool:
    """Whether a column that is not known may say which part of a recording is meant."""
    if not text or name in _KNOWN_BOUNDS:
        return False
    return bool(_BOUND_NAME.fullmatch(name) or (_PART_NAME.fullmatch(name) and _PART.fullmatch(text)))


def _first(columns: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((columns[name].strip() for name in names if columns.get(name, "").strip()), "")


def _seconds(columns: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    given = {name: _number(name, columns[name]) for name in names if columns.get(name, "").strip()}
    if len(set(given.values())) > 1:
        raise ValueError(f"{' and '.join(given)} contradict each other")
    return next(iter(given.values()), None)


def _number(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, got {text.strip()!r}")
    return seconds
