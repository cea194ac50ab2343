"""The log of a run: what its entries say, and what is left of it when the run goes on from a checkpoint."""

import dataclasses
import json
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.tiny import noise
from wavtokenizer_hf.training import runlog
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.runlog import RunLog, RunningMeans
from wavtokenizer_hf.training.validation import Example, Validation


@pytest.fixture(autouse=True)
def _one_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def open_log(tmp_path):
    def open_in_run(start_step=0, means=None, **settings) -> RunLog:
        config = TrainingConfig(**{"tracker": "none", "log_every": 2, "max_steps": 5} | settings)
        accelerator = Accelerator(log_with=None if config.tracker == "none" else config.tracker, project_dir=tmp_path)
        return RunLog(
            accelerator, tmp_path, config, means or RunningMeans(), start_step=start_step, sampling_rate=24000
        )

    return open_in_run


def entries(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def losses(**values) -> dict[str, torch.Tensor]:
    return {f"generator/{name}": torch.tensor(value) for name, value in values.items()}


VALIDATION = Validation(
    mel=0.5,
    usage=0.25,
    entropy_bits=4.0,
    perplexity=16.0,
    num_clips=1,
    examples=[Example("a.wav", 0.1 * noise(4800)[0:4800], 0.1 * noise(4800, seed=1))],
)


def test_entries_hold_the_means_of_their_steps_and_the_state_of_the_last(open_log, tmp_path):
    with open_log() as log:
        for step, mel in enumerate([1.0, 3.0, 5.0, 9.0, 4.0], start=1):
            extra = {"codebook/revived": torch.tensor(6.0)} if step == 4 else {}
            log.step(step, losses(mel=mel) | extra, seconds=2.0, state={"generator/learning_rate": 1 / step})
    written = entries(tmp_path)
    assert [entry.pop("audio_s_per_s") > 0 for entry in written] == [True, True, True]
    assert written == [
        {"step": 2, "generator/mel": 2.0, "generator/learning_rate": 0.5},
        {"step": 4, "generator/mel": 7.0, "codebook/revived": 6.0, "generator/learning_rate": 0.25},
        {"step": 5, "generator/mel": 4.0, "generator/learning_rate": 0.2},
    ]


def test_throughput_is_seconds_of_audio_over_seconds_of_time(open_log, tmp_path, monkeypatch):
    now = iter([100.0, 100.0, 104.0, 104.0])
    monkeypatch.setattr(runlog.time, "monotonic", lambda: next(now))
    log = open_log()
    log.__enter__()
    log.step(1, losses(mel=1.0), seconds=6.0, state={})
    log.step(2, losses(mel=1.0), seconds=6.0, state={})
    monkeypatch.undo()
    log.__exit__()
    assert entries(tmp_path)[0]["audio_s_per_s"] == 3.0


def test_means_that_went_through_a_checkpoint_go_on_where_they_were():
    values = [losses(mel=0.1), losses(mel=0.7, commitment=2.0), losses(mel=1.9)]
    whole, first = RunningMeans(), RunningMeans()
    for value in values:
        whole.add(value)
    first.add(values[0])
    first.add(values[1])
    second = RunningMeans()
    second.load_state_dict(first.state_dict())
    second.add(values[2])
    means = whole.take()
    assert second.take() == means
    assert math.isclose(means["generator/mel"], (0.1 + 0.7 + 1.9) / 3, rel_tol=1e-6)
    assert means["generator/commitment"] == 2.0
    assert whole.take() == {}


def test_entries_past_the_checkpoint_and_the_half_line_of_a_killed_process_are_dropped(open_log, tmp_path):
    lines = [json.dumps({"step": step, "generator/mel": 1.0}) for step in (2, 4, 4, 6, 8)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 10, "gener')
    with open_log(start_step=4) as log:
        assert [entry["step"] for entry in entries(tmp_path)] == [2, 4, 4]
        log.step(6, losses(mel=3.0), seconds=1.0, state={})
    assert [entry["step"] for entry in entries(tmp_path)] == [2, 4, 4, 6]


def test_a_run_from_the_start_leaves_no_entry_of_another(open_log, tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 2, "generator/mel": 1.0}) + "\n")
    with open_log():
        assert entries(tmp_path) == []


def test_a_validation_is_an_entry_of_its_own(open_log, tmp_path):
    with open_log() as log:
        log.validation(4, VALIDATION)
    assert entries(tmp_path) == [
        {
            "step": 4,
            "validation/mel": 0.5,
            "codebook/usage": 0.25,
            "codebook/entropy_bits": 4.0,
            "codebook/perplexity": 16.0,
            "validation/num_clips": 1,
        }
    ]


def test_a_validation_with_a_tone_is_logged_with_its_measures_and_a_warning(open_log, tmp_path, caplog):
    with open_log() as log:
        for step, tone_db in ((2, 24.5), (4, 0.3)):
            log.validation(step, dataclasses.replace(VALIDATION, measures={"frame_tone_db": tone_db, "gpe": 0.9}))
    assert [entry["validation/frame_tone_db"] for entry in entries(tmp_path)] == [24.5, 0.3]
    assert [entry["validation/gpe"] for entry in entries(tmp_path)] == [0.9, 0.9]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("step 2: A tone at the frame rate stands 24.5 dB above")


def test_lines_for_a_file_of_messages_name_the_step_and_the_losses(open_log, caplog):
    with caplog.at_level("INFO"), open_log() as log:
        log.step(2, losses(mel=1.25), seconds=1.0, state={})
    assert caplog.messages[-1].startswith("step 2  mel 1.25")


def test_tensorboard_gets_curves_sound_and_pictures(open_log, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_log(tracker="tensorboard") as log:
        log.step(2, losses(mel=1.25), seconds=1.0, state={})
        log.validation(2, VALIDATION)
    events = accumulator.EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert [event.value for event in events.Scalars("generator/mel")] == [1.25]
    assert [event.value for event in events.Scalars("validation/mel")] == [0.5]
    assert events.Tags()["audio"] == ["0/original", "0/reconstruction"]
    assert events.Tags()["images"] == ["0/original", "0/reconstruction"]
    assert events.Audio("0/original")[0].sample_rate == 24000


def test_tensorboard_forgets_what_lies_past_the_checkpoint(open_log, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_log(tracker="tensorboard", log_every=1) as log:
        for step in (1, 2, 3):
            log.step(step, losses(mel=float(step)), seconds=1.0, state={})
    with open_log(tracker="tensorboard", log_every=1, start_step=1) as log:
        log.step(2, losses(mel=20.0), seconds=1.0, state={})
    events = accumulator.EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("generator/mel")] == [(1, 1.0), (2, 20.0)]


def test_a_missing_tensorboard_is_named_with_both_ways_out(open_log, monkeypatch):
    monkeypatch.setattr(runlog, "is_tensorboard_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'wavtokenizer-hf\[train\]', or go without by tracker=none"):
        open_log(tracker="tensorboard")
