"""A run that is killed at any moment and started again leaves what a run that was never killed leaves."""

import builtins
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from tests.processes import descendants, is_running
from tests.tiny_corpus import FEATURE_EXTRACTOR, noise, rows_of, tokenize, write_recordings
from wavtokenizer_hf.corpus.plan import CLIPS
from wavtokenizer_hf.corpus.statistics import STATISTICS

# A killed run is a fork of this process, which takes milliseconds instead of seconds to start.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

NUM_CLIPS = 13
SHARD_CLIPS = 2
NUM_SHARDS = 7


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder, NUM_CLIPS - 1)
    (folder / "broken.wav").write_text("no audio")
    return folder


def run(recordings: Path, out: Path) -> None:
    tokenize(recordings, out, shard_clips=SHARD_CLIPS)


def contents(out: Path) -> dict[str, bytes]:
    """All files but the log and the table of clips, which hold times and places."""
    kept = [path for path in out.rglob("*") if path.is_file() and not path.match("log/*") and path != out / CLIPS]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def uninterrupted(recordings, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("uninterrupted")
    run(recordings, out)
    assert len(rows_of(out)) == NUM_CLIPS - 1
    return contents(out)


def check_what_a_killed_run_left(out: Path, uninterrupted: dict[str, bytes]) -> int:
    """Every shard that is there is whole; and how many are."""
    shards = {
        name: content for name, content in contents(out).items() if name.endswith(".parquet") and "data/" in name
    }
    for name, content in shards.items():
        assert content == uninterrupted[name]
    return len(shards)


def killed_run(recordings: Path, out: Path, prepare: Callable[[], None], after_s: float | None = None) -> bool:
    """Runs in a fork that is killed after a time, or kills itself as `prepare` arranges it; whether it was killed."""

    def work() -> None:
        prepare()
        run(recordings, out)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    if after_s is not None:
        time.sleep(after_s)
        process.kill()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


def kill_at_file_event(number: int) -> Callable[[], None]:
    """Kills this process at its `number`-th step on the way of a file: opened, made durable, or given its name."""

    def prepare() -> None:
        num_events = 0

        def counting(function):
            def counted(*arguments, **named):
                nonlocal num_events
                num_events += 1
                if num_events == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return counted

        os.replace, os.fsync = counting(os.replace), counting(os.fsync)
        builtins.open = counting(builtins.open)

    return prepare


def test_a_run_killed_at_random_moments_loses_at_most_the_shard_in_flight(recordings, uninterrupted, tmp_path):
    """At 24 moments of one corpus, each run going on where the one before was killed."""
    chance = random.Random(7)
    num_killed = num_on_the_way = 0
    out = tmp_path / "out"
    began = time.monotonic()
    assert not killed_run(recordings, tmp_path / "timed", lambda: None)
    took_s = time.monotonic() - began
    while num_killed < 24:
        num_before = check_what_a_killed_run_left(out, uninterrupted)
        if killed_run(recordings, out, lambda: None, chance.uniform(0, took_s)):
            num_killed += 1
            num_shards = check_what_a_killed_run_left(out, uninterrupted)
            assert num_shards >= num_before
            num_on_the_way += 0 < num_shards < NUM_SHARDS
        else:
            assert contents(out) == uninterrupted
            shutil.rmtree(out)
    assert num_on_the_way > 4  # the others were killed in planning, or at the very end
    run(recordings, out)
    assert contents(out) == uninterrupted


@pytest.mark.parametrize("number", range(1, 34, 3))
def test_a_run_killed_at_any_step_of_a_file_is_made_whole_by_the_next(recordings, uninterrupted, tmp_path, number):
    out = tmp_path / "out"
    assert killed_run(recordings, out, kill_at_file_event(number))
    check_what_a_killed_run_left(out, uninterrupted)
    run(recordings, out)
    assert contents(out) == uninterrupted


def test_a_run_that_is_killed_again_and_again_gets_there(recordings, uninterrupted, tmp_path):
    """Each run lives for a few steps only, which is enough for at least one shard."""
    out, num_runs = tmp_path / "out", 0
    while killed_run(recordings, out, kill_at_file_event(12)):
        num_runs += 1
        assert num_runs < 30
    assert num_runs > 2
    assert contents(out) == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_with_reading_processes_are_killed_with_them_and_resume(recordings, tmp_path, tiny_folder):
    """8 kills of whole commands, each going on where the one before was killed; no process outlives them.

    Half of them at any moment, in which the imports are most of it, the others when there is something to lose.
    """
    shutil.copytree(tiny_folder, tmp_path / "model")
    FEATURE_EXTRACTOR.save_pretrained(tmp_path / "model")
    shutil.copytree(recordings, tmp_path / "in")
    for name in "abc":  # longer than a batch of 15,625 samples, so that another process reads them
        soundfile.write(tmp_path / "in" / f"long_{name}.wav", noise(24000), 24000)
    num_shards = NUM_CLIPS + 3
    chance = random.Random(3)

    def command(out: Path) -> list[str]:
        options = ["--model", str(tmp_path / "model"), "--workers", "1", "--shard-clips", "1", "--memory-gb", "0.001"]
        return [sys.executable, "-m", "wavtokenizer_hf", "tokenize-corpus", str(tmp_path / "in"), str(out), *options]

    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    took_s = time.monotonic() - began
    expected = contents(tmp_path / "whole")
    assert len(rows_of(tmp_path / "whole")) == num_shards - 1
    out = tmp_path / "out"
    num_killed, nums_of_readers, nums_of_shards = 0, [], []
    while num_killed < 8:
        with subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            if num_killed % 2:
                time.sleep(chance.uniform(0, took_s))
            else:
                wanted = len(list(out.glob("data/*"))) + chance.choice([1, 2])
                while len(list(out.glob("data/*"))) < wanted and process.poll() is None:
                    time.sleep(0.002)
            readers = descendants(process.pid)
            process.kill()
        num_killed += process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 60  # one that has just been started learns of it when it has started
        while any(map(is_running, readers)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nums_of_readers.append(len(readers))
        nums_of_shards.append(check_what_a_killed_run_left(out, expected))
        if process.returncode == 0:
            assert contents(out) == expected
            shutil.rmtree(out)
    assert max(nums_of_readers) >= 2  # both that read
    assert sum(0 < number < num_shards for number in nums_of_shards) >= 4
    subprocess.run(command(out), check=True, capture_output=True)
    assert contents(out) == expected
    assert (out / STATISTICS).is_file()
