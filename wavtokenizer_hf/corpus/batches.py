"""Which clips go through the model together."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

# Clips are sorted by length among so many batches' worth of them.
BATCHES_IN_POOL = 8


def pools(clips: Iterable[tuple[T, int]], batch_samples: int) -> Iterator[list[tuple[T, int]]]:
    """Cuts a stream of clips, each with its number of samples, into pools of bounded size."""
    pool: list[tuple[T, int]] = []
    num_samples = 0
    for clip in clips:
        pool.append(clip)
        num_samples += clip[1]
        if num_samples >= BATCHES_IN_POOL * batch_samples:
            yield pool
            pool, num_samples = [], 0
    if pool:
        yield pool


def batches(pool: Sequence[tuple[T, int]], batch_samples: int) -> Iterator[list[tuple[T, int]]]:
    """Puts clips of like length together, so that a batch with its padding has at most `batch_samples` samples.

    A clip that is longer stands alone. The batches depend on the pool alone, so the same plan makes the same ones.
    """
    batch: list[tuple[T, int]] = []
    for clip in sorted(pool, key=lambda clip: -clip[1]):
        if batch and (len(batch) + 1) * batch[0][1] > batch_samples:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch
