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
        mtime_ns: When its file was last changed; `None` if unknown.
        row: Its place in a dataset.
        start_s: Where the part begins, in seconds.
        end_s: Where it ends; `None` is the recording's end.
        problem: Why it cannot be read, where that is known already.
        columns: What else is said of it.
    """

    id: str
    source: str
    path: str = ""
    offset: int = 0
    size: int | None = None
    mtime_ns: int | None = None
    row: int = 0
    start_s: float = 0.0
    end_s: float | None = None
    problem: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Names of files need not be text; tables hold nothing else.
        for name in ("id", "source", "problem"):
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        object.__setattr__(self, "columns", {_as_text(key): _as_text(text) for key, text in self.columns.items()})

    @property
    def identity(self) -> list[object]:
        """What makes it the same clip as one that was planned before; not where this machine keeps it."""
        where = [self.offset, self.size, self.mtime_ns, self.row, self.start_s, self.end_s]
        return [self.id, self.source, *where, self.problem, sorted(self.columns.items())]


def _as_text(name: str) -> str:
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
