"""How fast is `tokenize-corpus` beside the loop that users write, and what bounds it?

The loop reads a file, averages its channels, resamples, encodes one clip and saves an array, like the scripts that one
finds; it encodes under `torch.inference_mode`. Both work on the same files with the same model. A measurement is a
process of its own and covers all from the list of files to the last byte written, with the start of reading processes,
but not the import of torch or the loading of the model. The order rotates from round to round, and a ratio is the
median over rounds of the ratio within a round.

Beside that, what a plan for a large corpus needs: how fast one core reads and resamples recordings of several formats,
how many bytes an hour of codes takes, and the arithmetic of encoding a second at the released geometry.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

from benchmarks.arithmetic import Arithmetic
from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from benchmarks.rounds import significant, speedup, summary
from wavtokenizer_hf import (
    WavTokenizerConfig,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    bundled_checkpoint,
    fingerprint,
)
from wavtokenizer_hf.audio.files import find_files, write_audio
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.corpus.reader import ClipReader, ReadClip
from wavtokenizer_hf.corpus.run import tokenize_corpus
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.corpus.worker import Resources

BASELINE = "loop, file by file"
FORMATS = (("flac", 24000), ("flac", 16000), ("wav", 44100), ("flac", 48000), ("mp3", 44100), ("ogg", 44100))
RECORDING = REPOSITORY / "conversion" / "LJ001-0002.flac"
RELEASED = WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2])

Codec = tuple[Any, WavTokenizerFeatureExtractor]


def plain_loop(files: Sequence[Path], out: Path, codec: Codec) -> None:
    """For each file: load, average, resample, encode, save."""
    model, _ = codec
    out.mkdir()
    for number, path in enumerate(files):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clip = torch.from_numpy(samples.T).mean(dim=0, keepdim=True)
        clip = torchaudio.functional.resample(clip, rate, model.config.sampling_rate)
        with torch.inference_mode():
            codes = model.encode(clip[None].to(model.device)).audio_codes
        np.save(out / f"{number}.npy", codes[0, 0].cpu().numpy().astype(np.uint16))


def tokenize(num_workers: int) -> Callable[[Sequence[Path], Path, Codec], None]:
    """What the command does."""

    def work(files: Sequence[Path], out: Path, codec: Codec) -> None:
        model, extractor = codec
        listed = out.with_suffix(".tsv")
        listed.write_text("file\n" + "".join(f"{path}\n" for path in files), encoding="utf-8")
        resources = Resources(num_workers=num_workers, timeout_s=600)
        known = codec_of(model, extractor, name="model", fingerprint=fingerprint(model))
        tokenize_corpus(find_source(listed), out, known, resources=resources)

    return work


def variants(num_workers: int) -> dict[str, Callable[[Sequence[Path], Path, Codec], None]]:
    return {
        BASELINE: plain_loop,
        "tokenize-corpus, no reading process": tokenize(0),
        f"tokenize-corpus, {num_workers} reading": tokenize(num_workers),
    }


def measure_one(variant: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of audio a second, and bytes written for an hour of it."""
    files = chosen_files(arguments.data, arguments.files)
    seconds = sum(soundfile.info(path).duration for path in files)
    model = WavTokenizerEncoderModel.from_pretrained(arguments.model).eval().to(arguments.device)
    extractor = WavTokenizerFeatureExtractor.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        start = time.perf_counter()
        variants(arguments.workers)[variant](files, out, (model, extractor))
        wall_s = time.perf_counter() - start
        written = [path.stat().st_size for path in (out / "data" if (out / "data").is_dir() else out).iterdir()]
    return {"audio_s_per_s": seconds / wall_s, "mb_per_hour": sum(written) / 1e6 / (seconds / 3600)}


def chosen_files(data: Path, number: int) -> list[Path]:
    """So many files, evenly spread over the data."""
    found = [file.path for file in find_files([data])]
    return [found[index * len(found) // number] for index in range(number)] if number < len(found) else found


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All variants in rounds, each time in a new process."""
    names = list(variants(arguments.workers))
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number, place in itertools.product(range(arguments.rounds), range(len(names))):
        name = names[(place + number) % len(names)]
        command = [sys.executable, "-m", "benchmarks.corpus", str(arguments.data), "--one", name]
        for option in ("model", "device", "files", "workers", "threads"):
            command += [f"--{option}", str(getattr(arguments, option))]
        ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        seen[name].append(json.loads(ran.stdout.splitlines()[-1]))
        print(f"round {number + 1}: {name}: {seen[name][-1]}", file=sys.stderr, flush=True)
    speeds = {name: [run["audio_s_per_s"] for run in runs] for name, runs in seen.items()}
    return [
        {
            "variant": name,
            "audio_s_per_s": summary(speeds[name]),
            "ratio_to_baseline": speedup(speeds[BASELINE], speeds[name]),
            "mb_per_hour": significant(runs[0]["mb_per_hour"]),
        }
        for name, runs in seen.items()
    ]


def measure_reading(seconds: float = 10.0, num_times: int = 20) -> list[dict[str, Any]]:
    """Seconds of audio that one core reads and brings to the codec's rate in a second, by format and rate."""
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    entries = []
    for suffix, target in FORMATS:
        clip = torchaudio.functional.resample(torch.from_numpy(samples), rate, target).numpy()
        clip = np.tile(clip, int(-(-seconds * target // len(clip))))[: int(seconds * target)]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, f"a.{suffix}")
            write_audio(path, clip, target)
            reader = ClipReader(find_source(path), WavTokenizerFeatureExtractor())
            (planned,) = reader.source.clips()
            times = []
            for _ in range(num_times + 1):
                start = time.perf_counter()
                outcome = reader.read(planned)
                times.append(time.perf_counter() - start)
                if not isinstance(outcome, ReadClip):
                    raise RuntimeError(f"{path.name} could not be read: {outcome}")
            size = path.stat().st_size
        entries.append(
            {
                "format": suffix,
                "sampling_rate": target,
                "audio_s_per_s": significant(seconds / statistics.median(times[1:])),
                "mb_per_hour": significant(size / 1e6 * 3600 / seconds),
            }
        )
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of recordings")
    parser.add_argument("--model", default=bundled_checkpoint(), help="a folder or Hub id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--files", type=int, default=200, help="files to take, evenly spread over the data")
    parser.add_argument("--workers", type=int, default=1, help="reading processes of the last variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the model")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant")
    parser.add_argument("--one", help="measure this variant in this process, and print it")
    parser.add_argument("--name", default="corpus", help="the result file's name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure_one(arguments.one, arguments)))
        return
    started_load = os.getloadavg()[0]
    files = chosen_files(arguments.data, arguments.files)
    reading = measure_reading()
    measurements = measure(arguments)
    settings = {
        "model": Path(arguments.model).name,
        "device": arguments.device,
        "num_files": len(files),
        "hours": significant(sum(soundfile.info(path).duration for path in files) / 3600),
        "workers": arguments.workers,
        "rounds": arguments.rounds,
    }
    result = {
        **conditions(started_load, arguments.device),
        "settings": settings,
        "measurements": measurements,
        "reading": reading,
        "released_gflop_per_audio_s": significant(Arithmetic(RELEASED).encoding(1.0) / 1e9),
    }
    write_result(RESULTS / f"{arguments.name}.json", result)


if __name__ == "__main__":
    main()
