"""Files of codes. Such a file appears whole, with all that is to be recorded of its shard, or not at all."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
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
_CHECKSUMS = ("sha256", "footer_sha256")
_NO_CHECKSUM = "0" * 64
_TAIL = 8  # length of the footer, and `PAR1`
# What a footer or record raises that is not what was written.
_DAMAGE = (pa.ArrowException, zlib.error, AttributeError, KeyError, TypeError, ValueError)
TORN = "its footer is not that of a whole shard"
HOW_TO_GO_ON = "What is there is whole: once the reason is gone, the same command goes on"


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says of itself.

    Args:
        num_clips: Those that have codes.
        counts: How often each code occurs, int64 (K,).
        errors: Id, source, kind and reason of each clip that has none.
        sha256: Of the pages, which are all before the footer; empty in older shards.
        footer_sha256: Of the footer, with zeros in place of this.
    """

    index: int
    num_clips: int
    num_samples: int
    num_codes: int
    counts: np.ndarray
    errors: list[tuple[str, str, str, str]]
    sha256: str = ""
    footer_sha256: str = ""


class DamagedShardError(ValueError):
    """A shard that does not hold what it says."""

    def __init__(self, plan: Plan, index: int, reason: str):
        super().__init__(
            f"shard {index} of {plan.folder} ({shard_path(plan, index).name}) is damaged: {reason}. The command that "
            "made it makes it again"
        )
        self.reason = reason


def shard_path(plan: Plan, index: int) -> Path:
    return plan.folder / DATA / f"train-{index:05}-of-{plan.num_shards:05}.parquet"


def schema(plan: Plan) -> pa.Schema:
    code_type = pa.uint16() if plan.codec.num_entries <= 1 << 16 else pa.uint32()
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
        counts=np.bincount(codes, minlength=plan.codec.num_entries),
        errors=[
            (clip.id, clip.source, outcome.kind, outcome.reason)
            for clip, outcome in pairs
            if isinstance(outcome, Failure)
        ],
    )
    path = shard_path(plan, record.index)
    try:
        content = io.BytesIO()
        write_table(_table(plan, encoded, codes), content, {_RECORD_KEY: _as_json(plan, record)})
        record = _sealed(record, content.getbuffer())
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"shard {record.index} of {plan.num_shards} could not be written to {plan.folder} "
            f"({error.strerror or error}). {HOW_TO_GO_ON}",
        ) from error
    return record


