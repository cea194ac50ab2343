"""Where pairs come from: a codec that reconstructs recordings, or two folders."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import torch

from wavtokenizer_hf.audio.files import find_files
from wavtokenizer_hf.audio.manifest import Entry, find_entries
from wavtokenizer_hf.audio_input import read_audio
from wavtokenizer_hf.audio_preparation import prepare
from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.evaluation.pair import Coding, Pair

TRANSCRIPT_COLUMNS = ("text", "transcript")


class Pairs(Protocol):
    """Pairs that are made one at a time."""

    @property
    def entries(self) -> Sequence[Entry]:
        """The references, one for each pair."""

    @property
    def unmatched(self) -> Mapping[str, Sequence[str]]:
        """Files without a counterpart, by the side that they are on."""

    @property
    def has_codes(self) -> bool:
        """Whether pairs come with their codes."""

    @property
    def frame_rate(self) -> float | None:
        """Of the codec that makes or made the estimates, in Hz; `None` if unknown."""

    def load(self, index: int) -> Pair:
        """Makes a pair; a second call makes the same again.

        Raises:
            OSError: If a file cannot be opened.
            ValueError: If there is no clip in it.
        """


class SpreadPairs:
    """Some of other pairs: a number of them, evenly spread over the list."""

    def __init__(self, pairs: Pairs, num_pairs: int):
        total = len(pairs.entries)
        num_pairs = min(num_pairs, total)
        self._pairs = pairs
        self._indices = [index * total // num_pairs for index in range(num_pairs)]
        self.entries = [pairs.entries[index] for index in self._indices]
        self.unmatched = pairs.unmatched
        self.has_codes = pairs.has_codes
        self.frame_rate = pairs.frame_rate

    def load(self, index: int) -> Pair:
        return self._pairs.load(self._indices[index])


class CodecPairs:
    """Recordings, and what a codec makes of each, one at a time and timed.

    The reference is the recording as the codec gets it: mono and at its rate.

    Args:
        codec: In eval mode.
        options: For its `decode`.
        allow_incomplete: Whether to take what there is of recordings that break off.
    """

    has_codes = True

    def __init__(
        self,
        codec: Codec,
        entries: Sequence[Entry],
        options: Mapping[str, Any] | None = None,
        *,
        allow_incomplete: bool = False,
    ):
        self.codec = codec
        self.entries = entries
        self.options = options or {}
        self.allow_incomplete = allow_incomplete
        self.frame_rate = codec.spec.frame_rate
        self.unmatched: Mapping[str, Sequence[str]] = {}
        self._is_warm = False

    def load(self, index: int) -> Pair:
        entry = self.entries[index]
        reference = self._read(entry)
        if not self._is_warm:
            self._reconstruct(reference)  # the first call of a model pays for what later ones find ready
            self._is_warm = True
        estimate, coding = self._reconstruct(reference)
        return Pair(
            name=entry.name,
            reference=reference,
            estimate=estimate,
            sampling_rate=self.codec.spec.sampling_rate,
            kind=entry.kind,
            transcript=_transcript(entry),
            coding=coding,
            frame_rate=self.frame_rate,
        )

    @torch.inference_mode()
    def _reconstruct(self, clip: torch.Tensor) -> tuple[torch.Tensor, Coding]:
        """(T,) -> (T,)"""
        codec, clip_values = self.codec, clip[None, None].to(self.codec.device)
        start_s = self._now_s()
        codes = codec.encode(clip_values)
        encoded_s = self._now_s()
        audio_values = codec.decode(codes.audio_codes, codes.mask, len(clip), **self.options)
        decoded_s = self._now_s()
        coding = Coding(
            audio_codes=torch.from_numpy(codec.spec.flatten(codes.of_clip(0).cpu().numpy())),
            spec=codec.spec,
            encode_s=encoded_s - start_s,
            decode_s=decoded_s - encoded_s,
        )
        estimate = audio_values[0, 0].cpu()
        if not estimate.isfinite().all():
            raise ValueError("the codec gave NaN or infinity")
        return estimate, coding

    def _now_s(self) -> float:
        if self.codec.device.type != "cpu":
            torch.accelerator.synchronize(self.codec.device)
        return time.perf_counter()

    def _read(self, entry: Entry) -> torch.Tensor:
        """The entry's part of its recording, as the codec gets it, (T,)."""
        samples, rate = _read(entry, self.allow_incomplete)
        extractor = self.codec.feature_extractor
        return extractor(samples, sampling_rate=rate, resample=True, return_tensors="pt")["input_values"][0, 0]


