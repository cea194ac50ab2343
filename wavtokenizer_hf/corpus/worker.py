"""What is done with a shard, wherever it is done: clips in, codes out."""

import collections
import contextlib
import dataclasses
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.corpus.batches import BATCHES_IN_POOL, batches, pools
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.long_clips import BLOCK_S, encode_long_clip
from wavtokenizer_hf.corpus.plan import Settings, Shard
from wavtokenizer_hf.corpus.prefetch import Prefetcher
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, LongClip, Outcome, ReadClip
from wavtokenizer_hf.corpus.source import Source


@dataclasses.dataclass(frozen=True)
class Resources:
    """How the work is done. None of it changes the codes, so a run may go on with others.

    Args:
        num_workers: Processes that read recordings for each model; 0 reads between encoding.
        memory_gb: What a batch may take in encoding; `None` means 4 on an accelerator and 0.5 on a CPU, where as many
            batches are under way as torch has threads.
        timeout_s: A recording that takes longer to read is given up.
    """

    num_workers: int = 0
    memory_gb: float | None = None
    timeout_s: float = 120.0


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    """Codes (L * Q,) of a clip of so many samples at the codec's rate, flattened as `CodecSpec.flatten` does it."""

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
        codec: In eval mode, on its device. It stays as it is: what encodes is `codec.for_encoding()`.
        on_clips: Is told of each batch: clips, samples at the codec's rate, and failures.
        forks: Whether the first processes that read are copies of this one, as torch's own data loader has them on
            Linux, instead of importing everything anew, which takes seconds. Not for a process of many threads.
    """

    def __init__(
        self,
        codec: Codec,
        source: Source,
        settings: Settings,
        resources: Resources,
        *,
        on_clips: OnClips | None = None,
        forks: bool = False,
    ):
        self._codec = codec.for_encoding()
        # On a CPU every batch has one thread, and there are as many batches as threads: the threads of one operation
        # wait for each other at its end, by spinning, which takes a core from whoever reads.
        self._num_at_once = torch.get_num_threads() if codec.device.type == "cpu" else 1
        self._threads = ThreadPoolExecutor(self._num_at_once, "encode")
        self._long_readers = threading.local()
        self._is_closed = False
        self._batch_samples = batch_samples(codec, resources.memory_gb)
        self._on_clips = on_clips
        self._reader = ClipReader(
            source,
            codec.feature_extractor,
            # A level that is to be brought to a peak must be known as a whole.
            long_samples=self._batch_samples if codec.prepares_blocks else math.inf,
            max_hours=settings.max_hours,
            keep_silent=settings.keep_silent,
            allow_incomplete=settings.allow_incomplete,
        )
        self._resources = resources
        self._prefetchers: list[Prefetcher] = []
        self._prefetcher = self._new_prefetcher("fork" if forks and sys.platform == "linux" else None)

    def encode(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Encodes shards one after the other; reading runs ahead into the next one."""
        to_read, to_encode = itertools.tee(shards)
        outcomes = self._prefetcher.read(clip for shard in to_read for clip in shard.clips)
        for shard in to_encode:
            start = time.perf_counter()
            with _threads_of_operations(1 if self._num_at_once > 1 else None):
                encoded = self._encode_shard(shard, itertools.islice(outcomes, len(shard.clips)))
            yield ShardResult(shard, encoded, time.perf_counter() - start)

    def close(self) -> None:
        """Ends the processes that read, and what is being encoded."""
        self._is_closed = True
        for prefetcher in self._prefetchers:
            prefetcher.close()
        self._threads.shutdown(cancel_futures=True)

    def _new_prefetcher(self, first_start_method: str | None = None) -> Prefetcher:
        prefetcher = Prefetcher(
            self._reader,
            num_workers=self._resources.num_workers,
            timeout_s=self._resources.timeout_s,
            ahead_samples=2 * BATCHES_IN_POOL * self._batch_samples,
            first_start_method=first_start_method,
        )
        self._prefetchers.append(prefetcher)
        return prefetcher

    def _encode_shard(self, shard: Shard, outcomes: Iterable[Outcome]) -> list[EncodedClip | Failure]:
        results: dict[int, EncodedClip | Failure] = {}
        under_way: collections.deque[tuple[Sequence[int], Future[list[EncodedClip | Failure]]]] = collections.deque()

        def finish(num_left: int) -> None:
            """Takes what is done, until no more than so many are under way."""
            while len(under_way) > num_left:
                places, encoding = under_way.popleft()
                done = encoding.result()
                results.update(zip(places, done, strict=True))
                self._tell(done)

        def begin(places: Sequence[int], work: Callable[..., list[EncodedClip | Failure]], *given: Any) -> None:
            finish(self._num_at_once)  # one more than are at work, so that none of them waits
            under_way.append((places, self._threads.submit(work, *given)))

        def short_clips() -> Iterator[tuple[tuple[int, np.ndarray], int]]:
            """The clips that go into batches, with their places; the others are seen to on the way."""
            for place, outcome in enumerate(outcomes):
                if isinstance(outcome, ReadClip):
                    yield (place, outcome.samples), len(outcome.samples)
                elif isinstance(outcome, LongClip):
                    begin([place], self._encode_long, shard.clips[place], outcome)
                else:
                    results[place] = outcome
                    self._tell([outcome])

        for pool in pools(short_clips(), self._batch_samples):
            for batch in batches(pool, self._batch_samples):
                places, clips = zip(*(clip for clip, _ in batch), strict=True)
                begin(places, self._encode_batch, clips)
        finish(0)
        return [results[place] for place in range(len(shard.clips))]

    def _encode_batch(self, clips: Sequence[np.ndarray]) -> list[EncodedClip | Failure]:
        """Codes of each clip; where memory is short, of one half and then the other."""
        try:
            return list[EncodedClip | Failure](encode_together(self._codec, clips))
        except (torch.OutOfMemoryError, MemoryError):
            if len(clips) == 1:
                return [Failure("out of memory", "there was not enough memory to encode it")]
        half = len(clips) // 2
        return self._encode_batch(clips[:half]) + self._encode_batch(clips[half:])

    def _encode_long(self, clip: PlannedClip, found: LongClip) -> list[EncodedClip | Failure]:
        # One for each thread, because it reads one long clip at a time.
        if not hasattr(self._long_readers, "prefetcher"):
            self._long_readers.prefetcher = self._new_prefetcher()
        blocks = self._long_readers.prefetcher.read_blocks(clip, BLOCK_S)
        until_closed = itertools.takewhile(lambda _: not self._is_closed, blocks)
        encoded = encode_long_clip(self._codec, self._reader, clip, found, until_closed)
        return [encoded if isinstance(encoded, Failure) else EncodedClip(*encoded)]

    def _tell(self, results: list[EncodedClip | Failure]) -> None:
        num_samples = sum(result.num_samples for result in results if isinstance(result, EncodedClip))
        if self._on_clips:
            self._on_clips(len(results), num_samples, sum(isinstance(result, Failure) for result in results))


