"""Is `tokenize-corpus`, as a user types it, as fast as the best number of processes and threads that one can set?

Every measurement is the whole command in processes of its own, from its start to the last byte written, on the same
files and in shards of the same size, which are small enough for all processes to have some. Hand-set commands differ
in how many processes share the work, in the threads of each, and in how many further ones read. The order rotates from
round to round, and a ratio is the median over rounds of the ratio within a round.
"""

import argparse
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from benchmarks.corpus import chosen_files
from benchmarks.markdown import conditions as described
from benchmarks.markdown import table
from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from benchmarks.rounds import significant, speedup, summary
from wavtokenizer_hf import bundled_checkpoint

AS_TYPED = "as typed"
_SHARDS_PER_CORE = 4


class HandSet(NamedTuple):
    """What one can set: processes, the threads of each, and how many read for each."""

    processes: int
    threads: int
    workers: int

    def __str__(self) -> str:
        return f"{self.processes} processes, {self.threads} threads each, {self.workers} reading for each"


def hand_set(num_cores: int) -> list[HandSet]:
    """The settings that are compared: one process or one for each core, with and without others that read."""
    shapes = dict.fromkeys([(1, num_cores), (num_cores, 1)])
    return [HandSet(*shape, workers) for shape in shapes for workers in (0, 1)]


def run(files: Sequence[Path], shard_clips: int, model: str, setting: HandSet | None) -> float:
    """Seconds that the command takes; `None` sets nothing.

    Raises:
        RuntimeError: If it fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "list.tsv")
        listed.write_text("file\n" + "".join(f"{path.absolute()}\n" for path in files), encoding="utf-8")
        command = [sys.executable, "-m", "wavtokenizer_hf", "tokenize-corpus", str(listed), f"{scratch}/out"]
        command += ["--model", model, "--device", "cpu", "--shard-clips", str(shard_clips)]
        command += [] if setting is None else ["--workers", str(setting.workers)]
        start = time.perf_counter()
        running = [
            subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for environment in environments(setting)
        ]
        said = [process.communicate()[0] for process in running]
        wall_s = time.perf_counter() - start
    if any(process.returncode for process in running):
        raise RuntimeError("\n".join(said))
    return wall_s


def environments(setting: HandSet | None) -> list[dict[str, str]]:
    """The variables of each process, as `torchrun` sets them."""
    clean = {name: text for name, text in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if setting is None:
        return [clean]
    clean["OMP_NUM_THREADS"] = str(setting.threads)
    if setting.processes == 1:
        return [clean]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    world = {
        "WORLD_SIZE": str(setting.processes),
        "LOCAL_WORLD_SIZE": str(setting.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [clean | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(setting.processes)]


def compared(times: Mapping[str, Sequence[float]], audio_s: float) -> list[dict[str, Any]]:
    """An entry for each way; the ratio is to the fastest of those that are set by hand, by their median."""
    best = min((name for name in times if name != AS_TYPED), key=lambda name: summary(times[name])["median"])
    return [
        {
            "variant": name,
            "audio_s_per_s": summary([audio_s / wall_s for wall_s in seconds]),
            "ratio_to_best_hand_set": speedup(seconds, times[best]),
        }
        for name, seconds in times.items()
    ]


def defaults_table(result: dict[str, Any]) -> str:
    """A row for each way to call the command."""
    settings = result["settings"]
    return table(
        ["tokenize-corpus", "audio s per s", "to the best hand-set"],
        [
            [
                entry["variant"],
                f"{entry['audio_s_per_s']['median']:.1f}",
                f"{entry['ratio_to_best_hand_set']['median']:.2f}",
            ]
            for entry in result["measurements"]
        ],
        f"{settings['num_files']} files, {settings['hours']:.2f} hours, {settings['model']}, {settings['rounds']}"
        f" rounds, with the start of the processes. {described(result)}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of recordings")
    parser.add_argument("--model", default=bundled_checkpoint(), help="a folder or Hub id")
    parser.add_argument("--files", type=int, default=200, help="files to take, evenly spread over the data")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores of this machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="corpus_defaults", help="the result file's name")
    arguments = parser.parse_args()
    started_load = os.getloadavg()[0]
    files = chosen_files(arguments.data, arguments.files)
    audio_s = sum(soundfile.info(path).duration for path in files)
    ways: dict[str, HandSet | None] = {AS_TYPED: None}
    ways |= {str(setting): setting for setting in hand_set(arguments.cores)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    shard_clips = max(1, len(files) // (_SHARDS_PER_CORE * arguments.cores))
    for number, place in itertools.product(range(arguments.rounds), range(len(ways))):
        name = list(ways)[(place + number) % len(ways)]
        times[name].append(run(files, shard_clips, str(arguments.model), ways[name]))
        print(f"round {number + 1}: {name}: {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    settings = {
        "model": Path(arguments.model).name,
        "num_files": len(files),
        "hours": significant(audio_s / 3600),
        "shard_clips": shard_clips,
        "cores": arguments.cores,
        "rounds": arguments.rounds,
    }
    result = {**conditions(started_load), "settings": settings, "measurements": compared(times, audio_s)}
    write_result(RESULTS / f"{arguments.name}.json", result)


if __name__ == "__main__":
    main()
