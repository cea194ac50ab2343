"""Random crops of clips, at one level and rate, whatever the files are like."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.training.clips import Clip
from wavtokenizer_hf.training.sampler import Draw

VALIDATION_PEAK_DB = -3.0

# A quieter peak is taken for this one: silence and the noise of its last bits are not made loud.
_LEAST_PEAK = 10 ** (-50 / 20)
# A longer clip is not kept in memory: it would be decoded from end to end for one section.
_LONGEST_KEPT_S = 60.0
# Clips in a row that cannot be read before it is taken for more than a few broken files.
_MAX_FAILURES = 100
# What the readers of files and datasets raise.
_FAILURES = (OSError, ValueError)


class CropDataset(Dataset[dict[str, Any]]):
    """Crops of clips for training, or the first seconds of each for validation.

    From a clip, or a random section of `max_clip_s` of a longer one, comes first a level: its peak is scaled to a
    random one in `peak_db`. Then comes the crop; a shorter section is repeated to fill it. For validation the section
    and the crop are the first, and the peak is -3 dB.

    An item depends on the seed and on the `Draw` alone: not on the worker that makes it, nor on what was made before.
    A clip that cannot be read is replaced by another one, drawn as the weights say, and its failure comes along.

    Args:
        clips: See `find_clips`.
        sampling_rate: Rate of the crops in Hz; clips of other rates are resampled.
        crop_samples: Length of a crop; see `crop_length`.
        seed: The run's.
        is_training: Whether section, level and crop are random.
        peak_db: Lowest and highest peak in dB relative to full scale.
        max_clip_s: Longest section in seconds.
        weights: Relative frequencies of the clips that replace a broken one; `None` means equal ones.
        cache_mb: Megabytes in which each process keeps decoded clips of up to a minute, as 16-bit samples, until they
            are full; 0 keeps none. Recordings of more than 16 bits, or resampled ones, are then rounded to 16.
        allow_incomplete: Whether to take what there is of recordings that break off; without it they are failures.

    Raises:
        ValueError: If there is no clip, or a crop is longer than a section.

    Source: `decoder/dataset.py: VocosDataset` of the original.
    Deviates: The level is set after resampling, so that the peak is as asked for. A peak below -50 dB is raised by no
        more than one of -50 dB. A broken file ends the original's run.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        sampling_rate: int,
        crop_samples: int,
        seed: int,
        is_training: bool = True,
        peak_db: tuple[float, float] = (-6.0, -1.0),
        max_clip_s: float = 10.0,
        weights: np.ndarray | None = None,
        cache_mb: float = 0.0,
        allow_incomplete: bool = False,
    ):
        if not clips:
            raise ValueError("expected at least one clip, got none")
        if not 1 <= crop_samples <= max_clip_s * sampling_rate:
            raise ValueError(
                f"a crop must have from 1 to {int(max_clip_s * sampling_rate)} samples ({max_clip_s:g} s), got "
                f"{crop_samples}"
            )
        self.clips = clips
        self.sampling_rate = sampling_rate
        self.crop_samples = crop_samples
        self.seed = seed
        self.is_training = is_training
        self.peak_db = peak_db
        self.max_clip_s = max_clip_s
        self._chances = None if weights is None else weights / weights.sum()
        self._extractor = WavTokenizerFeatureExtractor(sampling_rate=sampling_rate)
        self.allow_incomplete = allow_incomplete
        self._is_keeping = cache_mb > 0
        self._room_bytes = cache_mb * 1e6
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw | tuple[int, int] | int) -> dict[str, Any]:
        """Makes one crop.

        Args:
            draw: As an `EpochSampler` yields it, or an (epoch, index); an index alone is drawn in epoch 0.

        Returns:
            `input_values`, float32 (1, crop_samples); `index`, that of the clip which was read; `cutoff_hz`, the
            highest frequency that its recording can hold; `failures`, a line for each clip that could not be read.

        Raises:
            RuntimeError: If a hundred clips in a row cannot be read.
        """
        draw = Draw(*draw) if isinstance(draw, tuple) else Draw(0, draw)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=draw))
        index = draw.clip
        failures: list[str] = []
        while len(failures) < _MAX_FAILURES:
            clip = self.clips[index]
            position = rng.random() if self.is_training else 0.0
            try:
                samples, file_rate = self._read(index, position)
            except _FAILURES as error:
                failures.append(str(error) if clip.name in str(error) else f"{clip.name}: {error}")
                index = int(rng.choice(len(self.clips), p=self._chances))
                continue
            section = _cut(samples, int(self.max_clip_s * self.sampling_rate), position)
            gain = self._gain(section, rng)
            crop = gain * _cut(section, self.crop_samples, rng.random() if self.is_training else 0.0)
            return {
                "input_values": torch.from_numpy(np.resize(crop, (1, self.crop_samples))),  # repeats a short one
                "index": index,
                "cutoff_hz": min(file_rate, clip.origin_rate or file_rate, self.sampling_rate) / 2,
                "failures": failures,
            }
        raise RuntimeError(
            f"{len(failures)} clips in a row could not be read; check that the data is where it is said to be. Some: "
            + "; ".join(list(dict.fromkeys(failures))[:3])
        )

    def _read(self, index: int, position: float) -> tuple[np.ndarray, int]:
        """A clip, or a section of a longer one, as mono samples (N,) at the dataset's rate; and its file's rate."""
        kept = self._kept.get(index)
        if kept is None:
            max_s = max(self.max_clip_s, _LONGEST_KEPT_S) if self._is_keeping else self.max_clip_s
            clip = self.clips[index]
            samples, file_rate = clip.read(max_s, position, allow_incomplete=self.allow_incomplete)
            mono = self._extractor(samples, sampling_rate=file_rate, resample=True)["input_values"][0, 0]
            if not self._is_keeping:
                return mono, file_rate
            # What finds no room is rounded too, so that a crop does not depend on what is kept.
            kept = _Kept.of(mono, file_rate)
            is_whole = samples.shape[1] < int(max_s * file_rate)
            if is_whole and kept.steps.nbytes <= self._room_bytes:
                self._room_bytes -= kept.steps.nbytes
                self._kept[index] = kept
        return kept.steps * kept.step, kept.file_rate

    def _gain(self, section: np.ndarray, rng: np.random.Generator) -> np.float32:
        peak_db = rng.uniform(*self.peak_db) if self.is_training else VALIDATION_PEAK_DB
        return np.float32(10 ** (peak_db / 20) / max(float(np.abs(section).max()), _LEAST_PEAK))


