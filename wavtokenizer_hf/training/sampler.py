"""Which clips are drawn in which order: shuffled, weighted, shared among processes, and resumable."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

# Steps into which one draw is divided, to share draws out in whole numbers.
_STEPS = 1_000_000


class Draw(NamedTuple):
    """One drawing of a clip, which says all that its random crop depends on beside the run's seed.

    The epoch travels with the draw, so that worker processes, which outlive epochs and work ahead, need no notice.

    Args:
        epoch: Counted from 0.
        clip: Its index.
        take: How often the clip was drawn before in this epoch.
    """

    epoch: int
    clip: int
    take: int = 0


class EpochSampler(Sampler[list[Draw]]):
    """Batches of one epoch, for a `DataLoader`'s `batch_sampler`; the same for the same seed and epoch.

    In an epoch as many clips are drawn as there are, each once, or as often as its weight asks for: the share of the
    epoch that it is due, rounded up or down by chance. Fewer clips than one batch of all processes are repeated until
    they fill it. A last batch that would not be full is left out. Every process gets as many batches as the others.
    What all of them draw in one step depends on `batch_size * num_processes` only, not on the two factors.

    It shares out the batches itself: a loader with it is not to be given to `accelerate`'s `prepare`.

    Args:
        num_items: Number of clips.
        batch_size: Clips in a batch of one process.
        seed: The run's.
        num_processes: Processes that train together.
        process_index: That of this one.
        weights: Relative frequencies (num_items,), not negative; `None` draws every clip once.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        weights: Sequence[float] | np.ndarray | None = None,
    ):
        if min(num_items, batch_size, num_processes) < 1 or not 0 <= process_index < num_processes:
            raise ValueError(
                "expected at least one clip, one clip per batch and one process, and an index of a process, got "
                f"{num_items} clips, batches of {batch_size} and process {process_index} of {num_processes}"
            )
        self.shares = np.ones(num_items) if weights is None else np.asarray(weights, dtype=np.float64)
        if self.shares.shape != (num_items,) or not self.shares.min() >= 0 or not 0 < self.shares.sum() < np.inf:
            raise ValueError(f"expected {num_items} weights, 0 or more and not all 0, got {self.shares}")
        self.batch_size = batch_size
        self.step_size = batch_size * num_processes
        self.num_draws = max(num_items, self.step_size)
        self.seed = seed
        self.process_index = process_index
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses what the next iteration yields.

        Args:
            epoch: Counted from 0.
            start_batch: Batches to skip, to go on in the middle of an epoch.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch for each process, whatever `start_batch` is."""
        return self.num_draws // self.step_size

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)))
        counts = self._counts(int(rng.integers(_STEPS)))
        indices = np.repeat(np.arange(len(counts)), counts)
        takes = np.arange(self.num_draws) - np.repeat(np.cumsum(counts) - counts, counts)
        order = rng.permutation(self.num_draws)
        for batch in range(self.start_batch, len(self)):
            first = batch * self.step_size + self.process_index * self.batch_size
            chosen = order[first : first + self.batch_size]
            yield [Draw(self.epoch, int(indices[place]), int(takes[place])) for place in chosen]

    def _counts(self, offset: int) -> np.ndarray:
        """How often each clip is drawn, by systematic sampling: `num_draws` in all.

        The clips lie end to end on a line, each as long as the number of draws that it is due, and a comb whose teeth
        are 1 apart, shifted by `offset`, picks them. Lengths are in whole steps, so that equal shares are picked once.
        """
        ends = np.cumsum(self.shares)
        ends = np.rint(ends / ends[-1] * self.num_draws * _STEPS).astype(np.int64)
        return np.diff((ends + offset) // _STEPS, prepend=0)
