"""Recordings in Hugging Face datasets."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from wavtokenizer_hf.audio.named_bytes import NamedBytes

# How `Dataset.save_to_disk` and `DatasetDict.save_to_disk` mark their folders.
_DATASET_FILE = "dataset_info.json"
_SPLITS_FILE = "dataset_dict.json"


class AudioRows:
    """The recordings of one split of a map-style dataset, fetched when they are opened.

    Args:
        dataset: One column is of the type `Audio`.
        name: What messages call it.

    Attributes:
        other_columns: Those that hold neither the recording nor plain values.

    Raises:
        ValueError: If it is no such dataset.
        ImportError: If the package `datasets` is missing.
    """

    def __init__(self, dataset: Any, name: str):
        if not all(hasattr(dataset, needed) for needed in ("features", "cast_column", "__len__")):
            raise ValueError(f"expected a path or one split of a map-style Hugging Face dataset, got {name}")
        features = dataset.features
        audio = [column for column, feature in features.items() if type(feature).__name__ == "Audio"]
        if len(audio) != 1:
            raise ValueError(
                f"{name}: expected one column of the type Audio, found {len(audio)} among {list(features)}"
            )
        self.name = name
        # What `datasets` itself tells versions of a dataset apart by; it has no public name.
        self.fingerprint = str(dataset._fingerprint)
        self._column = audio[0]
        self._texts = [column for column, feature in features.items() if type(feature).__name__ == "Value"]
        self.other_columns = [column for column in features if column not in (self._column, *self._texts)]
        # Undecoded, because decoding in `datasets` needs another audio library, and a section is all that is wanted.
        self._rows = dataset.with_format(None).cast_column(audio[0], import_datasets().Audio(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> Path | BinaryIO:
        """The encoded recording of a row.

        Raises:
            ValueError: If the row holds none.
        """
        audio = self._rows[index][self._column]
        if audio is None:
            raise ValueError("the row holds no audio")
        return Path(audio["path"]) if audio["bytes"] is None else NamedBytes(audio["bytes"], f"{self.name}[{index}]")

    def columns(self) -> Iterator[dict[str, str]]:
        """What each row says of its recording in plain values, as text."""
        if not self._texts:
            yield from ({} for _ in range(len(self)))
            return
        for row in self._rows.select_columns(self._texts):
            yield {column: str(value) for column, value in row.items() if value is not None}


def is_saved_dataset(folder: str | os.PathLike[str]) -> bool:
    """Whether `save_to_disk` wrote a folder, with one split or several."""
    return any(Path(folder, name).is_file() for name in (_DATASET_FILE, _SPLITS_FILE))


def load_saved_dataset(folder: str | os.PathLike[str]) -> AudioRows:
    """Opens a dataset that `save_to_disk` wrote.

    Raises:
        ValueError: If it holds several splits, or no audio.
        ImportError: If the package `datasets` is missing.
    """
    if (splits := Path(folder, _SPLITS_FILE)).is_file():
        raise ValueError(f"{folder} holds several splits ({splits.name}): name the folder of one of them")
    return AudioRows(import_datasets().load_from_disk(os.fspath(folder)), os.fspath(folder))


def import_datasets() -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"Hugging Face datasets need the package `datasets` ({error}). Install it with: "
            "python -m pip install 'wavtokenizer-hf[train]' or 'wavtokenizer-hf[corpus]'"
        ) from error
