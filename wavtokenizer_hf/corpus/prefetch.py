"""Reading clips ahead in processes of their own, so that the model does not wait."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, Outcome, ReadClip, RefusalError, failure_of

# Fewest clips that are under way for each process: one is being read, one waits. Of a long clip, so many blocks.
_LEAST_AHEAD = 2


class Prefetcher:
    """Reads clips in order, some ahead of the one that is asked for.

    A clip on which a process dies, or hangs, is a failed one. Nothing else is lost.

    Args:
        reader: Reads one.
        num_workers: Processes, to which another one comes for long clips; 0 reads in this one, without protection from
            what hangs or crashes.
        timeout_s: Longest wait for one clip, or for a block of a long one.
        ahead_samples: About how many samples to hold ready, judged by the clips so far.
        start_method: How a process comes about; see `multiprocessing`.
        first_start_method: How those come about that are there from the start, as soon as the first clip is asked for.
    """

    def __init__(
        self,
        reader: ClipReader,
        *,
        num_workers: int,
        timeout_s: float,
        ahead_samples: int,
        start_method: str = "spawn",
        first_start_method: str | None = None,
    ):
        self._reader = reader
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._ahead_samples = ahead_samples
        self._num_read, self._samples_read = 1, ahead_samples  # until more is known, one at a time
        self._start_method = start_method
        self._first_start_method = first_start_method or start_method
        self._pool: ProcessPoolExecutor | None = None
        self._long_pool: ProcessPoolExecutor | None = None

    def read(self, clips: Iterable[PlannedClip]) -> Iterator[Outcome]:
        """What became of each clip.

        Raises:
            FileNotFoundError, ImportError: As `ClipReader.read`.
        """
        if not self._num_workers:
            yield from map(self._reader.read, clips)
            return
        under_way: collections.deque[tuple[PlannedClip, Future[Outcome]]] = collections.deque()
        waiting = iter(clips)
        while True:
            while len(under_way) < self._num_ahead and (clip := next(waiting, None)) is not None:
                under_way.append((clip, self._submit(clip)))
            if not under_way:
                return
            try:
                outcome = under_way[0][1].result(self._timeout_s)
            except (BrokenExecutor, futures.TimeoutError):
                # One of those under way is to blame: each by itself tells which.
                self._end_pool()
                yield from [self._read_alone(clip) for clip, _ in under_way]
                under_way.clear()
            else:
                under_way.popleft()
                self._num_read += 1
                self._samples_read += len(outcome.samples) if isinstance(outcome, ReadClip) else 0
                yield outcome

    def read_blocks(self, clip: PlannedClip, block_s: float) -> Iterator[np.ndarray]:
        """Blocks (C, n) of a long clip, read ahead by a process that no other clip waits for.

        Raises:
            RefusalError: If the clip cannot be read, or a process dies or hangs on it.
            Exception: Without processes, as `ClipReader.read_blocks`.
        """
        if not self._num_workers:
            yield from self._reader.read_blocks(clip, block_s)
            return
        if self._long_pool is None:
            self._long_pool = self._new_pool(1, self._start_method)
        try:
            self._long_pool.submit(_open_blocks, clip, block_s)
            under_way = collections.deque(self._long_pool.submit(_next_block) for _ in range(_LEAST_AHEAD))
            while (block := under_way.popleft().result(self._timeout_s)) is not None:
                if isinstance(block, Failure):
                    raise RefusalError(block.kind, block.reason)
                under_way.append(self._long_pool.submit(_next_block))
                yield block
        except (BrokenExecutor, futures.TimeoutError) as error:
            self._end_long_pool()
            failure = self._failure_by(error)
            raise RefusalError(failure.kind, failure.reason) from None

    @property
    def _num_ahead(self) -> int:
        mean_samples = max(self._samples_read / self._num_read, 1.0)
        return max(_LEAST_AHEAD * self._num_workers, int(self._ahead_samples / mean_samples))

    def close(self) -> None:
        """Ends the processes, also those that hang."""
        self._end_pool()
        self._end_long_pool()

    def _end_pool(self) -> None:
        pool, self._pool = self._pool, None
        _end(pool)

    def _end_long_pool(self) -> None:
        pool, self._long_pool = self._long_pool, None
        _end(pool)

    def _read_alone(self, clip: PlannedClip) -> Outcome:
        try:
            return self._submit(clip).result(self._timeout_s)
        except (BrokenExecutor, futures.TimeoutError) as error:
            self._end_pool()
            return self._failure_by(error)

    def _failure_by(self, error: Exception) -> Failure:
        if isinstance(error, BrokenExecutor):
            return Failure("crashed", "the process that read it died")
        return Failure("timed out", f"it was not read within {self._timeout_s:g} s")

    def _new_pool(self, num_workers: int, start_method: str) -> ProcessPoolExecutor:
        """Processes that are ready: starting takes seconds, which are not the first clip's.

        Raises:
            RuntimeError: If they cannot be started.
        """
        pool = ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context(start_method),
            initializer=_begin,
            initargs=(self._reader,),
        )
        try:
            with _interrupts_held(), warnings.catch_warnings():
                # Of threads that have nothing to do with reading, such as the one of a progress bar.
                warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
                ready = pool.submit(os.getpid)
            ready.result()
        except BrokenExecutor as error:
            raise RuntimeError(
                "the processes that read recordings ended as they were started. Read in this process (workers: 0); "
                "or, if a script of yours calls this, begin its work under `if __name__ == '__main__':`, because they "
                "import the script"
            ) from error
        return pool

    def _submit(self, clip: PlannedClip) -> Future[Outcome]:
        if self._pool is None:
            self._pool = self._new_pool(self._num_workers, self._first_start_method)
            self._first_start_method = self._start_method
        try:
            with _interrupts_held():
                return self._pool.submit(_read, clip)
        except BrokenExecutor as error:  # a process died since the last clip was submitted
            broken: Future[Outcome] = Future()
            broken.set_exception(error)
            return broken


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A key press waits for the end of the block, and passes by a process that is started in it.

    A submission may start one, whose imports would otherwise end in a long traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pool: ProcessPoolExecutor | None) -> None:
    if pool is not None:
        for process in list((pool._processes or {}).values()):  # Python 3.14 is the first with a public way
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


# Of a reading process: what reads, and the long clip that it is reading.
_readers: list[ClipReader] = []
_blocks: list[Iterator[np.ndarray | Failure]] = []


def _begin(reader: ClipReader) -> None:
    """What a reading process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key press reaches every process, and the one that waits decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    warnings.formatwarning = lambda message, *_: f"warning: {' '.join(str(message).split())}\n"
    _readers[:] = [reader]


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _read(clip: PlannedClip) -> Outcome:
    return _readers[0].read(clip)


def _open_blocks(clip: PlannedClip, block_s: float) -> None:
    def blocks() -> Iterator[np.ndarray | Failure]:
        try:
            yield from _readers[0].read_blocks(clip, block_s)
        except Exception as error:
            yield failure_of(clip, error)

    _blocks[:] = [blocks()]


def _next_block() -> np.ndarray | Failure | None:
    return next(_blocks[0], None)
