"""What a run does, as lines of JSON for programs."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.corpus.plan import LOG
from wavtokenizer_hf.corpus.shards import ShardRecord


class CorpusLog:
    """Appends to the log of one process; several write files of their own.

    Args:
        folder: That of the corpus.
        process: Number of the process.
    """

    def __init__(self, folder: Path, process: int = 0):
        self._path = folder / LOG / f"{process:05}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # a process was killed while it wrote
                    file.write(b"\n")

    def write(self, event: str, **content: Any) -> None:
        entry = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event, **content}
        self._append(json.dumps(entry, ensure_ascii=False) + "\n")

    def shard(self, record: ShardRecord, codec: CodecSpec, *, wall_s: float, **where: Any) -> None:
        """A finished shard and the clips of it that failed.

        Args:
            where: `pid` and `host`, where it was made by another process.
        """
        for name, source, kind, reason in record.errors:
            self.write("error", shard=record.index, id=name, source=source, kind=kind, reason=reason)
        self.write(
            "shard",
            shard=record.index,
            num_clips=record.num_clips,
            num_errors=len(record.errors),
            num_codes=record.num_codes,
            audio_s=round(record.num_samples / codec.sampling_rate, 3),
            wall_s=round(wall_s, 3),
            **({"pid": os.getpid(), "host": socket.gethostname()} | where),
        )

    def _append(self, text: str) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)


def read_logs(folder: Path) -> Iterator[dict[str, Any]]:
    """All entries, file by file. Lines that were cut short are passed over."""
    for path in sorted((folder / LOG).glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):  # a line of text ends at other characters, too
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and {"time", "event"} <= entry.keys():
                    yield entry
