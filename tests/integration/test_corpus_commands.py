"""The commands around a corpus, run in this process on a tiny model."""

import json
import sys

import numpy as np
import pytest

from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, rows_of, tokenize, write_recordings
from wavtokenizer_hf.cli import main
from wavtokenizer_hf.corpus.run import run_here


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command beside a folder of recordings, `in`, and a model, `model`; gives status, stdout and stderr."""
    write_recordings(tmp_path / "in", 4)
    (tmp_path / "in" / "broken.wav").write_text("no audio")
    (tmp_path / "in" / "readme.txt").write_text("recorded in a shed")
    tiny_model().save_pretrained(tmp_path / "model")
    FEATURE_EXTRACTOR.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WAVTOKENIZER_MODEL", "model")

    def run_here(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        printed = capsys.readouterr()
        return ended.value.code, printed.out, " ".join(printed.err.replace("│", " ").split())

    return run_here


def test_a_corpus_is_made_looked_at_and_exported(run, tmp_path):
    status, out, err = run("tokenize-corpus in out --workers 0 --shard-clips 2")
    rows = rows_of(tmp_path / "out")
    num_codes = sum(len(row["codes"]) for row in rows)
    assert (status, out) == (0, f"out: 4 clips, 0.00 hours, {num_codes} codes in 3 shards\n")
    assert err.endswith("passed over beside the recordings: 1 .txt left out: 1 unreadable")

    status, out, _ = run("status out")
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0
    assert (told["source"], told["shards"], told["clips"]) == ("in", "3 of 3", "5 of 5, 1 without codes")
    assert (told["unreadable"], told["codes"]) == ("1", str(num_codes))
    status, out, _ = run("status out --json")
    assert (status, json.loads(out)["num_codes"], json.loads(out)["errors"]) == (0, num_codes, {"unreadable": 1})

    assert (told["passed"], "damaged" in told) == ("over   1 .txt", False)
    status, out, _ = run("status out --verify")
    assert (status, "damaged       0 shards" in out) == (0, True)
    shard = next((tmp_path / "out" / "data").iterdir())
    whole = shard.read_bytes()
    shard.write_bytes(whole[:300] + bytes(9) + whole[309:])
    status, out, _ = run("status out --verify --json")
    assert (status, list(json.loads(out)["damaged_shards"].values())) == (
        1,
        ["its checksum is that of another content"],
    )
    shard.write_bytes(whole)

    status, out, err = run("export-tokens out tokens/all --format npy --offset 100 --end 7")
    assert (status, out.split()) == (0, ["tokens/all.npy", "tokens/all.ends.npy", "tokens/all.json"])
    assert err == f"4 documents, {num_codes + 4} tokens of the type uint16"
    ids = np.load("tokens/all.npy")
    assert ids[: len(rows[0]["codes"]) + 1].tolist() == [code + 100 for code in rows[0]["codes"]] + [7]
    status, _, err = run("export-tokens out tokens/all --format npy")
    assert status == 2
    assert "tokens/all.npy (and 2 more) would be overwritten" in err
    assert run("export-tokens out tokens/all --format npy --overwrite")[0] == 0
    np.save("tokens/mine.npy", ids)
    status, _, err = run("export-tokens out tokens/mine --format npy")
    assert (status, "tokens/mine.npy would be overwritten" in err) == (2, True)


def test_another_model_in_the_same_folder_is_refused(run, tmp_path):
    run("tokenize-corpus in out --workers 0")
    tiny_model(seed=1).save_pretrained(tmp_path / "model")
    status, _, err = run("tokenize-corpus in out --workers 0")
    assert status == 2
    assert "was begun with another plan: the model was model (" in err


def test_a_corpus_that_others_left_unfinished_ends_with_status_1(run, tmp_path, monkeypatch):
    monkeypatch.setattr("wavtokenizer_hf.corpus.run.run_here", lambda job, shards, *others: None)
    status, out, err = run("tokenize-corpus in out --workers 0 --shard-clips 2")
    assert (status, out.startswith("out: 0 clips")) == (1, True)
    assert err.endswith("3 shards are not there yet: run the same command again")
    assert "shards        0 of 3" in run("status out")[1]
    monkeypatch.setattr("wavtokenizer_hf.corpus.run.run_here", run_here)
    assert run("tokenize-corpus in out --workers 0 --shard-clips 2")[0] == 0


def test_a_key_press_ends_the_command_which_says_how_to_go_on(run, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("wavtokenizer_hf.corpus.run.run_here", interrupt)
    status, _, err = run("tokenize-corpus in out --workers 0")
    assert (status, "interrupted: the same command goes on where this one ended" in err) == (130, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenize-corpus gone out", "no such file: gone"),
        ("tokenize-corpus in.tar.gz out", "decompress it"),
        ("tokenize-corpus in out --split test", "that of a dataset on the Hub, and in is not one"),
        ("tokenize-corpus in out --actors 2", "--actors goes with --ray"),
        ("tokenize-corpus in model", "model holds something else than a corpus"),
        ("status in", "in is no corpus"),
        ("export-tokens in tokens", "in is no corpus"),
    ],
)
def test_wrong_use_says_what_is_wrong(run, line, message):
    status, _, err = run(line)
    assert (status, message in err) == (2, True), err


def test_readers_share_the_cores_of_a_host(monkeypatch):
    command = sys.modules["wavtokenizer_hf.cli.tokenize_corpus"]

    def share(num_cores: int, num_processes: int) -> int:
        monkeypatch.setattr(command.os, "sched_getaffinity", lambda pid: range(num_cores), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_processes))
        return command._num_workers()

    assert [share(1, 1), share(2, 1), share(16, 1), share(64, 8), share(8, 8)] == [1, 1, 8, 7, 1]


def test_a_tiny_model_tokenises_what_the_function_does(run, tmp_path):
    run("tokenize-corpus in out --workers 0")
    tokenize(tmp_path / "in", tmp_path / "other")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "other")
