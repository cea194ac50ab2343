"""Reading clips ahead in processes of their own, so that the model does not wait."""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

import torch

from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, Outcome, ReadClip

# Fewest clips that are under way for each process: one is being read, one waits.
_LEAST_AHEAD = 2


class Prefetcher:
    """Reads clips in order, some ahead of the one that is asked for.

    A clip on which a process dies, or hangs, is a failed one. Nothing else is lost.

    Args:
        reader: Reads one.
        num_workers: Processes; 0 reads in this one, without protection from what hangs or crashes.
        timeout_s: Longest wait for one clip.
        ahead_samples: About how many samples to hold ready, judged by the clips so far.
        start_method: How a process comes about; see `multiprocessing`.
    """

    def __init__(
        self,
        reader: ClipReader,
        *,
        num_workers: int,
        timeout_s: float,
        ahead_samples: int,
        start_method: str = "spawn",
    ):
        self._reader = reader
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._ahead_samples = ahead_samples
        self._num_read, self._samples_read = 1, ahead_samples  # until more is known, one at a time
        self._start_method = start_method
        self._pool: ProcessPoolExecutor | None = None

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
                self.close()
                yield from [self._read_alone(clip) for clip, _ in under_way]
                under_way.clear()
            else:
                under_way.popleft()
                self._num_read += 1
                self._samples_read += len(outcome.samples) if isinstance(outcome, ReadClip) else 0
                yield outcome

    @property
    def _num_ahead(self) -> int:
        mean_samples = max(self._samples_read / self._num_read, 1.0)
        return max(_LEAST_AHEAD * self._num_workers, int(self._ahead_samples / mean_samples))

    def close(self) -> None:
        """Ends the processes, also those that hang."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):  # Python 3.14 is the first with a public way
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _read_alone(self, clip: PlannedClip) -> Outcome:
        try:
            return self._submit(clip).result(self._timeout_s)
        except BrokenExecutor:
            self.close()
            return Failure("crashed", "the process that read it died")
        except futures.TimeoutError:
            self.close()
            return Failure("timed out", f"it was not read within {self._timeout_s:g} s")

    def _submit(self, clip: PlannedClip) -> Future[Outcome]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context(self._start_method),
                initializer=_begin,
                initargs=(self._reader,),
            )
            self._pool.submit(os.getpid).result()  # starting takes seconds, which are not the first clip's
        try:
            return self._pool.submit(_read, clip)
        except BrokenExecutor as error:  # a process died since the last clip was submitted
            broken: Future[Outcome] = Future()
            broken.set_exception(error)
            return broken


_readers: list[ClipReader] = []


def _begin(reader: ClipReader) -> None:
    """What a reading process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key press reaches every process, and the one that waits decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _readers[:] = [reader]


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _read(clip: PlannedClip) -> Outcome:
    return _readers[0].read(clip)
