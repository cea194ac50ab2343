"""One corpus made in three ways: by one process, by two launched together, and on Ray with a killed worker."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.processes import descendants
from tests.tiny_corpus import codes_alone, errors_of, log_of, noise, rows_of, write_recordings
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel, bundled_checkpoint
from wavtokenizer_hf.cli import main

NUM_CLIPS, NUM_ERRORS = 25, 5
NUM_SHARDS = 15
# A batch of 96,000 samples, so that the last recording is a long one.
OPTIONS = ["--workers", "0", "--shard-clips", "2", "--memory-gb", "0.024576"]
# What the option calls GPUs may as well be none: each process takes what there is.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "wavtokenizer_hf"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Short ones, longer ones, a very long one, and some that are broken."""
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder, 12)
    for index in range(12):
        soundfile.write(folder / f"third_{index:02}.flac", noise(3 * 24000, seed=index), 24000)
    soundfile.write(folder / "very_long.flac", noise(6 * 16000), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(2400), 24000)
    (folder / "broken.wav").write_text("no audio")
    (folder / "empty.flac").touch()
    os.mkfifo(folder / "endless.wav")
    (folder / "gone.wav").symlink_to(folder / "nowhere")
    return folder


@pytest.fixture(scope="module")
def alone(recordings, tmp_path_factory) -> Path:
    """Made by the command in this process, with another one that reads."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.raises(SystemExit) as ended:
        main(["tokenize-corpus", str(recordings), str(out), *OPTIONS, "--workers", "1"])
    assert ended.value.code == 0
    return out


def started(command: list[str], recordings: Path, out: Path, *options: str) -> subprocess.Popen:
    """The command in a process of its own, which prints into a file beside its folder."""
    with open(out.with_suffix(".txt"), "w") as printed:
        return subprocess.Popen(
            [*command, "tokenize-corpus", str(recordings), str(out), *OPTIONS, *options],
            stdout=printed,
            stderr=printed,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Codes, errors, statistics and card, of which every way makes the same."""
    paths = [*folder.glob("data/*"), *folder.glob("errors/*"), folder / "statistics.json", folder / "README.md"]
    return {path.name: path.read_bytes() for path in paths}


def shards_made(log: list[dict]) -> set[int]:
    return {entry["shard"] for entry in log if entry["event"] == "shard"}


def test_every_recording_gets_the_codes_that_it_gets_alone(alone, recordings):
    model = WavTokenizerModel.from_pretrained(bundled_checkpoint()).eval()
    extractor = WavTokenizerFeatureExtractor.from_pretrained(bundled_checkpoint())
    rows = rows_of(alone)
    assert len(rows) == NUM_CLIPS
    for row in rows:
        alone_codes = codes_alone(recordings / row["source"], model, extractor)
        differing = [
            frame for frame, pair in enumerate(zip(row["codes"], alone_codes, strict=True)) if len(set(pair)) > 1
        ]
        for frame in differing:  # none, or a tie that another processor breaks otherwise
            gap = gap_of(
                recordings / row["source"], model, extractor, frame, {row["codes"][frame], alone_codes[frame]}
            )
            assert gap < 1e-5, row["id"]
    assert {name: row["kind"] for name, row in errors_of(alone).items()} == {
        "broken.wav": "unreadable",
        "empty.flac": "empty",
        "endless.wav": "not a file",
        "gone.wav": "missing",
        "silent.wav": "silent",
    }


@torch.inference_mode()
def gap_of(path: Path, model, extractor, frame: int, codes: set[int]) -> float:
    """How much farther the second nearest entry is than the nearest, in float64, where these are the two codes."""
    precise = copy.deepcopy(model).double()
    samples = extractor(path, resample=True, return_tensors="pt")["input_values"].double()
    latents = precise.encode(samples, output_latents=True).encoder_latents[0, :, frame]
    distances = (precise.encoder_model.quantizer.codebook.embed.double() - latents).square().sum(dim=-1)
    (nearest, second), entries = distances.topk(2, largest=False)
    assert set(entries.tolist()) == codes
    return ((second - nearest) / nearest).item()


def test_two_launched_processes_make_the_same_corpus(alone, recordings, tmp_path):
    out = tmp_path / "out"
    process = started(LAUNCH, recordings, out)
    assert process.wait(200) == 0, out.with_suffix(".txt").read_text()
    assert contents(out) == contents(alone)
    assert out.with_suffix(".txt").read_text().count(f"{NUM_CLIPS} clips") == 1
    logs = [path.read_text().splitlines() for path in sorted((out / "log").glob("*.jsonl"))]
    made = [shards_made(map(json.loads, lines)) for lines in logs]
    assert made == [set(range(0, NUM_SHARDS, 2)), set(range(1, NUM_SHARDS, 2))]


@pytest.mark.timeout(600)  # on a busy core; some seconds of each are the start of a dozen processes
def test_ray_makes_the_same_corpus_when_a_worker_is_killed(alone, recordings, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = started([sys.executable, "-m", "wavtokenizer_hf"], recordings, out, "--ray", "--actors", "2")
    while not list(out.glob("data/*.parquet")):
        assert process.poll() is None, out.with_suffix(".txt").read_text()
        time.sleep(0.005)
    victim = next(pid for pid in descendants(process.pid) if b"ShardActor" in command_line(pid))
    os.kill(victim, 9)
    num_shards = len(list(out.glob("data/*.parquet")))
    assert process.wait(200) == 0, out.with_suffix(".txt").read_text()
    assert num_shards < NUM_SHARDS
    assert contents(out) == contents(alone)
    log = log_of(out)
    assert shards_made(log) == set(range(NUM_SHARDS))
    assert {entry["pid"] for entry in log if entry["event"] == "shard"} != {victim}


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
