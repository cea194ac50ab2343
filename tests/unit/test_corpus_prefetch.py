"""Reading ahead in other processes: order, crashes, and what hangs."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from wavtokenizer_hf.corpus import prefetch
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.prefetch import Prefetcher
from wavtokenizer_hf.corpus.reader import Failure, LongClip, ReadClip, RefusalError

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
        if clip.id.startswith("held"):
            return LongClip(8000, int(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        if clip.id.startswith("raise"):
            raise FileNotFoundError("the disk is gone")
        if clip.id.startswith("long"):
            return LongClip(8000, 100)
        return ReadClip(np.full(3, float(clip.id), dtype=np.float32))

    def read_blocks(self, clip: PlannedClip, block_s: float):
        """A block for each word of the name."""
        for word in clip.id.split():
            if word == "cut":
                raise ValueError("it breaks off")
            if word == "refused":
                raise RefusalError("too long", "it says so")
            yield self.read(PlannedClip(word, word)).samples[None]


@pytest.fixture
def prefetcher():
    made = Prefetcher(Reader(), num_workers=2, timeout_s=2.0, ahead_samples=12, start_method="fork")
    yield made
    made.close()


def read(prefetcher: Prefetcher, *names: str) -> list:
    outcomes = prefetcher.read(PlannedClip(name, name) for name in names)
    return [float(outcome.samples[0]) if isinstance(outcome, ReadClip) else outcome for outcome in outcomes]


def test_the_first_processes_may_come_about_in_another_way(monkeypatch):
    methods = []
    context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: methods.append(name) or context("fork"))
    made = Prefetcher(Reader(), num_workers=1, timeout_s=9.0, ahead_samples=3, first_start_method="fork")
    assert read(made, "1", "crash", "2")[::2] == [1.0, 2.0]
    made.close()
    assert (methods[0], set(methods[1:])) == ("fork", {"spawn"})


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


def test_a_long_clip_comes_block_after_block_beside_the_others(prefetcher):
    outcomes = prefetcher.read(PlannedClip(str(number), "") for number in range(3))
    assert next(outcomes).samples[0] == 0
    blocks = list(prefetcher.read_blocks(PlannedClip("1 2 3 4", ""), 1.0))
    assert [(block.shape, block[0, 0]) for block in blocks] == [((1, 3), number) for number in (1, 2, 3, 4)]
    assert [outcome.samples[0] for outcome in outcomes] == [1, 2]
    abandoned = prefetcher.read_blocks(PlannedClip("1 2 3 4 5 6", ""), 1.0)
    next(abandoned)
    assert len(list(prefetcher.read_blocks(PlannedClip("7 8", ""), 1.0))) == 2
    assert list(prefetcher.read_blocks(PlannedClip("", ""), 1.0)) == []


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("1 crash 2", "crashed", "the process that read it died"),
        ("1 hang 2", "timed out", "it was not read within 2 s"),
        ("1 cut 2", "unreadable", "it breaks off"),
        ("1 refused 2", "too long", "it says so"),
    ],
)
def test_a_long_clip_that_goes_wrong_in_the_middle_fails_alone(prefetcher, name, kind, reason):
    blocks = prefetcher.read_blocks(PlannedClip(name, name), 1.0)
    assert next(blocks)[0, 0] == 1
    with pytest.raises(RefusalError) as raised:
        list(blocks)
    assert (raised.value.kind, str(raised.value)) == (kind, reason)
    assert len(list(prefetcher.read_blocks(PlannedClip("3 4", ""), 1.0))) == 2


def test_without_processes_a_long_clip_is_read_in_this_one():
    prefetcher = Prefetcher(Reader(), num_workers=0, timeout_s=1.0, ahead_samples=100)
    assert len(list(prefetcher.read_blocks(PlannedClip("3 4", ""), 1.0))) == 2
    with pytest.raises(ValueError, match="breaks off"):
        list(prefetcher.read_blocks(PlannedClip("3 cut", ""), 1.0))


def test_processes_that_cannot_be_started_say_what_to_do(monkeypatch):
    """As those of a script that begins its work when it is imported."""
    monkeypatch.setattr(prefetch, "_begin", os._exit)
    prefetcher = Prefetcher(1, num_workers=1, timeout_s=9.0, ahead_samples=12, start_method="fork")
    with pytest.raises(RuntimeError, match="if __name__ == '__main__'"):
        read(prefetcher, "1")


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


def test_a_key_press_passes_by_the_processes_from_their_first_moment(prefetcher):
    """In which they import, and would print a traceback."""
    assert read(prefetcher, *["held"] * 8) == [LongClip(8000, 1)] * 8
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_processes_end_with_the_reading(prefetcher):
    read(prefetcher, "1")
    list(prefetcher.read_blocks(PlannedClip("1", ""), 1.0))
    processes = [*prefetcher._pool._processes.values(), *prefetcher._long_pool._processes.values()]
    assert len(processes) == 3
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
