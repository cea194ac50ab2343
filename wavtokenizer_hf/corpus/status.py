"""How far a corpus is."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wavtokenizer_hf.corpus.log import read_logs
from wavtokenizer_hf.corpus.plan import Plan, load_plan
from wavtokenizer_hf.corpus.shards import read_records
from wavtokenizer_hf.corpus.statistics import Statistics, sum_up


@dataclasses.dataclass(frozen=True)
class Status:
    """What the finished shards hold, and when something last happened.

    Args:
        last_event: Time of the log's last entry; `None` before the first.
        real_time_factor: Seconds of audio a second since the last start, of all processes together; `None` before the
            first shard.
    """

    plan: Plan
    statistics: Statistics
    last_event: datetime | None
    real_time_factor: float | None

    def as_json(self) -> dict[str, Any]:
        idle_s = (datetime.now(timezone.utc) - self.last_event).total_seconds() if self.last_event else None
        return {
            "source": self.plan.source,
            "model": self.plan.codec.name,
            "fingerprint": self.plan.codec.fingerprint,
            **{name: value for name, value in self.statistics.as_json().items() if name != "code_counts"},
            "real_time_factor": self.real_time_factor and round(self.real_time_factor, 2),
            "s_since_last_event": idle_s and round(idle_s, 1),
        }


def read_status(folder: Path) -> Status:
    """Reads how far a corpus is, while it is made or later.

    Raises:
        FileNotFoundError: If the folder holds no corpus.
        ValueError: If its manifest cannot be read.
    """
    plan = load_plan(folder)
    statistics = sum_up(plan, read_records(plan))
    entries = [entry | {"time": datetime.fromisoformat(entry["time"])} for entry in read_logs(folder)]
    last_event = max((entry["time"] for entry in entries), default=None)
    return Status(plan, statistics, last_event, _real_time_factor(entries))


def _real_time_factor(entries: Sequence[Mapping[str, Any]]) -> float | None:
    starts = [entry["time"] for entry in entries if entry["event"] == "start" and entry["process"] == 0]
    shards = [entry for entry in entries if entry["event"] == "shard" and starts and entry["time"] >= max(starts)]
    if not shards:
        return None
    wall_s = (max(entry["time"] for entry in shards) - max(starts)).total_seconds()
    return sum(entry["audio_s"] for entry in shards) / max(wall_s, 1e-3)
