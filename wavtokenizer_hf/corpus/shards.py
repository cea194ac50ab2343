"""Files of codes. Such a file appears whole, with all that is to be recorded of its shard, or not at all."""

import base64
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.plan import Plan
from wavtokenizer_hf.corpus.reader import Failure
from wavtokenizer_hf.corpus.worker import EncodedClip, ShardResult

DATA = Path("data")
_RECORD_KEY = b"wavtokenizer"
_ROWS_IN_GROUP = 1000
HOW_TO_GO_ON = "What is there is whole: once the reason is gone, the same command goes on"


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says of itself.

    Args:
        num_clips: Those that have codes.
        counts: How often each code occurs, int64 (K,).
        errors: Id, source, kind and reason of each clip that has none.
    """

    index: int
    num_clips: int
    num_samples: int
    num_codes: int
    counts: np.ndarray
    errors: list[tuple[str, str, str, str]]


def shard_path(plan: Plan, index: int) -> Path:
    return plan.folder / DATA / f"train-{index:05}-of-{plan.num_shards:05}.parquet"


def schema(plan: Plan) -> pa.Schema:
    code_type = pa.uint16() if plan.codec.codebook_size <= 1 << 16 else pa.uint32()
    own = [
        ("id", pa.string()),
        ("codes", pa.list_(code_type)),
        ("num_samples", pa.int64()),
        ("duration", pa.float64()),
        ("source", pa.string()),
    ]
    return pa.schema([*own, *((name, pa.string()) for name in plan.columns)])


def write_shard(plan: Plan, result: ShardResult) -> ShardRecord:
    """Writes the codes of a shard.

    Raises:
        OSError: If there is no room, or no right to write; what was there stays.
    """
    pairs = list(zip(result.shard.clips, result.outcomes, strict=True))
    encoded = [(clip, outcome) for clip, outcome in pairs if isinstance(outcome, EncodedClip)]
    codes = np.concatenate([outcome.codes for _, outcome in encoded]) if encoded else np.zeros(0, np.int64)
    record = ShardRecord(
        index=result.shard.index,
        num_clips=len(encoded),
        num_samples=sum(outcome.num_samples for _, outcome in encoded),
        num_codes=len(codes),
        counts=np.bincount(codes, minlength=plan.codec.codebook_size),
        errors=[
            (clip.id, clip.source, outcome.kind, outcome.reason)
            for clip, outcome in pairs
            if isinstance(outcome, Failure)
        ],
    )
    table = _table(plan, encoded, codes).replace_schema_metadata({_RECORD_KEY: _as_json(plan, record)})
    path = shard_path(plan, record.index)
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"shard {record.index} of {plan.num_shards} could not be written to {plan.folder} "
            f"({error.strerror or error}). {HOW_TO_GO_ON}",
        ) from error
    return record


def write_table(table: pa.Table, file: BinaryIO) -> None:
    """Writes a table for `datasets`, which opens none with an empty row group in it."""
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=_ROWS_IN_GROUP)


def read_record(plan: Plan, index: int) -> ShardRecord | None:
    """What is recorded of a shard; `None` if it is not finished.

    Raises:
        ValueError: If the file there belongs to another plan.
    """
    path = shard_path(plan, index)
    try:
        metadata = pq.read_metadata(path).metadata or {}
        content = json.loads(metadata[_RECORD_KEY])
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    if content.pop("plan") != plan.digest:
        raise ValueError(f"{path} was made by another plan: move it away")
    counts = np.frombuffer(zlib.decompress(base64.b64decode(content.pop("counts"))), "<i8")
    return ShardRecord(counts=counts, errors=[tuple(error) for error in content.pop("errors")], **content)


def read_records(plan: Plan) -> Iterator[ShardRecord | None]:
    """What is recorded of each shard, in order."""
    for index in range(plan.num_shards):
        yield read_record(plan, index)


def remove_unfinished(plan: Plan) -> None:
    """Removes what a killed process was writing. No process may be writing now."""
    for path in plan.folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _table(plan: Plan, encoded: list[tuple[PlannedClip, EncodedClip]], codes: np.ndarray) -> pa.Table:
    types = schema(plan)
    ends = np.cumsum([0, *(len(outcome.codes) for _, outcome in encoded)], dtype=np.int32)
    code_type = types.field("codes").type
    values = pa.array(codes.astype(code_type.value_type.to_pandas_dtype()))
    rate = plan.codec.sampling_rate
    content: dict[str, Any] = {
        "id": [clip.id for clip, _ in encoded],
        "codes": pa.ListArray.from_arrays(pa.array(ends), values, type=code_type),
        "num_samples": [outcome.num_samples for _, outcome in encoded],
        "duration": [outcome.num_samples / rate for _, outcome in encoded],
        "source": [clip.source for clip, _ in encoded],
    }
    for name, column in plan.columns.items():
        content[name] = [clip.columns.get(column) for clip, _ in encoded]
    return pa.table(content, schema=types)


def _as_json(plan: Plan, record: ShardRecord) -> bytes:
    counts = zlib.compress(record.counts.astype("<i8").tobytes(), level=9)
    content = {**vars(record), "plan": plan.digest, "counts": base64.b64encode(counts).decode("ascii")}
    return json.dumps(content, ensure_ascii=False).encode()
