"""How much CPU time does it take to load the encoder alone from a large checkpoint?

The released geometry with random weights, once with the released decoder and once with one many times as deep. Each
measurement is a process of its own, which imports the package first. What is counted is the processor time of all
threads from the call of `from_pretrained` to its return, with what transformers imports only then. The order rotates
from round to round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from benchmarks.rounds import significant, summary
from benchmarks.systems import RELEASED_75
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerEncoderModel, WavTokenizerModel

CLASSES = {"encoder alone": WavTokenizerEncoderModel, "whole codec": WavTokenizerModel}
DECODER_LAYERS = (12, 72)


def measure_one(way: str, folder: Path) -> dict[str, float]:
    """Seconds of loading in this process, by the processor's clock and by the wall's."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    CLASSES[way].from_pretrained(folder)
    return {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}


def measure(folders: dict[Path, str], num_rounds: int, threads: int) -> list[dict[str, Any]]:
    """Every way and every folder in rounds, each time in a new process.

    Args:
        folders: Models, and what to call them.
    """
    cases = [(way, folder) for folder in folders for way in CLASSES]
    seen: dict[tuple[str, Path], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(num_rounds):
        turn = number % len(cases)
        for way, folder in (*cases[turn:], *cases[:turn]):
            command = [sys.executable, "-m", "benchmarks.loading", "--one", way, os.fspath(folder)]
            ran = subprocess.run(
                [*command, "--threads", str(threads)], cwd=REPOSITORY, capture_output=True, text=True, check=True
            )
            seen[way, folder].append(json.loads(ran.stdout.splitlines()[-1]))
    return [
        {
            "checkpoint": folders[folder],
            "file_mb": significant((folder / "model.safetensors").stat().st_size / 1e6),
            "loaded": way,
            **{clock: summary([run[clock] for run in runs]) for clock in ("cpu_s", "wall_s")},
        }
        for (way, folder), runs in seen.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--decoder-layers", type=int, nargs="+", default=DECODER_LAYERS, help="ConvNeXt blocks of each checkpoint"
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "loading.json")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help="measure this in this process, and print it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        way, folder = arguments.one
        print(json.dumps(measure_one(way, Path(folder))))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as parent:
        folders = {}
        for num_layers in arguments.decoder_layers:
            folder = Path(parent, str(num_layers))
            save(folder, num_layers)
            folders[folder] = f"{num_layers} ConvNeXt blocks"
        measurements = measure(folders, arguments.rounds, arguments.threads)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {"rounds": arguments.rounds, "weights": "random, seed 0"},
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def save(folder: Path, num_layers: int) -> None:
    torch.manual_seed(0)
    config = WavTokenizerConfig(upsampling_ratios=list(RELEASED_75), decoder_num_layers=num_layers)
    WavTokenizerModel(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
