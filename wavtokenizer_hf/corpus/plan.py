"""What is to be done: which clips, cut into which shards, by which model. Written down before the first clip is read.

A plan is `manifest.json` and a table of clips, `plan/clips.parquet`, in which a row group is a shard.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.audio_input import versions
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.source import Source

FORMAT = "wavtokenizer-corpus"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOG = Path("log")
CLIPS = Path("plan", "clips.parquet")
_BEFORE_THE_PLAN = (CLIPS.parent.name, LOG.name)
# What the table of codes says of a clip; a kept column of such a name gets a prefix.
OWN_COLUMNS = ("id", "codes", "num_samples", "duration", "source")
_PREFIX = "input_"
_TELL_EVERY = 1000
# What else may have changed of a clip, and what to call it.
_NAMES = {
    "source": "source",
    "offset": "place in its archive",
    "size": "size",
    "archive_size": "size of its archive",
    "mtime_ns": "time of change",
    "row": "row",
    "start_s": "start",
    "end_s": "end",
    "problem": "state",
    "columns": "columns",
}

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("archive_size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64()),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("problem_kind", pa.string(), nullable=False),
        pa.field("columns", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides, beside recordings and model, what a corpus will hold.

    Args:
        dtype: Number format of the model's weights, as torch names it.
        shard_clips: Most clips of a shard.
        shard_mb: Recordings of a shard come to about so many megabytes at most, where their sizes are known.
        max_hours: A longer recording is refused.
        keep_silent: Whether recordings without a sound are tokenised, too, instead of being listed as errors.
        allow_incomplete: Whether to take what there is of recordings that break off; without it they are errors.
    """

    dtype: str = "float32"
    shard_clips: int = 2000
    shard_mb: float = 1024.0
    max_hours: float = 24.0
    keep_silent: bool = False
    allow_incomplete: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What tells settings apart; those that came later count only where they are used, so that plans go on."""
        values = dataclasses.asdict(self)
        return values if self.allow_incomplete else {k: v for k, v in values.items() if k != "allow_incomplete"}


@dataclasses.dataclass(frozen=True)
class Shard:
    """Clips whose codes are written together."""

    index: int
    clips: list[PlannedClip]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan as it is written down.

    Args:
        folder: Where the corpus comes to lie.
        digest: Tells it from every other plan.
        inputs: Digest of the recordings alone.
        columns: Those that are kept, by what the corpus calls them.
        passed_over: What lay beside the recordings, counted by suffix.
        reading: What decodes and resamples, with versions; see `audio_input.versions`. Empty in older corpora.
    """

    folder: Path
    digest: str
    inputs: str
    source: str
    codec: CodecSpec
    settings: Settings
    columns: dict[str, str]
    num_clips: int
    num_shards: int
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
    reading: dict[str, str] = dataclasses.field(default_factory=dict)

    def shard(self, index: int) -> Shard:
        rows = self._table.read_row_group(index).to_pylist()
        return Shard(index, [_clip(row) for row in rows])

    @cached_property
    def _table(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / CLIPS)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}


def make_plan(
    folder: Path,
    source: Source,
    codec: CodecSpec,
    settings: Settings,
    on_listed: Callable[[int], None] = lambda num_clips: None,
) -> Plan:
    """Lists all recordings, and writes the plan down; or finds that it is the one that is there already.

    Args:
        on_listed: Is told now and then how many there are so far.

    Raises:
        FileExistsError: If the folder holds another plan, or anything else.
        FileNotFoundError, ValueError: If the source holds nothing, nothing but problems, or two clips of one id.
    """
    before = find_plan(folder)
    (folder / CLIPS).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CLIPS) as unfinished:
        listing = _Listing(source.identity, on_listed)
        with pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd") as writer:
            for clips in _cut(listing.of(source.clips()), settings):
                writer.write_table(_table(clips), row_group_size=len(clips))
                listing.num_shards += 1
        if listing.num_clips == listing.num_problems:
            raise ValueError(f"{source.name} holds no recording{listing.first_problem}")
        inputs = listing.digest.hexdigest()
        plan = Plan(
            folder,
            _digest([inputs, codec.fingerprint, settings.identity]),
            inputs,
            source.name,
            codec,
            settings,
            _output_names(listing.columns),
            listing.num_clips,
            listing.num_shards,
            dict(sorted(source.passed_over.items())),
            versions(),
        )
        if before is not None and before.digest != plan.digest:
            change = _first_change(_listed(folder / CLIPS), _listed(unfinished))
            raise FileExistsError(
                f"{folder} was begun with another plan: {_difference(before, plan, change)}. Give what was given "
                "then, or another folder."
            )
    if before is None:
        _write_manifest(plan)
    return plan


