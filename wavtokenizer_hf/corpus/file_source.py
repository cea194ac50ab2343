"""Clips that lie in audio files of their own."""

import contextlib
import io
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wavtokenizer_hf.audio.manifest import PATH_COLUMNS, Entry, iterate_entries
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

    @property
    def name(self) -> str:
        return Path(self.location).resolve().name

    @property
    def identity(self) -> str:
        return ""

    def clips(self) -> Iterator[PlannedClip]:
        entries = iterate_entries(self.location)
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            while some := list(itertools.islice(entries, _NUM_AT_ONCE)):
                yield from threads.map(_planned, some)

    def open(self, clip: PlannedClip) -> Path | BinaryIO:
        try:
            clip.path.encode("utf-8")
        except UnicodeEncodeError:  # soundfile opens no file whose name is not text
            return io.BytesIO(Path(clip.path).read_bytes())
        return Path(clip.path)


def _planned(entry: Entry) -> PlannedClip:
    named = next((name for name in PATH_COLUMNS if entry.columns.get(name, "").strip()), "")
    columns = {name: text for name, text in entry.columns.items() if name not in (named, _ID_COLUMN)}
    path = entry.path.absolute()
    size, mtime_ns = None, None
    with contextlib.suppress(OSError):  # reading it will tell what is wrong
        seen = os.stat(path)
        size, mtime_ns = seen.st_size, seen.st_mtime_ns
    return PlannedClip(
        id=entry.columns.get(_ID_COLUMN, "").strip() or entry.name,
        source=entry.columns[named].strip() if named else entry.name,
        path=os.fspath(path),
        size=size,
        mtime_ns=mtime_ns,
        start_s=entry.start_s,
        end_s=entry.end_s,
        columns=columns,
    )