@contextlib.contextmanager
def _threads_of_operations(number: int | None) -> Iterator[None]:
    """Sets how many threads an operation of torch has, in this process."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


@torch.inference_mode()
def encode_together(codec: Codec, clips: Sequence[np.ndarray]) -> list[EncodedClip]:
    """Encodes clips (T,) as one padded batch, in which each gets the codes that it gets alone."""
    lengths = torch.tensor([len(clip) for clip in clips])
    longest = int(lengths.max())
    input_values = torch.zeros(len(clips), 1, longest)
    for row, clip in zip(input_values, clips, strict=True):
        row[0, : len(clip)] = torch.from_numpy(clip)
    is_padded = bool((lengths < longest).any())
    padding_mask = (torch.arange(longest) < lengths[:, None]).to(codec.device) if is_padded else None
    codes, flatten = codec.encode(input_values.to(codec.device), padding_mask), codec.spec.flatten
    return [EncodedClip(flatten(codes.of_clip(row).cpu().numpy()).copy(), len(clip)) for row, clip in enumerate(clips)]


def batch_samples(codec: Codec, memory_gb: float | None) -> int:
    """Samples that a batch may hold, padding included, so that encoding it takes about `memory_gb` at most."""
    if memory_gb is None:
        memory_gb = 0.5 if codec.device.type == "cpu" else 4.0
    num_bytes = codec.values_per_sample * codec.model.dtype.itemsize
    return max(1, int(memory_gb * 1e9 / num_bytes))
