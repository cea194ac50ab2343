"""The benchmark of defaults: what is set by hand, and what is compared."""

import pytest

from benchmarks.corpus_defaults import AS_TYPED, HandSet, compared, environments, hand_set, run
from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, write_recordings


def test_processes_and_threads_are_set_as_torchrun_sets_them(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (typed,) = environments(None)
    assert "OMP_NUM_THREADS" not in typed
    assert hand_set(2) == [HandSet(1, 2, 0), HandSet(1, 2, 1), HandSet(2, 1, 0), HandSet(2, 1, 1)]
    assert hand_set(1) == [HandSet(1, 1, 0), HandSet(1, 1, 1)]
    assert [each["OMP_NUM_THREADS"] for each in environments(HandSet(1, 2, 0))] == ["2"]
    two = environments(HandSet(2, 1, 0))
    assert [(each["RANK"], each["WORLD_SIZE"], each["OMP_NUM_THREADS"]) for each in two] == [
        ("0", "2", "1"),
        ("1", "2", "1"),
    ]
    assert two[0]["MASTER_PORT"] == two[1]["MASTER_PORT"]


def test_the_ratio_is_to_the_fastest_that_is_set_by_hand_round_by_round():
    entries = compared({AS_TYPED: [10.0, 20.0], "slow": [30.0, 60.0], "fast": [9.0, 22.0]}, audio_s=90.0)
    assert [entry["ratio_to_best_hand_set"]["all"] for entry in entries] == [[0.9, 1.1], [0.3, 0.36667], [1.0, 1.0]]
    assert entries[0]["audio_s_per_s"]["all"] == [9.0, 4.5]


def test_a_command_that_fails_is_an_error_with_what_it_said(tmp_path):
    files = write_recordings(tmp_path / "in", 2)
    with pytest.raises(RuntimeError, match="no such folder"):
        run(files, 1, str(tmp_path / "nowhere"), None)


@pytest.mark.slow
def test_every_way_makes_the_corpus(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    FEATURE_EXTRACTOR.save_pretrained(tmp_path / "model")
    files = write_recordings(tmp_path / "in", 4)
    for setting in (None, HandSet(2, 1, 0)):
        assert run(files, 1, str(tmp_path / "model"), setting) > 0
