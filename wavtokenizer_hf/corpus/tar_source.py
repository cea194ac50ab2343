"""Clips in tar archives, as WebDataset packs them: files of one name, apart from their last suffix."""

import collections
import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES, FoundFile, find_files, kind_by_suffix
from wavtokenizer_hf.audio.manifest import as_text
from wavtokenizer_hf.audio.named_bytes import NamedBytes
from wavtokenizer_hf.corpus.clip import PlannedClip

TAR_SUFFIX = ".tar"
_TEXT_SUFFIX, _JSON_SUFFIX = ".txt", ".json"
_TEXT_SUFFIXES = (_TEXT_SUFFIX, _JSON_SUFFIX)
_UNPAIRED = "unpaired"
_BLOCK = 512
_LOOK_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class _Member:
    """Something with a name in an archive.

    Args:
        problem: Why it has no bytes that could be read.
    """

    name: str
    offset: int
    size: int
    problem: str = ""

    @property
    def key(self) -> str:
        return PurePosixPath(self.name).with_suffix("").as_posix()

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@dataclasses.dataclass(frozen=True)
class TarSource:
    """A tar archive, or a folder or pattern of them.

    Archives are indexed once; a recording is then read from its place, so that workers share an archive. The `.txt` of
    a recording's name becomes the column `txt`, and each key of its `.json` object a column of that name; where they
    stand in the archive does not matter. What cannot be paired is a clip with a problem.

    Args:
        location: As `audio.files.find_files` takes it.
    """

    location: str
    passed_over: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter, compare=False)

    @property
    def name(self) -> str:
        return Path(self.location).resolve().name

    @property
    def identity(self) -> str:
        return ""

    def clips(self) -> Iterator[PlannedClip]:
        self.passed_over.clear()
        found = find_files([self.location], (TAR_SUFFIX,), self.passed_over)
        if len(found) == 1 and not found[0].path.exists():
            raise FileNotFoundError(f"no such archive: {self.location} (a pattern is written with *, ? or [ ])")
        for file in found:
            yield from _Archive(file, self.passed_over).clips()

    def open(self, clip: PlannedClip) -> BinaryIO:
        """The bytes of a member.

        Raises:
            ValueError: If the archive ends before they do.
        """
        with open(clip.path, "rb") as archive:
            archive.seek(clip.offset)
            content = archive.read(clip.size)
        if len(content) < (clip.size or 0):
            raise ValueError(f"the archive ends after {len(content)} of the recording's {clip.size} bytes")
        return NamedBytes(content, clip.source)


