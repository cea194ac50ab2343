"""What is done with a shard, wherever it is done: clips in, codes out."""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wavtokenizer_hf.corpus.batches import BATCHES_IN_WINDOW, batches, windows
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.long_clips import BLOCK_S, encode_long_clip
from wavtokenizer_hf.corpus.plan import Settings, Shard
from wavtokenizer_hf.corpus.prefetch import Prefetcher
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, LongClip, Outcome, ReadClip
from wavtokenizer_hf.corpus.source import Source
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerPreTrainedModel

# Encoding holds about so many values at once for each sample and filter of the first layer.
_VALUES_PER_SAMPLE = 4


@dataclasses.dataclass(frozen=True)
class Means:
    """How the work is done. None of it changes the codes, so a run may go on with others.

    Args:
        num_workers: Processes that read recordings for each model; 0 reads between encoding.
        memory_gb: What a batch may take in encoding; `None` means 4 on an accelerator and 0.5 on a CPU.
        timeout_s: A recording that takes longer to read is given up.
    """

    num_workers: int = 0
    memory_gb: float | None = None
    timeout_s: float = 120.0


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    """Codes (L,) of a clip of so many samples at the codec's rate."""

    codes: np.ndarray
    num_samples: int


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What became of each clip of a shard, in its order."""

    shard: Shard
    outcomes: list[EncodedClip | Failure]
    wall_s: float


OnClips = Callable[[int, int, int], None]


class Worker:
    """A model that encodes shards.

    Args:
        model: The whole one or the encoder, in eval mode, on its device. Its weight norm is merged away, which changes
            no code.
        on_clips: Is told of each batch: clips, samples at the codec's rate, and failures.
    """

    def __init__(
        self,
        model: WavTokenizerPreTrainedModel,
        feature_extractor: WavTokenizerFeatureExtractor,
        source: Source,
        settings: Settings,
        means: Means,
        *,
        on_clips: OnClips | None = None,
    ):
        # oneDNN keeps what it made for the last 1024 shapes, which clips of all lengths turn into gigabytes. It looks
        # when it computes for the first time in a process.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        self._model = model if model.is_fused else model.fuse()
        self._batch_samples = batch_samples(model, means.memory_gb)
        self._on_clips = on_clips
        self._reader = ClipReader(
            source,
            feature_extractor,
            # A level that is to be brought to a peak must be known as a whole.
            long_samples=self._batch_samples if feature_extractor.peak_db is None else math.inf,
            max_hours=settings.max_hours,
            keep_silent=settings.keep_silent,
            allow_incomplete=settings.allow_incomplete,
        )
        self._prefetcher = Prefetcher(
            self._reader,
            num_workers=means.num_workers,
            timeout_s=means.timeout_s,
            ahead_samples=2 * BATCHES_IN_WINDOW * self._batch_samples,
        )

    def encode(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Encodes shards one after the other; reading runs ahead into the next one."""
        to_read, to_encode = itertools.tee(shards)
        outcomes = self._prefetcher.read(clip for shard in to_read for clip in shard.clips)
        for shard in to_encode:
            start = time.perf_counter()
            encoded = self._encode_shard(shard, itertools.islice(outcomes, len(shard.clips)))
            yield ShardResult(shard, encoded, time.perf_counter() - start)

    def close(self) -> None:
        """Ends the processes that read."""
        self._prefetcher.close()

    def _encode_shard(self, shard: Shard, outcomes: Iterable[Outcome]) -> list[EncodedClip | Failure]:
        results: dict[int, EncodedClip | Failure] = {}

        def short_clips() -> Iterator[tuple[tuple[int, np.ndarray], int]]:
            """The clips that go into batches, with their places; the others are done with on the way."""
            for place, outcome in enumerate(outcomes):
                if isinstance(outcome, ReadClip):
                    yield (place, outcome.samples), len(outcome.samples)
                    continue
                if isinstance(outcome, LongClip):
                    results[place] = self._encode_long(shard.clips[place], outcome)
                else:
                    results[place] = outcome
                self._tell([results[place]])

        for window in windows(short_clips(), self._batch_samples):
            for batch in batches(window, self._batch_samples):
                places, clips = zip(*(clip for clip, _ in batch), strict=True)
                encoded = self._encode_batch(clips)
                results.update(zip(places, encoded, strict=True))
                self._tell(encoded)
        return [results[place] for place in range(len(shard.clips))]

    def _encode_batch(self, clips: Sequence[np.ndarray]) -> list[EncodedClip | Failure]:
        """Codes of each clip; where memory is short, of one half and then the other."""
        try:
            return list[EncodedClip | Failure](encode_together(self._model, clips))
        except (torch.OutOfMemoryError, MemoryError):
            if len(clips) == 1:
                return [Failure("out of memory", "there was not enough memory to encode it")]
        half = len(clips) // 2
        return self._encode_batch(clips[:half]) + self._encode_batch(clips[half:])

    def _encode_long(self, clip: PlannedClip, found: LongClip) -> EncodedClip | Failure:
        blocks = self._prefetcher.read_blocks(clip, BLOCK_S)
        encoded = encode_long_clip(self._model, self._reader, clip, found, blocks)
        return encoded if isinstance(encoded, Failure) else EncodedClip(*encoded)

    def _tell(self, results: list[EncodedClip | Failure]) -> None:
        num_samples = sum(result.num_samples for result in results if isinstance(result, EncodedClip))
        if self._on_clips:
            self._on_clips(len(results), num_samples, sum(isinstance(result, Failure) for result in results))


@torch.inference_mode()
def encode_together(model: Any, clips: Sequence[np.ndarray]) -> list[EncodedClip]:
    """Encodes clips (T,) as one padded batch, in which each gets the codes that it gets alone."""
    lengths = torch.tensor([len(clip) for clip in clips])
    longest = int(lengths.max())
    input_values = torch.zeros(len(clips), 1, longest)
    for row, clip in zip(input_values, clips, strict=True):
        row[0, : len(clip)] = torch.from_numpy(clip)
    is_padded = bool((lengths < longest).any())
    padding_mask = (torch.arange(longest) < lengths[:, None]).to(model.device) if is_padded else None
    audio_codes = model.encode(input_values.to(model.device), padding_mask).audio_codes[:, 0].cpu().numpy()  # (B, L)
    return [
        EncodedClip(codes[: model.num_codes(len(clip))].copy(), len(clip))
        for codes, clip in zip(audio_codes, clips, strict=True)
    ]


def batch_samples(model: WavTokenizerPreTrainedModel, memory_gb: float | None) -> int:
    """Samples that a batch may hold, padding included, so that encoding it takes about `memory_gb` at most."""
    if memory_gb is None:
        memory_gb = 0.5 if model.device.type == "cpu" else 4.0
    num_bytes = _VALUES_PER_SAMPLE * model.config.num_filters * model.dtype.itemsize
    return max(1, int(memory_gb * 1e9 / num_bytes))
