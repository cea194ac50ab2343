"""A recording of a corpus, as a plan lists it."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """A recording or a part of one, and what was seen of it when it was listed.

    Args:
        id: Unlike that of any other clip of the corpus.
        source: What people call the recording: its path below the folder that was named, or in the manifest.
        path: The file that holds it; empty for a row of a dataset.
        offset: Where it begins in that file, in bytes, if the file is an archive.
        size: Its length in bytes; `None` if unknown.
        archive_size: That of the archive; `None` if it lies in none.
        mtime_ns: When its file was last changed; `None` if unknown.
        row: Its place in a dataset.
        start_s: Where the part begins, in seconds.
        end_s: Where it ends; `None` is the recording's end.
        problem: Why it cannot be read, where that is known already; also what else is wrong with the source.
        problem_kind: One of a few words, for counting.
        columns: What else is said of it.
    """

    id: str
    source: str
    path: str = ""
    offset: int = 0
    size: int | None = None
    archive_size: int | None = None
    mtime_ns: int | None = None
    row: int = 0
    start_s: float = 0.0
    end_s: float | None = None
    problem: str = ""
    problem_kind: str = "unreadable"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Names of files need not be text; tables hold nothing else.
        for name in ("id", "source", "problem"):
            object.__setattr__(self, name, as_plain_text(getattr(self, name)))
        columns = {as_plain_text(key): as_plain_text(text) for key, text in self.columns.items()}
        object.__setattr__(self, "columns", columns)

    @property
    def identity(self) -> list[object]:
        """What makes it the same clip as one that was planned before; not where this machine keeps it."""
        where = [self.offset, self.size, self.mtime_ns, self.row, self.start_s, self.end_s]
        problem = self.problem and [self.problem_kind, self.problem]
        archive = [] if self.archive_size is None else [self.archive_size]
        return [self.id, self.source, *where, problem, sorted(self.columns.items()), *archive]


def as_plain_text(name: str) -> str:
    """Text that every table and file can hold: what is no character is written out."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