def find_plan(folder: Path) -> Plan | None:
    """The plan of a corpus, and `None` if there is none yet.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: As `load_plan`.
    """
    if (folder / MANIFEST).is_file():
        return load_plan(folder)
    if folder.exists() and any(path.name not in _BEFORE_THE_PLAN for path in folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else than a corpus: choose another folder, or empty it")
    return None


def load_plan(folder: Path) -> Plan:
    """Reads the plan of a corpus.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If it is not readable, or of a later version of the package.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / CLIPS).parent.is_dir():
            raise FileNotFoundError(
                f"{folder} is no corpus yet: its recordings are being listed, or that was interrupted and the same "
                "command begins again"
            )
        raise FileNotFoundError(f"{folder} is no corpus: it holds no {MANIFEST}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format version is {content['format_version']!r}, not {FORMAT_VERSION}")
        for later in ("passed_over", "reading"):
            content.setdefault(later, {})
        values = {field.name: content[field.name] for field in dataclasses.fields(Plan) if field.name != "folder"}
        values |= {"codec": CodecSpec.from_stored(values["codec"]), "settings": Settings(**values["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the manifest of a corpus that this package can read: {error}") from error
    return Plan(folder, **values)


class _Listing:
    """What is to be known of all clips together."""

    def __init__(self, identity: str, on_listed: Callable[[int], None]):
        self._on_listed = on_listed
        self.digest = hashlib.sha256(identity.encode())
        self.columns: dict[str, None] = {}
        self.num_clips = 0
        self.num_problems = 0
        self.first_problem = ""
        self.num_shards = 0

    def of(self, clips: Iterable[PlannedClip]) -> Iterator[PlannedClip]:
        ids = set()
        for clip in clips:
            if clip.id in ids:
                raise ValueError(
                    f"two clips are called {clip.id}: list each once, or give the list a column `id` that tells them "
                    "apart"
                )
            ids.add(clip.id)
            self.digest.update(json.dumps(clip.identity, ensure_ascii=False).encode() + b"\n")
            self.columns |= dict.fromkeys(clip.columns)
            self.num_clips += 1
            self.num_problems += bool(clip.problem)
            if clip.problem and not self.first_problem:
                self.first_problem = f": {clip.source}: {clip.problem}"
            if self.num_clips % _TELL_EVERY == 0:
                self._on_listed(self.num_clips)
            yield clip


def _cut(clips: Iterable[PlannedClip], settings: Settings) -> Iterator[list[PlannedClip]]:
    shard: list[PlannedClip] = []
    num_bytes = 0
    for clip in clips:
        size = clip.size or 0
        if shard and (len(shard) == settings.shard_clips or num_bytes + size > settings.shard_mb * 1e6):
            yield shard
            shard, num_bytes = [], 0
        shard.append(clip)
        num_bytes += size
    if shard:
        yield shard


def _table(clips: list[PlannedClip]) -> pa.Table:
    rows = [vars(clip) | {"path": os.fsencode(clip.path), "columns": list(clip.columns.items())} for clip in clips]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _clip(row: dict[str, Any]) -> PlannedClip:
    return PlannedClip(**row | {"path": os.fsdecode(row["path"]), "columns": dict(row["columns"])})


def _output_names(columns: Iterable[str]) -> dict[str, str]:
    """Names of kept columns in the corpus, and those in the input that they come from."""
    names: dict[str, str] = {}
    for column in filter(None, columns):
        name = column
        while name in OWN_COLUMNS or name in names:
            name = _PREFIX + name
        names[name] = column
    return names


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_manifest(plan: Plan) -> None:
    values = {name: value for name, value in dataclasses.asdict(plan).items() if name != "folder"}
    values["codec"] = plan.codec.to_stored()
    text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values}, indent=2, ensure_ascii=False)
    with replacing(plan.folder / MANIFEST) as unfinished:
        unfinished.write_text(text + os.linesep, encoding="utf-8")


def _difference(before: Plan, now: Plan, change: str) -> str:
    """In which points two plans differ, for people."""
    points = []
    if before.codec.fingerprint != now.codec.fingerprint:
        points.append(f"the model was {_model(before.codec)} and is {_model(now.codec)}")
    for field in dataclasses.fields(Settings):
        was, is_now = getattr(before.settings, field.name), getattr(now.settings, field.name)
        if was != is_now:
            points.append(f"{field.name.replace('_', '-')} was {was} and is {is_now}")
    if before.inputs != now.inputs:
        counts = f"{before.num_clips} clips then, {now.num_clips} now"
        points.append(f"the recordings, or what is said of them, have changed ({counts}{change})")
    return "; ".join(points)


def _listed(table: Path) -> Iterator[PlannedClip]:
    """The clips of a table; none if the table was left behind when the corpus was moved."""
    if table.is_file():
        for batch in pq.ParquetFile(table).iter_batches():
            yield from map(_clip, batch.to_pylist())


def _first_change(before: Iterable[PlannedClip], now: Iterable[PlannedClip]) -> str:
    """Where two lists differ first, for people."""
    for was, is_now in itertools.zip_longest(before, now):
        if was is None:
            return f"; first {is_now.id}, which is new"
        if is_now is None:
            return f"; first {was.id}, which is gone"
        if was.id != is_now.id:
            return f"; first {is_now.id}, where {was.id} was"
        changed = [name for field, name in _NAMES.items() if getattr(was, field) != getattr(is_now, field)]
        if changed:
            return f"; first {was.id}, in its {' and '.join(changed)}"
    return ""


def _model(codec: CodecSpec) -> str:
    return f"{codec.name} ({codec.fingerprint[:12]})"
