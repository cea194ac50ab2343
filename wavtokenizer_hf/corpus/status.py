"""How far a corpus is."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wavtokenizer_hf.corpus.log import read_logs
from wavtokenizer_hf.corpus.plan import Plan, load_plan
from wavtokenizer_hf.corpus.shards import TORN, ShardRecord, damage_of, read_records, shard_path
from wavtokenizer_hf.corpus.statistics import Statistics, sum_up


@dataclasses.dataclass(frozen=True)
class Status:
    """What the finished shards hold, and when something last happened.

    Args:
        last_event: Time of the log's last entry; `None` before the first.
        damaged: What is wrong with shards, by their number; `None` if they were not looked through.
        real_time_factor: Seconds of audio a second since the last start, of all processes together; `None` before the
            first shard.
    """

    plan: Plan
    statistics: Statistics
    last_event: datetime | None
    real_time_factor: float | None
    damaged: Mapping[int, str] | None = None

    def as_json(self) -> dict[str, Any]:
        idle_s = (datetime.now(timezone.utc) - self.last_event).total_seconds() if self.last_event else None
        return {
            "source": self.plan.source,
            "model": self.plan.codec.name,
            "fingerprint": self.plan.codec.fingerprint,
            **{name: value for name, value in self.statistics.as_json().items() if name != "code_counts"},
            "real_time_factor": self.real_time_factor and round(self.real_time_factor, 2),
            "s_since_last_event": idle_s and round(idle_s, 1),
            "passed_over": self.plan.passed_over,
            "damaged_shards": None
            if self.damaged is None
            else {str(index): why for index, why in self.damaged.items()},
        }


def read_status(folder: Path, verify: bool = False) -> Status:
    """Reads how far a corpus is, while it is made or later.

    Args:
        verify: Whether to read every shard to its end, and to compare it with its checksums and its record.

    Raises:
        FileNotFoundError: If the folder holds no corpus.
        ValueError: If its manifest cannot be read.
    """
    plan = load_plan(folder)
    records = list(read_records(plan))
    damaged = dict(_damage(plan, records)) if verify else None
    entries = [entry | {"time": datetime.fromisoformat(entry["time"])} for entry in read_logs(folder)]
    last_event = max((entry["time"] for entry in entries), default=None)
    return Status(plan, sum_up(plan, records), last_event, _real_time_factor(entries), damaged)


def _damage(plan: Plan, records: Sequence[ShardRecord | None]) -> Iterator[tuple[int, str]]:
    for index, record in enumerate(records):
        if record is not None and (reason := damage_of(plan, record)):
            yield index, reason
        elif record is None and shard_path(plan, index).exists():
            yield index, TORN


def _real_time_factor(entries: Sequence[Mapping[str, Any]]) -> float | None:
    starts = [entry["time"] for entry in entries if entry["event"] == "start" and entry["process"] == 0]
    shards = [entry for entry in entries if entry["event"] == "shard" and starts and entry["time"] >= max(starts)]
    if not shards:
        return None
    wall_s = (max(entry["time"] for entry in shards) - max(starts)).total_seconds()
    return sum(entry["audio_s"] for entry in shards) / max(wall_s, 1e-3)