class _Archive:
    """One archive, and what is wrong with it."""

    def __init__(self, file: FoundFile, passed_over: collections.Counter[str]):
        self._path = file.path.absolute()
        self._name = file.relative.as_posix()
        self._passed_over = passed_over
        self._recordings: list[_Member] = []
        self._texts: list[_Member] = []

    def clips(self) -> Iterator[PlannedClip]:
        """Recordings in the archive's order; then what could not be paired; then what is wrong with the whole."""
        broken, size, mtime_ns = "", 0, 0
        try:
            seen = os.stat(self._path)
            size, mtime_ns = seen.st_size, seen.st_mtime_ns
            with open(self._path, "rb") as content:
                broken = self._index(content)
                columns, unpaired = self._paired(content)
        except OSError as error:
            broken, columns, unpaired = error.strerror or str(error), {}, []
        for member in self._recordings:
            name = f"{self._name}/{member.name}"
            yield PlannedClip(
                id=name,
                source=name,
                path=os.fspath(self._path),
                offset=member.offset,
                size=member.size,
                archive_size=size,
                mtime_ns=mtime_ns,
                problem=member.problem,
                columns=columns.get(member, {}),
            )
        yield from unpaired
        if broken:
            yield PlannedClip(id=self._name, source=self._name, problem=f"the archive breaks off: {broken}")

    def _index(self, content: BinaryIO) -> str:
        """Lists what is there, and tells what stops the list before the archive's end."""
        try:
            with tarfile.open(fileobj=content, mode="r:") as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every one
                    self._add(info)
                content.seek(tar.offset)
        except Exception as error:  # tarfile raises anything on a damaged header
            return " ".join(str(error).split())
        return _after_last_member(content)

    def _add(self, info: tarfile.TarInfo) -> None:
        name = info.name.removeprefix("./")
        problem = ""
        if info.issparse():
            problem = "it was packed with holes (tar --sparse), and only without them can it be read"
        elif info.islnk() or info.issym():
            problem = f"it is a link to {info.linkname}, and holds nothing itself"
        elif not info.isfile():
            problem = "it is no file"
        elif info.size < 0:
            raise ValueError(f"{name} has {info.size} bytes by its header")
        member = _Member(name, info.offset_data, info.size, problem)
        if info.isdir():
            return
        if member.suffix in AUDIO_SUFFIXES:
            self._recordings.append(member)
        elif member.suffix in _TEXT_SUFFIXES:
            self._texts.append(member)
        else:
            self._passed_over[kind_by_suffix(PurePosixPath(member.name))] += 1

    def _paired(self, content: BinaryIO) -> tuple[dict[_Member, dict[str, str]], list[PlannedClip]]:
        """What the texts say of each recording; and the texts that belong to none, or that a recording lacks."""
        recordings = _by_key(self._recordings)
        columns: dict[_Member, dict[str, str]] = {}
        unpaired: list[PlannedClip] = []
        for suffix in _TEXT_SUFFIXES:  # in this order, so that `txt` is the text's, whatever the object says
            texts = _by_key([text for text in self._texts if text.suffix == suffix])
            paired: set[str] = set()
            for key, candidates in texts.items():
                text, found = candidates[0], recordings.get(key, [])
                paired.add(key)
                if len(candidates) > 1:
                    problem = f"{len(candidates)} texts have this name"
                elif not found:
                    problem = "no recording has its name"
                elif len(found) > 1:
                    problem = f"{' and '.join(member.name for member in found)} both have its name"
                elif text.problem:
                    problem = text.problem
                else:
                    try:
                        said = _columns(content, text)
                    except (ValueError, RecursionError) as error:
                        unpaired.append(self._problem(text.name, "unreadable", _one_line(error)))
                        continue
                    mine = columns.setdefault(found[0], {})
                    mine |= {f"json_{name}" if name in mine else name: value for name, value in said.items()}
                    continue
                unpaired.append(self._problem(text.name, _UNPAIRED, problem))
            if texts:
                unpaired += [
                    self._problem(
                        f"{key}{suffix}",
                        _UNPAIRED,
                        f"{found[0].name} has no such text, and others of the archive have",
                    )
                    for key, found in recordings.items()
                    if key not in paired
                ]
        return columns, unpaired

    def _problem(self, name: str, kind: str, problem: str) -> PlannedClip:
        name = f"{self._name}/{name}"
        return PlannedClip(id=name, source=name, problem=problem, problem_kind=kind)


def _after_last_member(content: BinaryIO) -> str:
    """What is wrong with the end of an archive: two blocks of zeros, and nothing else."""
    start = content.tell()
    block = content.read(_BLOCK)
    if not block:
        return f"its end is missing at byte {start:,}"
    if block.strip(b"\0"):
        return f"the header at byte {start:,} is damaged, and what follows is not read"
    while block := content.read(_LOOK_AT_ONCE):
        if block.strip(b"\0"):
            return (
                f"after its end at byte {start:,} there is more, which is not read: unpack archives that were joined"
            )
    return ""


def _by_key(members: Sequence[_Member]) -> Mapping[str, list[_Member]]:
    keyed: dict[str, list[_Member]] = {}
    for member in members:
        keyed.setdefault(member.key, []).append(member)
    return keyed


def _columns(archive: BinaryIO, member: _Member) -> dict[str, str]:
    archive.seek(member.offset)
    text = archive.read(member.size).decode("utf-8-sig")
    if member.suffix == _TEXT_SUFFIX:
        return {"txt": text}
    content = json.loads(text)
    if isinstance(content, dict):
        return {key: as_text(value) for key, value in content.items()}
    return {"json": text}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