class _Kept(NamedTuple):
    """A decoded clip in 16-bit steps, which are those of a 16-bit file that was not resampled."""

    steps: np.ndarray
    step: np.float32
    file_rate: int

    @classmethod
    def of(cls, samples: np.ndarray, file_rate: int) -> "_Kept":
        step = np.float32(max(1 / 32768, float(samples.max()) / 32767, -float(samples.min()) / 32768))
        return cls(np.rint(samples / step).astype(np.int16), step, file_rate)


def _cut(samples: np.ndarray, num_samples: int, position: float) -> np.ndarray:
    """A part of (N,) at a position from 0, the start, to just below 1, the end; all of it if it is shorter."""
    start = int(position * (max(len(samples) - num_samples, 0) + 1))
    return samples[start : start + num_samples]


def crop_length(crop_s: float, sampling_rate: int, hop_length: int) -> int:
    """Samples of a crop of about `crop_s` seconds: the nearest whole number of hops, and at least one.

    The decoder gives back whole frames only, and the losses compare it with the crop sample by sample.
    """
    if not crop_s > 0:
        raise ValueError(f"a crop must be longer than 0 s, got {crop_s}")
    return max(round(crop_s * sampling_rate / hop_length), 1) * hop_length


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Makes a batch of items: `input_values` (B, 1, T), `cutoff_hz` (B,), and the lines of all `failures`."""
    return {
        "input_values": torch.stack([item["input_values"] for item in items]),
        "cutoff_hz": torch.tensor([item["cutoff_hz"] for item in items], dtype=torch.float32),
        "failures": [line for item in items for line in item["failures"]],
    }


def failure_report(counts: Mapping[str, int], limit: int = 20) -> str:
    """Says which clips could not be read, the most frequent first.

    Args:
        counts: How often each line of `failures` came up, such as a `collections.Counter`.
        limit: Lines to write out.
    """
    if not counts:
        return "every clip could be read"
    lines = sorted(counts, key=lambda line: (-counts[line], line))
    rest = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    head = f"{len(lines)} clips could not be read, and others took their place:"
    return "\n  ".join([head, *(f"{counts[line]}x {line}" for line in lines[:limit]), *rest])
