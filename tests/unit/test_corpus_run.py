"""A corpus from beginning to end in one process, and what it leaves."""

import builtins
import errno
import json
import math
import re
import tarfile
import time
from collections import Counter
from datetime import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.tiny import tiny_model
from tests.tiny_corpus import codes_alone, errors_of, log_of, rows_of, tokenize, write_recordings
from wavtokenizer_hf import WavTokenizerEncoderModel, fingerprint
from wavtokenizer_hf.corpus import run as run_module
from wavtokenizer_hf.corpus import shards
from wavtokenizer_hf.corpus.log import CorpusLog, read_logs
from wavtokenizer_hf.corpus.progress import CorpusProgress, listing
from wavtokenizer_hf.corpus.run import run_here
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.corpus.statistics import Statistics
from wavtokenizer_hf.corpus.status import read_status


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Nine recordings, a broken one and a silent one."""
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder, 9)
    (folder / "broken.wav").write_text("no audio")
    soundfile.write(folder / "silent.wav", np.zeros(2400), 24000)
    return folder


@pytest.fixture(scope="module")
def corpus(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    tokenize(recordings, folder, shard_clips=4)
    return folder


def load(folder, *config, **options):
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(folder), *config, **options)


def test_every_recording_has_the_codes_that_it_has_alone(corpus, recordings):
    rows = rows_of(corpus)
    assert [row["id"] for row in rows] == [clip.id for clip in find_source(recordings).clips() if "/" in clip.id]
    for row in rows:
        assert row["codes"] == codes_alone(recordings / row["source"])


def test_datasets_opens_the_folder_and_the_table_of_errors(corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    clips = load(corpus, split="train", cache_dir=str(tmp_path))
    assert clips.features["codes"] == datasets.List(datasets.Value("uint16"))
    assert clips.to_list() == rows_of(corpus)
    errors = load(corpus, "errors", split="train", cache_dir=str(tmp_path))
    assert [(row["id"], row["kind"]) for row in errors] == [("broken.wav", "unreadable"), ("silent.wav", "silent")]


def test_datasets_opens_what_there_is_of_an_unfinished_corpus(recordings, tmp_path):
    def two_shards(job, indices, *others):
        run_here(job, indices[:2], *others)

    statistics = tokenize(recordings, tmp_path / "out", shard_clips=4, runner=two_shards)
    assert not statistics.is_complete
    assert load(tmp_path / "out", split="train", cache_dir=str(tmp_path)).num_rows == statistics.num_clips < 9


def test_datasets_opens_a_corpus_with_shards_that_hold_no_code(tmp_path):
    write_recordings(tmp_path / "in", 1)
    for name in ("a.wav", "z.wav"):
        soundfile.write(tmp_path / "in" / name, np.zeros(100), 24000)
    tokenize(tmp_path / "in", tmp_path / "out", shard_clips=1)
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3
    assert load(tmp_path / "out", split="train", cache_dir=str(tmp_path))["id"][:] == ["first/00.wav"]


def test_a_corpus_without_an_error_names_no_table_of_them(tmp_path):
    write_recordings(tmp_path / "in", 1)
    tokenize(tmp_path / "in", tmp_path / "out")
    datasets = pytest.importorskip("datasets")
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["codes"]
    assert errors_of(tmp_path / "out") == {}


def test_statistics_are_those_of_the_rows(corpus):
    rows = rows_of(corpus)
    codes = [code for row in rows for code in row["codes"]]
    counts = Counter(codes)
    entropy = -sum(n / len(codes) * math.log2(n / len(codes)) for n in counts.values())
    statistics = json.loads((corpus / "statistics.json").read_text())
    assert statistics["code_counts"] == [counts[code] for code in range(64)]
    assert statistics["num_codes"] == len(codes)
    assert statistics["hours"] == pytest.approx(sum(row["duration"] for row in rows) / 3600, abs=1e-6)
    assert statistics["num_samples"] == sum(row["num_samples"] for row in rows)
    assert (statistics["num_clips"], statistics["num_clips_planned"]) == (9, 11)
    assert (statistics["num_shards"], statistics["num_shards_planned"], statistics["is_complete"]) == (3, 3, True)
    assert statistics["codebook"]["entropy_bits"] == pytest.approx(entropy)
    assert statistics["codebook"]["usage"] == len(counts) / 64
    assert statistics["errors"] == {"silent": 1, "unreadable": 1}


def test_the_manifest_names_the_model_by_its_fingerprint(corpus, recordings):
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["codec"]["fingerprint"] == fingerprint(tiny_model())
    assert manifest["codec"] | {"fingerprint": 0} == {
        "name": "tiny",
        "fingerprint": 0,
        "sampling_rate": 24000,
        "hop_length": 80,
        "codebook_size": 64,
    }
    assert manifest["source"] == recordings.name
    assert manifest["settings"]["shard_clips"] == 4


def test_the_card_has_the_figures_of_the_statistics(corpus):
    card = (corpus / "README.md").read_text()
    statistics = json.loads((corpus / "statistics.json").read_text())
    assert f"| Codes | {statistics['num_codes']:,} |" in card
    assert f"| Entropy | {statistics['codebook']['entropy_bits']:.3f} bits of 6.000 |" in card
    assert "| Left out: silent | 1 |" in card
    assert "not finished" not in card


def test_nothing_but_the_plan_knows_where_this_machine_keeps_the_recordings(corpus, recordings):
    for path in corpus.rglob("*"):
        if path.is_file() and path.parent.name != "plan":
            assert str(recordings.parent).encode() not in path.read_bytes(), path


def test_the_log_tells_of_starts_shards_errors_and_the_end(corpus):
    entries = log_of(corpus)
    assert [entry["event"] for entry in entries] == ["start", "error", "shard", "shard", "shard", "end"] or [
        entry["event"] for entry in entries
    ].count("shard") == 3
    failed = [(entry["id"], entry["kind"]) for entry in entries if entry["event"] == "error"]
    assert failed == [("broken.wav", "unreadable"), ("silent.wav", "silent")]
    done = [entry for entry in entries if entry["event"] == "shard"]
    assert sum(entry["num_codes"] for entry in done) == sum(len(row["codes"]) for row in rows_of(corpus))
    times = [datetime.fromisoformat(entry["time"]) for entry in entries]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)


def test_a_line_of_the_log_that_was_cut_short_spoils_no_other(tmp_path):
    CorpusLog(tmp_path).write("start", number=1)
    path = tmp_path / "log" / "00000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "20')
    CorpusLog(tmp_path).write("end")
    CorpusLog(tmp_path, 3).write("start", number=2)
    assert [(entry["event"], entry.get("number")) for entry in read_logs(tmp_path)] == [
        ("start", 1),
        ("end", None),
        ("start", 2),
    ]


def test_a_run_that_is_done_does_nothing_again(recordings, corpus, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (corpus / "data").iterdir()}
    monkeypatch.setattr(run_module, "write_shard", None)
    statistics = tokenize(recordings, corpus, shard_clips=4)
    assert statistics.is_complete
    assert {path: path.stat().st_mtime_ns for path in (corpus / "data").iterdir()} == before


def test_a_shard_that_was_removed_is_made_again(recordings, corpus, tmp_path):
    tokenize(recordings, tmp_path / "out", shard_clips=4)
    path = sorted((tmp_path / "out" / "data").iterdir())[1]
    whole = path.read_bytes()
    path.unlink()
    tokenize(recordings, tmp_path / "out", shard_clips=4)
    assert path.read_bytes() == whole
    assert [entry["shard"] for entry in log_of(tmp_path / "out") if entry["event"] == "shard"] == [0, 1, 2, 1]


def test_a_damaged_shard_is_told_of_and_made_again(recordings, corpus, tmp_path, capsys):
    tokenize(recordings, tmp_path / "out", shard_clips=4)
    flipped, torn, _ = sorted((tmp_path / "out" / "data").iterdir())
    whole = bytearray(flipped.read_bytes())
    whole[100] ^= 1
    flipped.write_bytes(whole)
    torn.write_bytes(torn.read_bytes()[:-1])
    assert list(read_status(tmp_path / "out", verify=True).damaged) == [0, 1]
    assert read_status(tmp_path / "out").damaged is None
    tokenize(recordings, tmp_path / "out", shard_clips=4, shows_progress=True)
    assert [path.read_bytes() for path in sorted((tmp_path / "out" / "data").iterdir())] == [
        path.read_bytes() for path in sorted((corpus / "data").iterdir())
    ]
    assert "shard 0 was damaged and is made again: its checksum" in capsys.readouterr().err
    assert [entry["shard"] for entry in log_of(tmp_path / "out") if entry["event"] == "damaged"] == [0, 1]
    assert read_status(tmp_path / "out", verify=True).damaged == {}


def test_a_second_run_in_a_folder_says_that_another_is_at_work(recordings, tmp_path):
    told = []

    def begin_another(*arguments):
        with pytest.raises(RuntimeError, match="another run is at work in"):
            tokenize(recordings, tmp_path / "out", shard_clips=4)
        told.append(True)
        run_here(*arguments)

    assert tokenize(recordings, tmp_path / "out", shard_clips=4, runner=begin_another).is_complete
    assert tokenize(recordings, tmp_path / "out", shard_clips=4).is_complete
    assert told == [True]


@pytest.mark.parametrize("existed", [False, True])
def test_a_source_that_cannot_be_listed_leaves_the_folder_as_it_was(tmp_path, existed):
    if existed:
        (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError):
        tokenize(tmp_path / "gone", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"] * existed


def test_what_could_not_be_used_stands_in_errors_log_status_and_card(tmp_path):
    (tmp_path / "in").mkdir()
    write_recordings(tmp_path / "elsewhere", 1)
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        archive.add(tmp_path / "elsewhere" / "first" / "00.wav", "a.wav")
        archive.add(tmp_path / "elsewhere" / "first" / "00.wav", "b.txt")
        archive.add(tmp_path / "elsewhere" / "first" / "00.wav", "c.jpg")
    statistics = tokenize(tmp_path / "in", tmp_path / "out")
    assert (statistics.num_clips, statistics.num_errors) == (1, {"unpaired": 2})
    assert list(errors_of(tmp_path / "out")) == ["a.tar/b.txt", "a.tar/a.txt"]
    assert [entry["id"] for entry in log_of(tmp_path / "out") if entry["event"] == "error"] == [
        "a.tar/b.txt",
        "a.tar/a.txt",
    ]
    assert log_of(tmp_path / "out")[0]["passed_over"] == {".jpg": 1}
    assert read_status(tmp_path / "out").as_json()["passed_over"] == {".jpg": 1}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Left out: unpaired | 2 |" in card
    assert "is not in here: 1 .jpg." in card


def test_a_source_of_nothing_but_problems_is_an_error(tmp_path):
    (tmp_path / "list.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"holds no recording: list\.jsonl:1: line 1: Expecting"):
        tokenize(tmp_path / "list.jsonl", tmp_path / "out")


def test_names_that_end_lines_of_text_end_none_of_the_log(tmp_path):
    (tmp_path / "in").mkdir()
    write_recordings(tmp_path / "in", 1)
    (tmp_path / "in" / '\u2028{"a":1}\u2028.wav').write_text("no audio")
    tokenize(tmp_path / "in", tmp_path / "out")
    assert [entry["event"] for entry in read_logs(tmp_path / "out")] == ["start", "error", "shard", "end"]


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(recordings, corpus, tmp_path, monkeypatch):
    write_table = shards.pq.ParquetWriter.write_table
    written = []

    def full(writer, table, **options):
        written.append(table)
        if len(written) == 5:  # three parts of the plan, a shard, and this one
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(writer, table, **options)

    monkeypatch.setattr(shards.pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left on device"):
        tokenize(recordings, tmp_path / "out", shard_clips=4)
    assert len(list((tmp_path / "out" / "data").iterdir())) == 1
    tokenize(recordings, tmp_path / "out", shard_clips=4)
    assert rows_of(tmp_path / "out") == rows_of(corpus)
    assert errors_of(tmp_path / "out") == errors_of(corpus)


@pytest.mark.parametrize("step", range(1, 12))
def test_whatever_finds_the_disk_full_says_which_and_how_to_go_on(recordings, corpus, tmp_path, monkeypatch, step):
    """Plan, card, log, shards, statistics, table of errors."""
    real_open, real_writer, num_opened = builtins.open, pq.ParquetWriter, 0

    def full(opens):
        def opened(path, *arguments, **named):
            nonlocal num_opened
            is_written = opens is real_writer or (arguments and set(arguments[0]) & set("wa"))
            if is_written and str(path).startswith(str(tmp_path)):
                num_opened += 1
                if num_opened == step:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return opens(path, *arguments, **named)

        return opened

    with monkeypatch.context() as patches:
        patches.setattr(builtins, "open", full(real_open))
        patches.setattr(pq, "ParquetWriter", full(real_writer))
        with pytest.raises(OSError, match="No space left") as raised:
            tokenize(recordings, tmp_path / "out", shard_clips=4)
    assert (raised.value.errno, str(raised.value).count("the same command goes on")) == (errno.ENOSPC, 1)
    assert f"{tmp_path / 'out'}" in str(raised.value)
    tokenize(recordings, tmp_path / "out", shard_clips=4)
    assert [path.read_bytes() for path in sorted((tmp_path / "out" / "data").iterdir())] == [
        path.read_bytes() for path in sorted((corpus / "data").iterdir())
    ]


def test_the_encoder_alone_makes_the_same_corpus(recordings, corpus, tmp_path):
    whole = tiny_model()
    encoder = WavTokenizerEncoderModel(whole.config).eval()
    encoder.load_state_dict(whole.encoder_model.state_dict())
    tokenize(recordings, tmp_path / "out", encoder, shard_clips=4)
    assert [path.read_bytes() for path in sorted((tmp_path / "out" / "data").iterdir())] == [
        path.read_bytes() for path in sorted((corpus / "data").iterdir())
    ]


def test_columns_travel_along(tmp_path):
    write_recordings(tmp_path / "in", 3)
    (tmp_path / "in" / "list.jsonl").write_text(
        '{"file": "first/00.wav", "text": "Grüße", "speaker": 4, "duration": 0.1}\n'
        '{"file": "second/01.flac", "start": 0.01, "end": 0.04}\n'
    )
    tokenize(tmp_path / "in" / "list.jsonl", tmp_path / "out")
    first, second = rows_of(tmp_path / "out")
    assert (first["text"], first["speaker"], first["input_duration"]) == ("Grüße", "4", "0.1")
    assert (second["text"], second["start"], second["duration"]) == (None, "0.01", 0.03)
    part = soundfile.read(tmp_path / "in" / "second/01.flac", dtype="float32")[0][160:640]
    assert second["codes"] == codes_alone(part, sampling_rate=16000)


def test_status_tells_how_far_a_corpus_is(recordings, tmp_path):
    def one_shard(job, indices, *others):
        run_here(job, indices[:1], *others)

    tokenize(recordings, tmp_path / "out", shard_clips=4, runner=one_shard)
    status = read_status(tmp_path / "out").as_json()
    assert (status["num_shards"], status["num_shards_planned"], status["is_complete"]) == (1, 3, False)
    assert status["num_clips"] + sum(status["errors"].values()) == 4
    assert status["real_time_factor"] > 0
    assert 0 <= status["s_since_last_event"] < 60


def test_the_speed_is_that_since_the_last_start(tmp_path, monkeypatch):
    log = CorpusLog(tmp_path)
    for second, event, content in [
        (0, "start", {"process": 0}),
        (1, "shard", {"audio_s": 1000.0}),
        (10, "start", {"process": 0}),
        (11, "start", {"process": 1}),
        (14, "shard", {"audio_s": 30.0}),
        (20, "shard", {"audio_s": 70.0}),
    ]:
        log.write(event, **content)
        path = tmp_path / "log" / "00000.jsonl"
        lines = path.read_text().splitlines()
        lines[-1] = re.sub(r'"time": "[^"]*"', f'"time": "2026-01-01T00:00:{second:02}+00:00"', lines[-1])
        path.write_text("\n".join(lines) + "\n")
    write_recordings(tmp_path / "in", 1)
    tokenize(tmp_path / "in", tmp_path / "out", runner=lambda *arguments: None)
    (tmp_path / "log" / "00000.jsonl").replace(tmp_path / "out" / "log" / "00000.jsonl")
    assert read_status(tmp_path / "out").real_time_factor == pytest.approx(10.0)


def test_a_bar_counts_clips_hours_and_errors_also_of_other_processes(
    recordings, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("wavtokenizer_hf.corpus.progress._LOOK_EVERY_S", 0.01)
    plan = read_status(corpus).plan
    with CorpusProgress(plan, Statistics(plan)) as progress:
        progress.add(4, 24000 * 3600, 1)
        assert progress._bar.tasks[0].completed == 4
        assert progress._bar.tasks[0].fields["figures"].startswith("1.00 h · ")
        assert progress._bar.tasks[0].fields["figures"].endswith("1 errors")
        progress.watch([1, 2])
        for watcher in progress._watchers:
            watcher.join(10)
        assert progress._bar.tasks[0].completed == 11
    assert "11/11" in capsys.readouterr().err


def test_a_narrow_terminal_cuts_nothing_off_the_bar(corpus, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "44")
    plan = read_status(corpus).plan
    with CorpusProgress(plan, Statistics(plan)) as progress:
        progress.add(4, 24000 * 3600, 1)
    shown = " ".join(capsys.readouterr().err.replace("━", "").split())
    assert re.search(r"4/11 clips · 1\.00 h · [\d,]+x real time · 1 errors · (\?|[\d:]+) left$", shown)


def test_a_file_for_stderr_gets_a_line_every_minute(corpus, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "44")
    now = [0.0]
    monkeypatch.setattr("wavtokenizer_hf.corpus.progress.time.monotonic", lambda: now[0])
    plan = read_status(corpus).plan
    with CorpusProgress(plan, Statistics(plan)) as progress:
        for now[0] in (10.0, 70.0, 80.0, 130.0):
            progress.add(1, 24000 * 36, 0)
        lines = capsys.readouterr().err.splitlines()
    assert [line.split(" clips")[0] for line in lines] == ["2/11", "4/11"]
    assert lines[0].endswith("left")


def test_a_terminal_shows_how_many_recordings_are_listed(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with listing() as tell:
        tell(12000)
        time.sleep(0.3)
    assert "Listing recordings: 12,000" in capsys.readouterr().err


def test_noise_makes_codes_that_vary(corpus):
    """Else the tests above would compare constants."""
    assert all(len(set(row["codes"])) > 5 for row in rows_of(corpus))
