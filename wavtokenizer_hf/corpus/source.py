"""What a corpus is made of: audio files, a manifest, tar archives or a dataset."""

import collections
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from wavtokenizer_hf.audio.dataset_rows import is_saved_dataset
from wavtokenizer_hf.audio.files import AUDIO_SUFFIXES, walk
from wavtokenizer_hf.audio.manifest import MANIFEST_NAMES, MANIFEST_SUFFIXES
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.dataset_source import DatasetSource
from wavtokenizer_hf.corpus.file_source import FileSource
from wavtokenizer_hf.corpus.tar_source import TAR_SUFFIX, TarSource

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SUFFIXES = (*AUDIO_SUFFIXES, *MANIFEST_SUFFIXES, TAR_SUFFIX)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Source(Protocol):
    """Lists clips, and opens them in any process: it can be pickled."""

    @property
    def name(self) -> str:
        """What to call it in files that others read: not where it lies on this machine."""

    @property
    def identity(self) -> str:
        """What tells its content from another one's, beyond what its clips say."""

    @property
    def passed_over(self) -> collections.Counter[str]:
        """What `clips` saw and did not list, by suffix or another word; known when it is through."""

    def clips(self) -> Iterator[PlannedClip]:
        """All clips, in an order that is the same every time; also what is wrong with the source, as a problem."""

    def open(self, clip: PlannedClip) -> Path | BinaryIO:
        """What to read a clip from."""


def find_source(
    given: str | os.PathLike[str], *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> Source:
    """Tells what a user names.

    Args:
        given: An audio file, a folder of them, a pattern, a manifest (see `audio.manifest`), a tar archive of
            WebDataset, a folder or a pattern of these, a folder that `Dataset.save_to_disk` wrote, or a dataset's
            name on the Hugging Face Hub.
        config: Of a dataset on the Hub.
        split: Of a dataset on the Hub; `None` means `train`.
        revision: Of a dataset on the Hub.

    Raises:
        FileNotFoundError: If there is nothing of that name, or a folder or pattern holds no audio.
        ValueError: If the archives are compressed, or `config`, `split` or `revision` are given for something else.
    """
    name, path = os.fspath(given), Path(given)
    if name.lower().endswith(_COMPRESSED_TARS):
        raise ValueError(
            f"{name} is compressed, so no recording in it can be read by itself: decompress it. Audio in tar archives "
            "is compressed already."
        )
    is_file = path.exists() or glob.has_magic(name) or path.suffix.lower() in _SUFFIXES
    if not is_file and _HUB_ID.fullmatch(name):
        return DatasetSource(name, config=config, split=split or "train", revision=revision)
    if config or split or revision:
        raise ValueError(f"a config, split or revision is that of a dataset on the Hub, and {name} is not one")
    if is_saved_dataset(path):
        return DatasetSource(name)
    if path.suffix.lower() == TAR_SUFFIX or _holds_only_tars(path):
        return TarSource(name)
    return FileSource(name)


def _holds_only_tars(folder: Path) -> bool:
    """Whether a folder has archives in it and neither a manifest nor an audio file."""
    if not folder.is_dir() or any((folder / name).is_file() for name in MANIFEST_NAMES):
        return False
    holds_tars = False
    for file in walk(folder, (*AUDIO_SUFFIXES, TAR_SUFFIX), collections.Counter()):
        holds_tars = file.path.suffix.lower() == TAR_SUFFIX
        if not holds_tars:
            return False
    return holds_tars
