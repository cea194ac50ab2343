"""Clips that lie in audio files of their own."""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from wavtokenizer_hf.audio.manifest import PATH_COLUMNS, Entry, iterate_entries
from wavtokenizer_hf.audio.named_bytes import NamedBytes
from wavtokenizer_hf.corpus.clip import PlannedClip

_ID_COLUMN = "id"

# A file system over a network answers slowly, and many questions at once.
_NUM_THREADS = 16
_NUM_AT_ONCE = 1000


@dataclass(frozen=True)
class FileSource:
    """A folder, pattern, manifest or audio file.

    Args:
        location: As `audio.manifest.iterate_entries` takes it.
    """

    location: str
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def name(self) -> str:
        return Path(self.location).resolve().name

    @property
    def identity(self) -> str:
        return ""

    def clips(self) -> Iterator[PlannedClip]:
        self.passed_over.clear()
        entries = iterate_entries(self.location, self.passed_over)
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            while some := list(itertools.islice(entries, _NUM_AT_ONCE)):
                yield from threads.map(_planned, some)

    def open(self, clip: PlannedClip) -> Path | BinaryIO:
        try:
            clip.path.encode("utf-8")
        except UnicodeEncodeError:  # soundfile opens no file whose name is not text
            return NamedBytes(Path(clip.path).read_bytes(), clip.source)
        return Path(clip.path)


def _planned(entry: Entry) -> PlannedClip:
    if entry.problem:
        return PlannedClip(entry.name, entry.name, problem=entry.problem)
    named = next((name for name in PATH_COLUMNS if entry.columns.get(name, "").strip()), "")
    columns = {name: text for name, text in entry.columns.items() if name not in (named, _ID_COLUMN)}
    path = entry.path.absolute()
    size, mtime_ns, problem = None, None, ""
    try:
        seen = os.stat(path)
        size, mtime_ns = seen.st_size, seen.st_mtime_ns
        if stat.S_ISDIR(seen.st_mode):
            os.scandir(path).close()  # a folder is listed itself where this is not allowed
    except ValueError:
        path, problem = Path(), "no file can have such a name"
    except PermissionError as error:
        problem = f"it cannot be opened: {error.strerror}"
    except OSError:
        pass  # reading it will tell what is wrong
    return PlannedClip(
        id=entry.columns.get(_ID_COLUMN, "").strip() or entry.name,
        source=entry.columns[named].strip() if named else entry.name,
        path=os.fspath(path),
        size=size,
        mtime_ns=mtime_ns,
        start_s=entry.start_s,
        end_s=entry.end_s,
        problem=problem,
        columns=columns,
    )
