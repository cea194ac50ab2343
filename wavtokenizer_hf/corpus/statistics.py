"""What a corpus holds, in figures."""

import collections
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio.codebook_use import codebook_use
from wavtokenizer_hf.corpus.plan import Plan
from wavtokenizer_hf.corpus.shards import ShardRecord, write_table

STATISTICS = "statistics.json"
ERRORS = "errors/errors.parquet"
_ERROR_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "kind", "reason")])


@dataclasses.dataclass
class Statistics:
    """Sums over the shards that are finished.

    Args:
        num_clips: Those that have codes.
        num_errors: Clips that have none, by kind of failure.
        counts: How often each code occurs, int64 (K,).
    """

    plan: Plan
    num_shards: int = 0
    num_clips: int = 0
    num_samples: int = 0
    num_codes: int = 0
    num_errors: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    counts: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.plan.codec.num_entries, np.int64)

    def add(self, record: ShardRecord) -> None:
        self.num_shards += 1
        self.num_clips += record.num_clips
        self.num_samples += record.num_samples
        self.num_codes += record.num_codes
        self.num_errors.update(kind for _, _, kind, _ in record.errors)
        self.counts += record.counts

    @property
    def hours(self) -> float:
        return self.num_samples / self.plan.codec.sampling_rate / 3600

    @property
    def is_complete(self) -> bool:
        return self.num_shards == self.plan.num_shards

    def as_json(self) -> dict[str, Any]:
        use = codebook_use(torch.from_numpy(self.counts)) if self.num_codes else None
        return {
            "is_complete": self.is_complete,
            "num_shards": self.num_shards,
            "num_shards_planned": self.plan.num_shards,
            "num_clips": self.num_clips,
            "num_clips_planned": self.plan.num_clips,
            "hours": round(self.hours, 6),
            "num_samples": self.num_samples,
            "num_codes": self.num_codes,
            "codebook": use and {**dataclasses.asdict(use), "size": len(self.counts)},
            "errors": dict(sorted(self.num_errors.items())),
            "code_counts": self.counts.tolist(),
        }


def sum_up(plan: Plan, records: Iterable[ShardRecord | None]) -> Statistics:
    statistics = Statistics(plan)
    for record in records:
        if record is not None:
            statistics.add(record)
    return statistics


def write_statistics(plan: Plan, records: Iterable[ShardRecord | None]) -> Statistics:
    """Writes the figures and the table of errors of a corpus."""
    statistics = Statistics(plan)
    rows = []
    for record in records:
        if record is not None:
            statistics.add(record)
            rows += [dict(zip(_ERROR_SCHEMA.names, error, strict=True)) for error in record.errors]
    with replacing(plan.folder / STATISTICS) as unfinished:
        unfinished.write_text(json.dumps(statistics.as_json()) + "\n", encoding="utf-8")
    path = plan.folder / ERRORS
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as unfinished, open(unfinished, "wb") as file:
        write_table(pa.Table.from_pylist(rows, schema=_ERROR_SCHEMA), file)
    return statistics
