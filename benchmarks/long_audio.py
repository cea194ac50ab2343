"""In how much memory, and how fast, do long recordings pass through?

One hour with `encode_long`, which reads the file as it goes, and with `decode_long`, which writes one as it goes; and
five minutes in one piece, beside the plain path. Each measurement is a process of its own. Its memory is the greatest
resident size during the call, above the resident size just before it, when model and input are loaded.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.plain import PlainCodec
from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from benchmarks.recordings import DEFAULT_AUDIO, SAMPLING_RATE, clips, described, read_recordings
from benchmarks.rounds import significant, summary
from benchmarks.systems import RELEASED_75
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel
from wavtokenizer_hf.audio.files import write_audio_blocks
from wavtokenizer_hf.streaming import decode_long, encode_long

RECORDING = "recording.flac"
DECODED = "decoded.flac"


@dataclass(frozen=True)
class Place:
    """What a measurement needs: the folder of model and long recording, short recordings, and how much takes part."""

    folder: Path
    audio: Path
    seconds: float


Call = Callable[[], Any]


def plain_encode(model: WavTokenizerModel, place: Place) -> Call:
    codec, clip = PlainCodec(model), _clip(place)
    return lambda: codec.encode(clip)


def plain_decode(model: WavTokenizerModel, place: Place) -> Call:
    codec, codes = PlainCodec(model), _codes(model, place)
    return lambda: codec.decode(codes)


def encode(model: WavTokenizerModel, place: Place) -> Call:
    clip = _clip(place)
    return lambda: model.encode(clip)


def decode(model: WavTokenizerModel, place: Place) -> Call:
    codes = _codes(model, place)
    return lambda: model.decode(codes)


def encode_file(model: WavTokenizerModel, place: Place) -> Call:
    return lambda: encode_long(model, place.folder / RECORDING, progress=False)


def decode_to_file(model: WavTokenizerModel, place: Place) -> Call:
    codes = _codes(model, place)
    return lambda: decode_long(model, codes, place.folder / DECODED, progress=False)


# By operation and way, in one piece and without end.
WHOLE: dict[tuple[str, str], Callable[[WavTokenizerModel, Place], Call]] = {
    ("encode", "plain path"): plain_encode,
    ("encode", "`model.encode`"): encode,
    ("decode", "plain path"): plain_decode,
    ("decode", "`model.decode`"): decode,
}
ENDLESS: dict[tuple[str, str], Callable[[WavTokenizerModel, Place], Call]] = {
    ("encode", "`encode_long`"): encode_file,
    ("decode", "`decode_long`"): decode_to_file,
}


def measure_one(operation: str, way: str, place: Place) -> dict[str, float]:
    """Seconds and megabytes of one call in this process."""
    model = WavTokenizerModel.from_pretrained(place.folder).eval()
    with torch.inference_mode():
        call = (WHOLE | ENDLESS)[operation, way](model, place)
        loaded = forget_peak()
        start = time.perf_counter()
        call()
        wall_s = time.perf_counter() - start
    return {"wall_s": wall_s, "loaded_mb": loaded / 1e6, "memory_mb": (resident("VmHWM") - loaded) / 1e6}


def measure(
    folder: Path, audio: Path, whole_s: float, endless_s: float, num_rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Every way, each time in a new process."""
    seconds = dict.fromkeys(WHOLE, whole_s) | dict.fromkeys(ENDLESS, endless_s)
    seen: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in seconds}
    for _ in range(num_rounds):
        for (operation, way), audio_s in seconds.items():
            command = [sys.executable, "-m", "benchmarks.long_audio", "--audio", os.fspath(audio)]
            command += ["--threads", str(threads), "--one", operation, way, os.fspath(folder), str(audio_s)]
            ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
            seen[operation, way].append(json.loads(ran.stdout.splitlines()[-1]))
            print(f"{operation}, {way}: {seen[operation, way][-1]}", file=sys.stderr, flush=True)
    return [
        {
            "operation": operation,
            "way": way,
            "audio_s": seconds[operation, way],
            **{key: summary([run[key] for run in runs]) for key in runs[0]},
            "times_real_time": significant(
                seconds[operation, way] / summary([run["wall_s"] for run in runs])["median"]
            ),
        }
        for (operation, way), runs in seen.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--model", help="a folder of a model; one of the released size with random weights otherwise")
    parser.add_argument("--minutes", type=float, default=60, help="length of the long recording")
    parser.add_argument("--whole-seconds", type=float, default=300, help="length of what passes in one piece")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "long_audio.json")
    parser.add_argument(
        "--one",
        nargs=4,
        metavar=("OPERATION", "WAY", "FOLDER", "SECONDS"),
        help="measure this in this process, and print it",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        operation, way, folder, seconds = arguments.one
        print(json.dumps(measure_one(operation, way, Place(Path(folder), arguments.audio, float(seconds)))))
        return
    load = os.getloadavg()[0]
    audio = read_recordings(arguments.audio)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, arguments.model, audio, 60 * arguments.minutes)
        measurements = measure(
            folder,
            arguments.audio.resolve(),  # its processes start in the repository
            arguments.whole_seconds,
            60 * arguments.minutes,
            arguments.rounds,
            arguments.threads,
        )
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "rounds": arguments.rounds,
            "model": Path(arguments.model).name if arguments.model else "released size, 75 codes/s, random weights",
            "audio": described(arguments.audio, audio),
        },
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def save(folder: Path, model: str | None, audio: np.ndarray, seconds: float) -> None:
    """Puts the model and a recording of that length, the audio in a loop, into the folder."""
    torch.manual_seed(0)
    config = WavTokenizerConfig(upsampling_ratios=list(RELEASED_75))
    (WavTokenizerModel.from_pretrained(model) if model else WavTokenizerModel(config)).save_pretrained(folder)
    num_samples = round(seconds * SAMPLING_RATE)
    starts = range(0, num_samples, len(audio))
    write_audio_blocks(folder / RECORDING, (audio[None, : num_samples - start] for start in starts), SAMPLING_RATE)


def _clip(place: Place) -> torch.Tensor:
    return clips(read_recordings(place.audio), place.seconds)


def _codes(model: WavTokenizerModel, place: Place) -> torch.Tensor:
    """Any codes: neither time nor memory depends on which."""
    return torch.randint(model.config.codebook_size, (1, 1, round(place.seconds * model.config.frame_rate)))


def forget_peak() -> int:
    """Gives back what is free, starts the count of the greatest resident size anew, and returns the size: bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    """A size that Linux reports of this process, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"this system does not report {field}; memory is measured on Linux")
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