class FolderPairs:
    """Recordings in one folder, and what became of them in another, matched by name without suffix.

    Where two files of a side have one name, the folders that they lie in count as well. A pair is brought to the
    estimate's rate, which is what the codec made of the reference, and cut to the shorter of the two.

    Args:
        references: Folder, pattern or manifest of the recordings; only a manifest says what kind they are.
        estimates: Folder or pattern of what became of them.
        frame_rate: Of the codec that made them, in Hz, if it is known.
        allow_incomplete: Whether to take what there is of recordings that break off.

    Raises:
        FileNotFoundError: If a folder holds no audio file.
        ValueError: If no name is on both sides, or names are not unique.
    """

    has_codes = False

    def __init__(
        self,
        references: str | os.PathLike[str],
        estimates: str | os.PathLike[str],
        frame_rate: float | None = None,
        *,
        allow_incomplete: bool = False,
    ):
        if frame_rate is not None and not 0 < frame_rate < math.inf:
            raise ValueError(f"a frame rate is a number of frames a second above 0, got {frame_rate:g}")
        self.frame_rate = frame_rate
        self.allow_incomplete = allow_incomplete
        found = [Entry(file.path, file.relative.as_posix()) for file in find_files([estimates])]
        sides = find_entries(references), found
        are_unique = all(len({_stem(entry) for entry in side}) == len(side) for side in sides)
        first, second = (_by_key(side, _stem if are_unique else _path_without_suffix) for side in sides)
        common = [key for key in first if key in second]
        if not common:
            raise ValueError(
                f"no file in {os.fspath(estimates)} is called like one in {os.fspath(references)}: the first here is "
                f"{found[0].name}, and there {sides[0][0].name}"
            )
        self.entries = [first[key] for key in common]
        self.unmatched: Mapping[str, Sequence[str]] = {
            "references": [entry.name for key, entry in first.items() if key not in second],
            "estimates": [entry.name for key, entry in second.items() if key not in first],
        }
        self._estimate_paths = [second[key].path for key in common]

    def load(self, index: int) -> Pair:
        entry = self.entries[index]
        path = self._estimate_paths[index]
        samples, sampling_rate = read_audio(path, allow_incomplete=self.allow_incomplete)
        reference = torch.from_numpy(prepare(*_read(entry, self.allow_incomplete), sampling_rate, entry.name))
        estimate = torch.from_numpy(prepare(samples, sampling_rate, sampling_rate, path.name))
        num_samples = min(len(reference), len(estimate))
        return Pair(
            name=entry.name,
            reference=reference[:num_samples],
            estimate=estimate[:num_samples],
            sampling_rate=sampling_rate,
            kind=entry.kind,
            transcript=_transcript(entry),
            frame_rate=self.frame_rate,
        )


def _read(entry: Entry, allow_incomplete: bool) -> tuple[np.ndarray, int]:
    """The entry's part of its recording, (C, N), and the rate."""
    return read_audio(entry.path, entry.start_s, entry.end_s, allow_incomplete=allow_incomplete)


def _transcript(entry: Entry) -> str:
    return next((entry.columns[name] for name in TRANSCRIPT_COLUMNS if entry.columns.get(name)), "")


def _stem(entry: Entry) -> str:
    return PurePath(entry.name).stem


def _path_without_suffix(entry: Entry) -> str:
    return PurePath(entry.name).with_suffix("").as_posix()


def _by_key(entries: Sequence[Entry], key_of: Callable[[Entry], str]) -> dict[str, Entry]:
    keyed: dict[str, Entry] = {}
    for entry in entries:
        other = keyed.setdefault(key_of(entry), entry)
        if other is not entry:
            raise ValueError(f"{other.name} and {entry.name} differ in their suffix alone: keep one of them")
    return keyed