def write_table(table: pa.Table, file: BinaryIO, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Writes a table for `datasets`, which opens none with an empty row group in it; each page has its checksum."""
    with pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True) as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=_ROWS_IN_GROUP)
        writer.add_key_value_metadata(metadata or {})


def read_record(plan: Plan, index: int) -> ShardRecord | None:
    """What is recorded of a shard; `None` if it is not finished, or its footer says something else than its record.

    Raises:
        ValueError: If the file there belongs to another plan.
    """
    path = shard_path(plan, index)
    try:
        footer = _read_footer(path)
        content = json.loads((footer.metadata or {})[_RECORD_KEY])
        digest = content.pop("plan")
        counts = np.frombuffer(zlib.decompress(base64.b64decode(content.pop("counts"))), "<i8")
        record = ShardRecord(counts=counts, errors=[tuple(error) for error in content.pop("errors")], **content)
        said, found = (record.index, record.num_clips, record.num_codes), (index, footer.num_rows, _num_codes(footer))
    except (FileNotFoundError, IsADirectoryError, *_DAMAGE):
        return None
    if digest != plan.digest:
        raise ValueError(f"{path} was made by another plan: move it away")
    return record if said == found else None


def read_batches(plan: Plan, record: ShardRecord) -> Iterator[pa.RecordBatch]:
    """The columns `codes` and `num_samples` of a shard, of some clips at a time.

    Raises:
        DamagedShardError: If the file or a page of it has another checksum, before any of it is given; or, at the end,
            if what was read sums up to something else than the record.
    """
    num_clips, num_samples, counts = 0, 0, np.zeros(plan.codec.num_entries, np.int64)
    content = shard_path(plan, record.index).read_bytes()
    try:
        pages = memoryview(content)[: _footer_start(content)]
        if record.sha256 and record.sha256 != hashlib.sha256(pages).hexdigest():
            raise ValueError("its checksum is that of another content")
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            for batch in file.iter_batches(_ROWS_IN_GROUP, columns=["codes", "num_samples"]):
                num_clips += batch.num_rows
                num_samples += int(batch["num_samples"].to_numpy().sum())
                found = np.bincount(batch["codes"].flatten().to_numpy(), minlength=len(counts))
                if len(found) > len(counts):
                    raise ValueError(f"it holds the code {len(found) - 1:,}")
                counts += found
                yield batch
        if (num_clips, num_samples) != (record.num_clips, record.num_samples):
            raise ValueError(f"{num_clips:,} clips of {num_samples:,} samples are not what was recorded")
        if not np.array_equal(counts, record.counts):
            raise ValueError("its codes are not those that were recorded")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedShardError(plan, record.index, " ".join(str(error).split())) from error


def damage_of(plan: Plan, record: ShardRecord) -> str:
    """Reads the whole of a shard, and says what is wrong with it; nothing if all is well."""
    try:
        for _ in read_batches(plan, record):
            pass
    except DamagedShardError as error:
        return error.reason
    return ""


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


def _num_codes(footer: pq.FileMetaData) -> int:
    """Codes of all row groups; a list that held none would count as one, but a clip has a code at least."""
    columns = [footer.schema.column(index).path.partition(".")[0] for index in range(footer.num_columns)]
    place = columns.index("codes")
    return sum(footer.row_group(group).column(place).num_values for group in range(footer.num_row_groups))


def _as_json(plan: Plan, record: ShardRecord) -> bytes:
    counts = zlib.compress(record.counts.astype("<i8").tobytes(), level=9)
    content = {**vars(record), "plan": plan.digest, "counts": base64.b64encode(counts).decode("ascii")}
    content |= dict.fromkeys(_CHECKSUMS, _NO_CHECKSUM)
    return json.dumps(content, ensure_ascii=False).encode()


def _sealed(record: ShardRecord, content: memoryview) -> ShardRecord:
    """Puts the checksums into a file that has zeros for them."""
    start = _footer_start(content)
    footer = content[start:]
    checksums: dict[str, Any] = {}
    for name, part in zip(_CHECKSUMS, (content[:start], footer), strict=True):
        checksums[name] = hashlib.sha256(part).hexdigest()
        place = _place_of(name, bytes(footer))
        footer[place : place + len(_NO_CHECKSUM)] = checksums[name].encode()
    return dataclasses.replace(record, **checksums)


def _read_footer(path: Path) -> pq.FileMetaData:
    """A footer that is what it was: of a damaged one Arrow may end the whole process.

    Raises:
        ValueError: If it has another checksum, or there is none.
    """
    with path.open("rb") as file:
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, num_bytes - _TAIL))
        tail = file.read()
        start = num_bytes + _footer_start(tail) - len(tail)
        if start < 0 or not tail.endswith(b"PAR1"):
            raise ValueError("it has no footer")
        file.seek(start)
        footer = bytearray(file.read())
    if b"footer_sha256" in footer:
        place = _place_of("footer_sha256", footer)
        said = footer[place : place + len(_NO_CHECKSUM)]
        footer[place : place + len(_NO_CHECKSUM)] = _NO_CHECKSUM.encode()
        if hashlib.sha256(footer).hexdigest().encode() != said:
            raise ValueError("its footer has another checksum")
        footer[place : place + len(_NO_CHECKSUM)] = said
    return pq.read_metadata(pa.BufferReader(bytes(footer)))


def _footer_start(content: bytes | memoryview) -> int:
    return len(content) - _TAIL - int.from_bytes(content[-_TAIL:-4], "little")


def _place_of(checksum: str, footer: bytes | bytearray) -> int:
    before = f'"{checksum}": "'.encode()
    return footer.index(before) + len(before)
