"""Reading ahead in other processes: order, crashes, and what hangs."""

import os
import signal
import time

import numpy as np
import pytest

from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.prefetch import Prefetcher
from wavtokenizer_hf.corpus.reader import Failure, LongClip, ReadClip

# Processes are forked here, because starting them anew takes seconds each; a whole run does that in
# tests/integration.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Reader:
    """Does to a clip what its name says."""

    def read(self, clip: PlannedClip):
        if clip.id.startswith("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if clip.id.startswith("hang"):
            time.sleep(100)
        if clip.id.startswith("raise"):
            raise FileNotFoundError("the disk is gone")
        if clip.id.startswith("long"):
            return LongClip(8000, 100)
        return ReadClip(np.full(3, float(clip.id), dtype=np.float32))


@pytest.fixture
def prefetcher():
    made = Prefetcher(Reader(), num_workers=2, timeout_s=2.0, ahead_samples=12, start_method="fork")
    yield made
    made.close()


def read(prefetcher: Prefetcher, *names: str) -> list:
    outcomes = prefetcher.read(PlannedClip(name, name) for name in names)
    return [float(outcome.samples[0]) if isinstance(outcome, ReadClip) else outcome for outcome in outcomes]


def test_clips_come_in_the_order_in_which_they_were_asked_for(prefetcher):
    numbers = [float(number) for number in range(40)]
    assert read(prefetcher, *map(str, range(40))) == numbers
    assert read(prefetcher, "7", "long", "8") == [7.0, LongClip(8000, 100), 8.0]


def test_a_clip_on_which_a_process_dies_fails_alone(prefetcher):
    died = Failure("crashed", "the process that read it died")
    assert read(prefetcher, "1", "2", "crash", "3", "crash again", "4") == [1.0, 2.0, died, 3.0, died, 4.0]


def test_a_process_may_die_while_nobody_waits_for_it(prefetcher):
    def clips():
        for name in ("1", "crash", *map(str, range(2, 9))):
            yield PlannedClip(name, name)

    outcomes = prefetcher.read(clips())
    assert next(outcomes).samples[0] == 1.0
    time.sleep(0.5)  # in which the model would be at work
    assert [outcome.kind if isinstance(outcome, Failure) else outcome.samples[0] for outcome in outcomes] == [
        "crashed",
        *range(2, 9),
    ]


def test_a_clip_that_hangs_fails_alone(prefetcher):
    late = Failure("timed out", "it was not read within 2 s")
    assert read(prefetcher, "1", "hang", "2", "3") == [1.0, late, 2.0, 3.0]


def test_what_ends_the_run_ends_it(prefetcher):
    with pytest.raises(FileNotFoundError, match="the disk is gone"):
        read(prefetcher, "1", "raise", "2")


def test_no_more_is_read_ahead_than_there_is_room_for(prefetcher):
    asked = []

    def clips():
        for number in range(100):
            asked.append(number)
            yield PlannedClip(str(number), str(number))

    outcomes = prefetcher.read(clips())
    next(outcomes)
    assert len(asked) == 4  # two for each process, while nothing is known of their length
    for _ in range(20):
        next(outcomes)
    ahead = len(asked) - 21
    assert ahead in (3, 4)  # about 12 samples, at 3 a clip


def test_processes_end_with_the_reading(prefetcher):
    read(prefetcher, "1")
    processes = list(prefetcher._pool._processes.values())
    assert all(process.is_alive() for process in processes)
    prefetcher.close()
    assert not any(process.is_alive() for process in processes)


def test_without_processes_clips_are_read_when_they_are_asked_for():
    asked = []
    outcomes = Prefetcher(Reader(), num_workers=0, timeout_s=1.0, ahead_samples=100).read(
        asked.append(number) or PlannedClip(str(number), "") for number in range(5)
    )
    next(outcomes)
    assert asked == [0]
