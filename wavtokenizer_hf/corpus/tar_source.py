"""Clips in tar archives, as WebDataset packs them: files of one name, apart from what follows its first dot."""

import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES, FoundFile, find_files
from wavtokenizer_hf.audio.manifest import as_text
from wavtokenizer_hf.corpus.clip import PlannedClip

TAR_SUFFIX = ".tar"
_TEXT_SUFFIX, _JSON_SUFFIX = ".txt", ".json"


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        path = PurePosixPath(self.name)
        return (path.parent / path.name.partition(".")[0]).as_posix()


@dataclass(frozen=True)
class TarSource:
    """A tar archive, or a folder or pattern of them.

    Archives are indexed once; a recording is then read from its place, so that workers share an archive. Beside a
    recording, `.txt` becomes the column `txt`, and each key of a `.json` object a column of its name.

    Args:
        location: As `audio.files.find_files` takes it.
    """

    location: str

    @property
    def name(self) -> str:
        return Path(self.location).resolve().name

    @property
    def identity(self) -> str:
        return ""

    def clips(self) -> Iterator[PlannedClip]:
        found = find_files([self.location], (TAR_SUFFIX,))
        if len(found) == 1 and not found[0].path.exists():
            raise FileNotFoundError(f"no such archive: {self.location} (a pattern is written with *, ? or [ ])")
        for file in found:
            yield from _clips_in(file)

    def open(self, clip: PlannedClip) -> io.BytesIO:
        """The bytes of a member.

        Raises:
            ValueError: If the archive ends before they do.
        """
        with open(clip.path, "rb") as archive:
            archive.seek(clip.offset)
            content = archive.read(clip.size)
        if len(content) < (clip.size or 0):
            raise ValueError(f"the archive ends after {len(content)} of the recording's {clip.size} bytes")
        return io.BytesIO(content)


def _clips_in(archive: FoundFile) -> Iterator[PlannedClip]:
    path = archive.path.absolute()
    try:
        mtime_ns = os.stat(path).st_mtime_ns
        with open(path, "rb") as content, tarfile.open(fileobj=content, mode="r:") as tar:
            for _, members in itertools.groupby(_members(tar), key=lambda member: member.key):
                sample = list(members)
                columns = _columns(content, sample)
                for member in sample:
                    if _suffix(member) not in AUDIO_SUFFIXES:
                        continue
                    name = f"{archive.relative.as_posix()}/{member.name}"
                    yield PlannedClip(
                        id=name,
                        source=name,
                        path=os.fspath(path),
                        offset=member.offset,
                        size=member.size,
                        mtime_ns=mtime_ns,
                        columns=columns,
                    )
    except (OSError, tarfile.TarError) as error:
        # What came before it is planned; this row puts the archive itself into the table of errors.
        name = archive.relative.as_posix()
        yield PlannedClip(id=name, source=name, problem=f"the archive breaks off: {error}")


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # it would keep every one
        if member.isfile():
            yield _Member(member.name.removeprefix("./"), member.offset_data, member.size)


def _suffix(member: _Member) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _columns(archive: io.BufferedReader, sample: list[_Member]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for member in sample:
        if _suffix(member) not in (_TEXT_SUFFIX, _JSON_SUFFIX):
            continue
        archive.seek(member.offset)
        text = archive.read(member.size).decode("utf-8-sig", errors="replace")
        if _suffix(member) == _TEXT_SUFFIX:
            columns["txt"] = text
            continue
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            content = None
        if isinstance(content, dict):
            columns |= {key: as_text(value) for key, value in content.items()}
        else:
            columns["json"] = text
    return columns
