"""Clips in a Hugging Face dataset."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from wavtokenizer_hf.audio.dataset_rows import AudioRows, import_datasets, is_saved_dataset, load_saved_dataset
from wavtokenizer_hf.corpus.clip import PlannedClip


@dataclass(frozen=True)
class DatasetSource:
    """One split of a dataset, which each process opens for itself.

    Args:
        location: A folder that `save_to_disk` wrote, or a name on the Hub, which is downloaded.
        config: Of a dataset on the Hub; so are `split` and `revision`.
    """

    location: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def name(self) -> str:
        return Path(self.location).resolve().name if is_saved_dataset(self.location) else self.location

    @property
    def identity(self) -> str:
        return self._rows.fingerprint

    @cached_property
    def _rows(self) -> AudioRows:
        if is_saved_dataset(self.location):
            return load_saved_dataset(self.location)
        try:
            dataset = import_datasets().load_dataset(
                self.location, self.config, split=self.split, revision=self.revision
            )
        except OSError as error:
            raise OSError(f"{self.location} is neither here nor to be had from the Hub: {error}") from error
        return AudioRows(dataset, self.location)

    def clips(self) -> Iterator[PlannedClip]:
        self.passed_over.clear()
        self.passed_over.update(f"column {name}" for name in self._rows.other_columns)
        for row, columns in enumerate(self._rows.columns()):
            yield PlannedClip(id=f"{row:09}", source=f"{self.name}[{row}]", row=row, columns=columns)

    def open(self, clip: PlannedClip) -> Path | BinaryIO:
        return self._rows.open(clip.row)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.pop("_rows", None)
        if is_saved_dataset(self.location):
            state["location"] = os.path.abspath(self.location)
        return state
