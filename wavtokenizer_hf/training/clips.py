"""Clips to train on: what files, manifests and Hugging Face datasets hold, and reading a section of one."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavtokenizer_hf.audio.dataset_rows import AudioRows, is_saved_dataset, load_saved_dataset
from wavtokenizer_hf.audio.manifest import Entry, find_entries
from wavtokenizer_hf.audio_input import open_audio

# The rate, in Hz, at which a recording was made, where its file has another.
ORIGIN_RATE_COLUMNS = ("origin_rate", "orig_sr")
WEIGHT_COLUMN = "weight"


@dataclasses.dataclass(frozen=True)
class DatasetRow:
    """An encoded recording in a Hugging Face dataset, fetched when it is opened."""

    rows: AudioRows
    index: int

    def open(self) -> Path | BinaryIO:
        return self.rows.open(self.index)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording, or a part of one.

    Args:
        name: What messages call it.
        source: Where the samples are.
        start_s: Where the clip begins in the recording, in seconds.
        end_s: Where it ends; `None` is the recording's end.
        origin_rate: Rate in Hz at which it was recorded, if its file has another.
        weight: How often it is wanted, relative to others.
        columns: What its manifest or dataset says of it, as text. `folder` is the topmost folder that it lies in below
            the source, empty if it lies in none.
    """

    name: str
    source: Path | DatasetRow
    start_s: float = 0.0
    end_s: float | None = None
    origin_rate: float | None = None
    weight: float = 1.0
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(
        self, max_s: float = math.inf, position: float = 0.0, *, allow_incomplete: bool = False
    ) -> tuple[np.ndarray, int]:
        """Reads the clip or, of one that is longer than `max_s`, a section of that length.

        Args:
            max_s: In seconds.
            position: Where the section lies: 0 is the start of the clip, and just below 1 its end.
            allow_incomplete: Take what there is of a recording that breaks off; see `audio_input.open_audio`.

        Returns:
            float32 samples (C, N), and the recording's sampling rate in Hz.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not readable audio, or holds no sample where the clip lies.
        """
        source = self.source.open() if isinstance(self.source, DatasetRow) else self.source
        with open_audio(source, name=self.name, allow_incomplete=allow_incomplete) as recording:
            rate = recording.sampling_rate
            start, end = recording.bounds(self.start_s, self.end_s)
            num_samples = int(min(end - start, max_s * rate))
            first = start + int(position * (end - start - num_samples + 1))
            return recording.read(first, first + num_samples), rate

    def seconds(self) -> float:
        """Length of the clip, as the recording's header tells it; errors are those of `read`."""
        source = self.source.open() if isinstance(self.source, DatasetRow) else self.source
        with open_audio(source, name=self.name) as recording:
            start, end = recording.bounds(self.start_s, self.end_s)
            return (end - start) / recording.sampling_rate


def find_clips(sources: Any) -> list[Clip]:
    """Lists the clips of one source, or of a list of sources one after the other.

    Args:
        sources: A source is an audio file, a folder, a pattern, a manifest (see `audio.manifest`), a map-style dataset
            of Hugging Face `datasets`, or a folder to which one was saved. Columns `origin_rate` (or `orig_sr`) and
            `weight`, where there are any, are numbers; see `Clip`.

    Raises:
        FileNotFoundError: If a file does not exist or a folder holds no audio.
        ValueError: If a manifest or dataset cannot be used; the message says where.
        ImportError: If a dataset is given and the package `datasets` is missing.
    """
    clips: list[Clip] = []
    for source in sources if isinstance(sources, (list, tuple)) else [sources]:
        if not isinstance(source, (str, os.PathLike)):
            clips += _from_rows(AudioRows(source, type(source).__name__))
        elif is_saved_dataset(source):
            clips += _from_rows(load_saved_dataset(source))
        else:
            clips += [_from_entry(entry) for entry in find_entries(source)]
    if not clips:
        raise ValueError("the sources hold no clip; expected files, folders, manifests or datasets")
    return clips


def clip_weights(
    clips: Sequence[Clip],
    by_column: Mapping[str, Mapping[Any, float]] | None = None,
    length_power: float = 0.0,
) -> np.ndarray:
    """How often each clip is to be drawn, relative to the others; a clip of weight 0 never is.

    Args:
        by_column: Factors by column and value, such as `{"kind": {"speech": 2.0}, "orig_sr": {16000: 0.5}}`, that
            multiply the clips' own weights. A value that is not named has the factor 1.
        length_power: Clips are drawn in proportion to this power of their length in seconds, too, for which every
            recording's header is read. One that cannot be read counts as a clip of a second, and fails when it is
            drawn.

    Returns:
        float64 (num_clips,).

    Raises:
        ValueError: If a weight is negative, no clip has one above 0, or a value is named that no clip has.
    """
    weights = np.array([clip.weight for clip in clips], dtype=np.float64)
    for column, factors in (by_column or {}).items():
        values = [clip.columns.get(column) for clip in clips]
        for value, factor in factors.items():
            chosen = np.array([found == str(value) for found in values])
            if not chosen.any():
                present = ", ".join(sorted({found for found in values if found is not None})[:20])
                raise ValueError(f"no clip has {column} = {value}; found {present or 'no such column'}")
            weights[chosen] *= factor
    if length_power:
        weights *= np.array([_seconds(clip) for clip in clips]) ** length_power
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError("sampling weights must be 0 or more, and above 0 for some clip")
    return weights


def _seconds(clip: Clip) -> float:
    try:
        return clip.seconds()
    except (OSError, ValueError, TypeError):
        return 1.0


def _clip(name: str, source: Path | DatasetRow, columns: Mapping[str, str], **section: Any) -> Clip:
    rates = [_number(columns, column, name) for column in ORIGIN_RATE_COLUMNS]
    weight = _number(columns, WEIGHT_COLUMN, name)
    return Clip(
        name,
        source,
        origin_rate=next((rate for rate in rates if rate), None),
        weight=1.0 if weight is None else weight,
        columns=columns,
        **section,
    )


def _number(columns: Mapping[str, str], column: str, name: str) -> float | None:
    text = columns.get(column, "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: {column} must be a number, 0 or more, got {text!r}")
    return number


def _from_entry(entry: Entry) -> Clip:
    folder, slash, _ = entry.name.partition("/")
    columns = {"folder": folder if slash else "", **entry.columns}
    return _clip(str(entry.path), entry.path, columns, start_s=entry.start_s, end_s=entry.end_s)


def _from_rows(rows: AudioRows) -> list[Clip]:
    return [
        _clip(f"{rows.name}[{index}]", DatasetRow(rows, index), columns)
        for index, columns in enumerate(rows.columns())
    ]
