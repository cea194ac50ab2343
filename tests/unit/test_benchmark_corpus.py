"""The benchmark of corpora: what it compares, and the plan that follows from its figures."""

import json
import subprocess
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus, corpus_tables
from benchmarks.corpus import chosen_files, plain_loop, tokenize, variants
from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, rows_of, write_recordings


def test_the_loop_and_the_command_make_the_same_codes(tmp_path):
    files = write_recordings(tmp_path / "in", 5)
    plain_loop(files, tmp_path / "loop", (tiny_model(), FEATURE_EXTRACTOR))
    tokenize(0)(files, tmp_path / "out", (tiny_model(), FEATURE_EXTRACTOR))
    codes = [np.load(tmp_path / "loop" / f"{index}.npy").tolist() for index in range(5)]
    assert [row["codes"] for row in rows_of(tmp_path / "out")] == codes


def test_files_are_spread_over_the_data(tmp_path):
    write_recordings(tmp_path, 8)
    names = [path.name[:2] for path in chosen_files(tmp_path, 4)]
    assert names == ["00", "04", "01", "05"]  # every second one of two folders
    assert len(chosen_files(tmp_path, 100)) == 8


def test_variants_run_in_turn_and_are_compared_within_a_round(monkeypatch):
    names = list(variants(3))
    speeds = iter([10.0, 20.0, 40.0, 60.0, 5.0, 15.0])  # 0 1 2, then 1 2 0
    order = []

    def run(command, **options):
        order.append(command[command.index("--one") + 1])
        return Namespace(stdout=json.dumps({"audio_s_per_s": next(speeds), "mb_per_hour": 0.4}) + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    asked = Namespace(data=Path("x"), model="m", device="cpu", files=2, workers=3, threads=1, rounds=2)
    entries = {entry["variant"]: entry for entry in corpus.measure(asked)}
    assert order == [*names, names[1], names[2], names[0]]
    assert entries[names[0]]["audio_s_per_s"]["all"] == [10.0, 15.0]
    assert entries[names[1]]["ratio_to_baseline"]["all"] == [2.0, 4.0]
    assert entries[names[2]]["ratio_to_baseline"]["median"] == pytest.approx((4.0 + 1 / 3) / 2, rel=1e-4)


def test_reading_is_measured_in_every_format():
    entries = corpus.measure_reading(seconds=0.5, num_times=1)
    assert [(entry["format"], entry["sampling_rate"]) for entry in entries] == list(corpus.FORMATS)
    wav = next(entry for entry in entries if entry["format"] == "wav")
    assert wav["mb_per_hour"] == pytest.approx(44100 * 2 * 3600 / 1e6, rel=0.01)
    assert all(entry["audio_s_per_s"] > 1 for entry in entries)


def test_the_plan_follows_from_the_measured_figures():
    result = {
        "reading": [{"format": "flac", "sampling_rate": 16000, "audio_s_per_s": 250.0, "mb_per_hour": 72.0}],
        "measurements": [{"mb_per_hour": 0.4}],
        "released_gflop_per_audio_s": 5.0,
    }
    rows = [line.split(" | ") for line in corpus_tables.plan_table(result).splitlines()[2:6]]
    # 100,000 h at 8 * 1000 are 12.5 h; 1000 / 250 cores; 8000 * 72 / 3600 MB/s; 100,000 * 0.4 MB
    assert rows[0] == ["| 8 GPUs at 1,000 times real time each", "12.5 h", "4", "160 MB/s", "40 GB |"]
    assert rows[3] == ["| 64 GPUs at 3,000 times real time each", "0.5 h", "12", "3,840 MB/s", "40 GB |"]
