"""The trainer as a whole, on real recordings: what a run writes, how it goes on after an end, and where it starts."""

import dataclasses
import io
import itertools
import json
import math
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel
from typer.testing import CliRunner

from tests.golden import AUDIO
from tests.tiny import tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerCausalModel, WavTokenizerModel, fingerprint
from wavtokenizer_hf.audio.atomic import partial_path
from wavtokenizer_hf.cli import app
from wavtokenizer_hf.evaluation import pitch
from wavtokenizer_hf.training import checkpoint, gan, gan_objective, report, run_folder, trainer, validation
from wavtokenizer_hf.training.checkpoint import checkpoint_path, checkpoints, save_codec, save_discriminators
from wavtokenizer_hf.training.config import TrainingConfig, load_config, purpose_of, recipe_names
from wavtokenizer_hf.training.dataset import collate
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators
from wavtokenizer_hf.training.gan_objective import GanObjective
from wavtokenizer_hf.training.optimizers import DivergenceError
from wavtokenizer_hf.training.runlog import RunLog
from wavtokenizer_hf.training.steps import reconstruction_losses
from wavtokenizer_hf.training.trainer import Trainer

DATA = f"data.train={AUDIO}"
DEFAULT_WEIGHTS = TrainingConfig().weights
# A step of a few hundredths of a second.
QUICK = {
    "data": {"train": [str(AUDIO)], "holdout_every": 4, "crop_s": 0.1, "validation_s": 0.2},
    "codebook": {"kmeans_iterations": 3, "kmeans_vectors_per_entry": 1},
    "discriminators": {"periods": [2], "use_multi_band": False, "width": 0.03125},
    "batch_size": 2,
    "num_pictures": 0,
}
# Starts one after the other: the encoder from data, discriminators, the codebook. Checkpoints fall between two entries
# of the log, and between two validations; the weights of checkpoints are not those that are trained.
LONG = {
    "base": "debug",
    **QUICK,
    "max_steps": 14,
    "log_every": 2,
    "validate_every": 4,
    "checkpoint_every": 3,
    "discriminator_start_step": 5,
    "quantizer_start_step": 7,
    "quantizer_dropout": [[7, 0.9], [14, 0.3]],
    "loss_weights": {"generator/waveform": [[0, 1], [10, 0.1]], "generator/phase_advance": 1},
    "ema_decay": 0.8,
}

# A worker beside this process is one more than the cores that a test may have; forking is what Linux does by default.
with_workers = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:.*worker processes:UserWarning"
)


@pytest.fixture(autouse=True)
def _one_thread_and_one_accelerator():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in the same order in every process
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch):
    """Curves take longer than most runs here, so only the run of which the report is read draws them."""
    leave_out_curves(monkeypatch)


def leave_out_curves(monkeypatch) -> None:
    monkeypatch.setattr(report, "curve_png", lambda *args, **kwargs: b"")


def write_recipe(path: Path, values: dict) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def quick(tmp_path: Path, *changes: str, **values) -> Trainer:
    """A trainer of a few steps, in a folder `run`."""
    recipe = write_recipe(tmp_path / "quick.yaml", {"base": "debug", **QUICK, "max_steps": 3, **values})
    return Trainer(load_config(recipe, changes), tmp_path / "run")


def command(*arguments: object) -> tuple[int, str, str]:
    """Runs `wavtokenizer train`: status, stdout, stderr."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def log_of(run: Path) -> list[dict]:
    """The entries of a run's log, without what the machine's speed decides."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name != "audio_s_per_s"} for entry in entries]


def real_clip(model) -> torch.Tensor:
    extractor = AutoFeatureExtractor.from_pretrained(model.name_or_path)
    return extractor(sorted(AUDIO.iterdir())[0], resample=True, return_tensors="pt")["input_values"][..., :12000]


def codes_of(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval().encode(real_clip(model)).audio_codes


def assert_it_codes_audio(folder: Path, model_class: type = WavTokenizerModel) -> None:
    model = AutoModel.from_pretrained(folder).eval()
    assert type(model) is model_class
    clip = real_clip(model)
    with torch.inference_mode():
        encoded = model.encode(clip)
        audio_values = model.decode(encoded.audio_codes).audio_values
    num_codes = -(-clip.shape[-1] // model.config.hop_length)
    assert encoded.audio_codes.shape == (1, 1, num_codes)
    assert audio_values.shape == (1, 1, num_codes * model.config.hop_length)
    assert torch.isfinite(audio_values).all()


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ------------------------------------------------------------------------------------------------- what a run writes


@pytest.fixture(scope="module")
def debug_run(tmp_path_factory) -> Path:
    """`wavtokenizer train debug` as it is, but for the recordings."""
    run = tmp_path_factory.mktemp("runs") / "debug"
    status, out, _ = command("debug", DATA, "data.holdout_every=4", "--out", run)
    assert (status, out) == (0, f"{run}: 20 of 20 steps\n")
    return run


def test_a_run_writes_its_configuration_log_checkpoints_best_model_and_report(debug_run):
    assert {path.name for path in debug_run.iterdir()} == {
        "config.yaml",
        "log.jsonl",
        "checkpoints",
        "best",
        "report",
    }
    assert load_config(str(debug_run / "config.yaml")) == load_config("debug", [DATA, "data.holdout_every=4"])
    steps = [entry["step"] for entry in log_of(debug_run) if "generator/mel" in entry]
    assert steps == list(range(1, 21))
    losses = [name for name in log_of(debug_run)[-2] if name.startswith(("generator/", "discriminator/"))]
    assert {name for name, weight in load_config("debug").weights.items() if weight} < set(losses)


def test_the_validation_loss_falls(debug_run):
    mels = [entry["validation/mel"] for entry in log_of(debug_run) if "validation/mel" in entry]
    assert len(mels) == 4
    assert mels == sorted(mels, reverse=True)
    assert mels[-1] < 0.98 * mels[0]


def test_validations_measure_what_a_spectral_loss_does_not_hear(debug_run):
    last = log_of(debug_run)[-1]
    assert {"validation/frame_tone_db", "validation/level_db", "validation/gpe", "validation/vuv_f1"} & set(last) >= {
        "validation/frame_tone_db",
        "validation/level_db",
    }
    page = (debug_run / "report" / "index.html").read_text()
    assert "gross pitch error" in page
    is_said = "it hums or buzzes, however good other figures look" in page
    assert is_said == (last["validation/frame_tone_db"] > 3)


def test_a_run_without_the_pitch_tracker_says_once_what_it_leaves_out(tmp_path, monkeypatch, caplog):
    def absent(package, extra):
        raise ImportError(f"{package} does not load. Install it with: pip install 'wavtokenizer-hf[{extra}]'")

    monkeypatch.setattr(pitch, "import_extra", absent)
    with caplog.at_level("INFO"):
        quick(tmp_path, validate_every=1).train()
    said = [line for line in caplog.messages if "leaves out pitch and voicing" in line]
    assert len(said) == 1
    assert "wavtokenizer-hf[eval]" in said[0]
    validated = [entry for entry in log_of(tmp_path / "run") if "validation/mel" in entry]
    assert len(validated) == 3
    assert not any("validation/gpe" in entry for entry in validated)
    assert all("validation/level_db" in entry for entry in validated)


def test_as_many_checkpoints_stay_as_the_recipe_says_and_no_partial_one(debug_run):
    names = sorted(path.name for path in (debug_run / "checkpoints").iterdir())
    assert names == ["step-00000015", "step-00000020"]


@pytest.mark.parametrize("name", ["checkpoints/step-00000015", "checkpoints/step-00000020", "best"])
def test_every_checkpoint_loads_and_codes_audio(debug_run, name):
    assert_it_codes_audio(debug_run / name)


def test_the_best_model_is_that_of_the_lowest_validation_loss(debug_run):
    validations = [entry for entry in log_of(debug_run) if "validation/mel" in entry]
    best = json.loads((debug_run / "best" / "validation.json").read_text())
    assert best == min(validations, key=lambda entry: entry["validation/mel"])
    assert best["step"] == 20
    ours, last = (load_file(debug_run / name / "model.safetensors") for name in ("best", "checkpoints/step-00000020"))
    assert_same_tensors(ours, last)


def test_the_report_names_the_losses_and_plays_the_validation_clips(debug_run):
    page = (debug_run / "report" / "index.html").read_text()
    names = {name for entry in log_of(debug_run) for name in entry} - {"step"}
    assert len(names) > 20
    assert [name for name in names if name not in page] == []
    assert page.count("<audio") == 2
    assert "flemish_flemishguy_0021.flac" in page
    assert "every clip could be read" in page


def test_a_finished_run_that_is_resumed_has_nothing_to_do(debug_run):
    before = {path: path.stat().st_mtime_ns for path in debug_run.rglob("*") if path.suffix in (".html", ".pkl")}
    status, out, _ = command("debug", DATA, "data.holdout_every=4", "--out", debug_run, "--resume")
    assert (status, out) == (0, f"{debug_run}: 20 of 20 steps\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before


# ---------------------------------------------------------------------------------------------- going on after an end


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        leave_out_curves(patched)
        status, *_ = command(write_recipe(folder / "long.yaml", LONG), "-o", folder / "uninterrupted")
    assert status == 0
    return folder / "uninterrupted"


def assert_equal_runs(run: Path, uninterrupted: Path) -> None:
    assert log_of(run) == log_of(uninterrupted)
    names = [path.name for path in checkpoints(uninterrupted)]
    assert [path.name for path in checkpoints(run)] == names == ["step-00000012", "step-00000014"]
    for file in ("model.safetensors", "discriminators.safetensors", "training_state/model.safetensors"):
        ours, theirs = (load_file(checkpoints(folder)[-1] / file) for folder in (run, uninterrupted))
        assert_same_tensors(ours, theirs)
    assert (run / "best" / "validation.json").read_text() == (uninterrupted / "best" / "validation.json").read_text()
    assert_same_tensors(*(load_file(folder / "best" / "model.safetensors") for folder in (run, uninterrupted)))
    assert not list(run.rglob(".*"))


def test_an_interrupted_run_has_something_to_lose(uninterrupted):
    entries = log_of(uninterrupted)
    assert [entry["step"] for entry in entries if "generator/mel" in entry] == [2, 4, 6, 8, 10, 12, 14]
    assert [entry["step"] for entry in entries if "discriminator/total" in entry] == [6, 8, 10, 12, 14]
    assert [entry["step"] for entry in entries if "codebook/revived" in entry] == [8, 10, 12, 14]
    kept, trained = (
        load_file(checkpoints(uninterrupted)[-1] / file)
        for file in ("model.safetensors", "training_state/model.safetensors")
    )
    assert not torch.equal(kept["head.linear.weight"], trained["model.head.linear.weight"])


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, uninterrupted):
    run, recipe = tmp_path / "run", write_recipe(tmp_path / "long.yaml", LONG)
    process = subprocess.Popen(
        [sys.executable, "-m", "wavtokenizer_hf", "train", recipe, "data.num_workers=2", "-o", str(run)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not ((run / "log.jsonl").exists() and any(entry["step"] >= 8 for entry in whole_lines(run))):
            assert process.poll() is None
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert checkpoints(run)[-1].name < "step-00000014"
    # What a process that is killed while it saves leaves behind.
    half = partial_path(checkpoint_path(run, 15))
    half.mkdir()
    (half / "model.safetensors").write_bytes((checkpoints(run)[-1] / "model.safetensors").read_bytes()[:1000])
    status, *_ = command(recipe, "-o", run, "--resume")
    assert status == 0
    assert_equal_runs(run, uninterrupted)


def whole_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines(keepends=True) if line[-1] == "\n"]


class Killed(BaseException):
    """Stands for the end of the process: nothing handles it."""


def kill_in(monkeypatch, owner, name: str, call: int) -> None:
    """Ends the run in the given call of a function, counted from 1."""
    function, calls = getattr(owner, name), []

    def until_killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, until_killed)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (GanObjective, "_start_codebook", 1),
        (Trainer, "_validate", 2),
        (gan_objective, "save_discriminators", 3),
        (run_folder, "rotate", 4),
        (checkpoint.shutil, "rmtree", 8),
    ],
    ids=["at the k-means start", "before a validation", "in a checkpoint", "in rotation", "in a removal"],
)
def test_wherever_a_run_is_killed_it_goes_on_the_same(tmp_path, uninterrupted, monkeypatch, owner, name, call):
    config = load_config(write_recipe(tmp_path / "long.yaml", LONG))
    with monkeypatch.context() as patched:
        kill_in(patched, owner, name, call)
        with pytest.raises(Killed):
            Trainer(config, tmp_path / "run").train()
    Trainer(config, tmp_path / "run", is_resuming=True).train()
    assert_equal_runs(tmp_path / "run", uninterrupted)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path, uninterrupted, monkeypatch):
    config = load_config(write_recipe(tmp_path / "long.yaml", LONG))
    with monkeypatch.context() as patched:
        kill_in(patched, Trainer, "save", 1)
        with pytest.raises(Killed):
            Trainer(config, tmp_path / "run").train()
    Trainer(config, tmp_path / "run").train()
    assert_equal_runs(tmp_path / "run", uninterrupted)


def signal_at(monkeypatch, step: int, send) -> None:
    counted = RunLog.step

    def count_and_send(self, number, *args, **kwargs):
        counted(self, number, *args, **kwargs)
        if number == step:
            send()

    monkeypatch.setattr(RunLog, "step", count_and_send)


@with_workers
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 2)])
def test_ctrl_c_and_sigterm_end_with_a_checkpoint_from_which_the_run_goes_on(
    tmp_path, uninterrupted, monkeypatch, number, workers
):
    def send_to_the_group():
        group = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
        assert len(group) == 1 + workers
        # Sent by another process, as by a terminal or a scheduler: torch lets a worker end quietly by its parent's.
        subprocess.run(["sh", "-c", f"kill -{number:d} {' '.join(map(str, group))}"], check=True)

    run, recipe = tmp_path / "run", write_recipe(tmp_path / "long.yaml", LONG)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patched:
        signal_at(patched, 10, send_to_the_group)
        status, out, err = command(recipe, f"data.num_workers={workers}", "-o", run)
    assert (status, out) == (128 + number, f"{run}: 10 of 14 steps\n")
    assert "Traceback" not in err
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert [path.name for path in checkpoints(run)] == ["step-00000009", "step-00000010"]
    assert (run / "report" / "index.html").is_file()
    status, *_ = command(recipe, "-o", run, "--resume")
    assert status == 0
    assert_equal_runs(run, uninterrupted)


def test_a_run_in_pieces_is_the_same_run(tmp_path, uninterrupted, monkeypatch):
    run, recipe = tmp_path / "run", write_recipe(tmp_path / "long.yaml", LONG)
    seconds = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    # The clock is read before each step: 5.1 seconds are 5 steps.
    for resume, num_steps in (([], 5), (["--resume"], 10), (["--resume"], 14)):
        status, out, _ = command(recipe, "-o", run, "--stop-after", 5.1 / 60, *resume)
        assert (status, out) == (0, f"{run}: {num_steps} of 14 steps\n")
    assert_equal_runs(run, uninterrupted)


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def spoiled(content: bytes, trace: Path) -> dict[str, bytes]:
    """What somebody, or a disk, may have put in the place of a file."""
    saved = io.BytesIO()
    torch.save({"state": Evil(trace)}, saved)
    plain = io.BytesIO()
    torch.save({"sums": {"a": "b"}, "num_steps": {"a": 1}, "step": -1}, plain)
    return {
        "torch": saved.getvalue(),
        "pickle": pickle.dumps(Evil(trace)),
        "half": content[: len(content) // 2],
        "empty": b"",
        "other": plain.getvalue(),
    }


def test_a_state_that_is_not_the_runs_is_refused_by_name_and_runs_nothing(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    config = load_config(write_recipe(tmp_path / "long.yaml", LONG | {"max_steps": 15}))
    before = (run / "log.jsonl").read_bytes(), (run / "config.yaml").read_bytes()
    files = sorted((checkpoints(run)[-1] / "training_state").iterdir())
    assert len(files) == 10
    for file in files:
        content = file.read_bytes()
        for form, other in spoiled(content, tmp_path / "trace").items():
            file.write_bytes(other)
            with pytest.raises(ValueError, match=re.escape(f"{file} is not the state of this run: ")) as caught:
                Trainer(config, run, is_resuming=True)
            assert "\n" not in str(caught.value), form
        file.unlink()
        with pytest.raises(FileNotFoundError, match=re.escape(f"{file} is missing")):
            Trainer(config, run, is_resuming=True)
        file.write_bytes(content)
    assert not (tmp_path / "trace").exists()
    assert (run / "log.jsonl").read_bytes() == before[0]


def test_states_of_another_shape_step_or_value_are_refused(tmp_path, uninterrupted):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    config = load_config(write_recipe(tmp_path / "long.yaml", LONG | {"max_steps": 15}))
    state = checkpoints(run)[-1] / "training_state"

    def refused(name: str, change, message: str) -> None:
        content = (state / name).read_bytes()
        is_safetensors = name.endswith(".safetensors")
        held = load_file(state / name) if is_safetensors else torch.load(state / name, weights_only=True)
        change(held)
        save_file(held, state / name) if is_safetensors else torch.save(held, state / name)
        with pytest.raises(ValueError, match=message):
            Trainer(config, run, is_resuming=True)
        (state / name).write_bytes(content)

    weight = "model.head.linear.weight"
    refused("model.safetensors", lambda held: held.update({weight: held[weight] * math.nan}), "not finite")
    refused("model.safetensors", lambda held: held.update({weight: held[weight][1:].clone()}), "expected a tensor")
    refused("model.safetensors", lambda held: held.pop(weight), f"has other entries, such as {weight}")
    refused("optimizer.bin", lambda held: held["state"][0].update(exp_avg=torch.zeros(3)), "parameter 0: exp_avg")
    refused("optimizer.bin", lambda held: held["param_groups"].clear(), "is no list of 1")
    refused("custom_checkpoint_0.pkl", lambda held: held.update(step=13), "holds the state of step 13")
    refused("custom_checkpoint_0.pkl", lambda held: held.update(best_mel=math.nan), "best_mel must be a number")
    refused("custom_checkpoint_1.pkl", lambda held: held["num_steps"].update(x=1), "no sums of losses")
    refused("custom_checkpoint_2.pkl", lambda held: held.update(last_epoch="7"), "expected a number, got str")
    # what an earlier version wrote
    held = torch.load(state / "custom_checkpoint_0.pkl", weights_only=True)
    assert held.pop("is_best_quantized")
    torch.save(held, state / "custom_checkpoint_0.pkl")
    assert Trainer(config, run, is_resuming=True).progress.step == 14


# ------------------------------------------------------------------------------------------------ what is not finite


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ("loss", "diverged in step 5: generator/mel is nan"),
        ("gradient", "diverged in step 5: generator/gradient is nan"),
    ],
)
def test_the_first_loss_or_gradient_that_is_not_finite_stops_the_run_before_a_checkpoint_of_it(
    tmp_path, monkeypatch, spoil, named
):
    whole = gan.reconstruction_losses
    calls = []

    def spoiled_losses(*args):
        losses = whole(*args)
        calls.append(1)
        if len(calls) == 5:
            if spoil == "loss":
                losses["generator/mel"] = losses["generator/mel"] * math.nan
            else:
                losses["generator/mel"].register_hook(lambda gradient: gradient * math.inf)
        return losses

    monkeypatch.setattr(gan, "reconstruction_losses", spoiled_losses)
    settings = {"max_steps": 9, "checkpoint_every": 1, "validate_every": 2, "keep_checkpoints": 2, "log_every": 1}
    recipe = write_recipe(tmp_path / "quick.yaml", {"base": "debug", **QUICK, **settings})
    status, _, err = command(recipe, "-o", tmp_path / "run")
    assert status == 1
    assert f"error: the run {named}" in err
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000003", "step-00000004"]
    assert log_of(tmp_path / "run")[-1]["step"] == 4
    for path in [*checkpoints(tmp_path / "run"), tmp_path / "run" / "best"]:
        assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())


def test_weights_that_are_not_finite_leave_the_checkpoints_of_before(tmp_path):
    run = quick(tmp_path, max_steps=3, checkpoint_every=1, keep_checkpoints=1, validate_every=9)
    save = run.save

    def spoil_and_save():
        if run.progress.step == 2:
            run.model.head.linear.bias.data[0] = math.inf
        return save()

    run.save = spoil_and_save
    with pytest.raises(DivergenceError, match="diverged in step 2: a weight of the generator is nan"):
        run.train()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_validation_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "mel_loss", lambda *args: torch.tensor(math.nan))
    with pytest.raises(DivergenceError, match="diverged in step 1: validation/mel is nan"):
        quick(tmp_path, validate_every=1, checkpoint_every=1).train()
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_digital_silence_and_constant_clips_train_with_finite_losses(tmp_path, level):
    (tmp_path / "clips").mkdir()
    for index in range(8):
        soundfile.write(tmp_path / "clips" / f"{index}.wav", np.full(24000, level), 24000, subtype="FLOAT")
    run = quick(
        tmp_path,
        f"data.train={tmp_path / 'clips'}",
        "data.crop_s=0.4",
        **{
            "max_steps": 4,
            "validate_every": 2,
            "data_dependent_init": True,
            "quantizer_start_step": 1,
            "discriminator_start_step": 2,
            "loss_weights": {name: 1.0 for name in DEFAULT_WEIGHTS if name.startswith("generator/")},
        },
    )
    run.train()
    entries = log_of(tmp_path / "run")
    assert {name for entry in entries for name in entry} > set(DEFAULT_WEIGHTS) - {"discriminator/multi_band"} - {
        name for name in DEFAULT_WEIGHTS if name.endswith("multi_band")
    }
    assert all(math.isfinite(value) for entry in entries for value in entry.values())


def test_training_and_validation_use_the_same_arithmetic_with_and_without_quantizer(tmp_path):
    run = quick(tmp_path, max_steps=1)
    indices = range(len(run.data.validation_clips))
    batch = collate([run.data.validation_set[index] for index in indices])
    rate = run.data.sampling_rate
    run.objective._start_codebook(run.data)
    run.model.eval()  # without the dropout of the decoder
    for uses_quantizer in (False, True):
        with torch.no_grad():
            made = run.objective.generator(batch["input_values"], 0, uses_quantizer)
            losses = reconstruction_losses(
                batch["input_values"][:, 0], made, rate, batch["cutoff_hz"], DEFAULT_WEIGHTS
            )
        found = validation.validate(
            run.model,
            run.data.validation_set,
            run.accelerator,
            batch_size=3,
            num_pictures=0,
            uses_quantizer=uses_quantizer,
        )
        assert found.mel == pytest.approx(losses["generator/mel"].item(), rel=1e-5)
        assert ("codebook/usage" in found.figures) == uses_quantizer


def test_a_codec_with_its_quantizer_is_better_than_any_without(tmp_path, monkeypatch):
    run = quick(tmp_path, max_steps=6, validate_every=2, quantizer_start_step=3)
    found = iter([0.1, 0.2, 0.5])
    whole = validation.validate
    monkeypatch.setattr(
        gan_objective, "validate", lambda *a, **k: dataclasses.replace(whole(*a, **k), mel=next(found))
    )
    run.train()
    best = json.loads((tmp_path / "run" / "best" / "validation.json").read_text())
    assert (best["step"], best["validation/mel"]) == (4, 0.2)
    entries = [entry for entry in log_of(tmp_path / "run") if "validation/mel" in entry]
    assert ["codebook/usage" in entry for entry in entries] == [False, True, True]


def test_a_run_trains_in_a_thread_where_no_signal_can_be_handled(tmp_path):
    run = quick(tmp_path, max_steps=2)
    thread = threading.Thread(target=run.train)
    thread.start()
    thread.join()
    assert run.progress.step == 2
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000002"]


def test_the_kept_weights_are_the_moving_average_of_the_trained_ones(tmp_path):
    run = quick(tmp_path, ema_decay=0.75)
    trained = []
    step = run.objective.gan.__class__.__call__

    class Recorded(run.objective.gan.__class__):
        def __call__(self, *args, **kwargs):
            losses = step(self, *args, **kwargs)
            trained.append({name: tensor.clone() for name, tensor in run.model.state_dict().items()})
            return losses

    run.objective.gan.__class__ = Recorded
    run.train()
    kept = load_file(checkpoints(tmp_path / "run")[-1] / "model.safetensors")
    name = "head.linear.weight"
    first, second, third = (weights[name] for weights in trained)
    assert not torch.equal(first, third)
    torch.testing.assert_close(kept[name], 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)
    buffers = [name for name in kept if "codebook" in name]
    assert_same_tensors({name: kept[name] for name in buffers}, {name: trained[-1][name] for name in buffers})


# ---------------------------------------------------------------------------------------------------- where it starts


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    """A codec that uses its codes for a real recording, with discriminators beside it."""
    folder = tmp_path_factory.mktemp("codecs") / "tiny"
    model = tiny_model()
    save_codec(folder, model)
    model.name_or_path = str(folder)
    with torch.inference_mode():
        latents = model.encode(real_clip(model), output_latents=True).encoder_latents[0].T
    codebook = model.encoder_model.quantizer.codebook
    codebook.embed.copy_(latents[:: len(latents) // 64][:64])
    codebook.embed_avg.copy_(codebook.embed)
    save_codec(folder, model)
    torch.manual_seed(5)
    save_discriminators(folder, Discriminators(DiscriminatorConfig(periods=(3,), use_multi_band=False, width=0.03125)))
    return folder


def fine_tune(tmp_path: Path, source: Path | str, **values) -> Trainer:
    settings = QUICK | {"max_steps": 3, "tracker": "none", "precision": "fp32", "init_from": str(source)} | values
    recipe = write_recipe(tmp_path / "tune.yaml", {"base": "finetune-decoder", **settings})
    return Trainer(load_config(recipe, ["data.num_workers=0", "optimizer.warmup_steps=0"]), tmp_path / "run")


def test_fine_tuning_the_decoder_changes_no_code(tmp_path, codec):
    fine_tune(tmp_path, codec, optimizer={"learning_rate": 1e-2}).train()
    before, after = (AutoModel.from_pretrained(path) for path in (codec, checkpoints(tmp_path / "run")[-1]))
    codes = codes_of(before)
    assert len(codes.unique()) > 10
    assert torch.equal(codes_of(after), codes)
    assert fingerprint(after) == fingerprint(before)
    assert_same_tensors(after.encoder_model.state_dict(), before.encoder_model.state_dict())
    with torch.inference_mode():
        change = after.decode(codes).audio_values - before.decode(codes).audio_values
    assert change.abs().max() > 1e-2


def test_fine_tuning_the_whole_codec_changes_codes(tmp_path, codec):
    fine_tune(tmp_path, codec, trains_encoder=True, trains_codebook=True, optimizer={"learning_rate": 1e-2}).train()
    before, after = (AutoModel.from_pretrained(path) for path in (codec, checkpoints(tmp_path / "run")[-1]))
    assert not torch.equal(codes_of(after), codes_of(before))
    assert fingerprint(after) != fingerprint(before)
    unchanged = after.encoder_model.state_dict()
    for name, tensor in before.encoder_model.state_dict().items():
        assert name.endswith("inited") or not torch.equal(tensor, unchanged[name]), name


def test_discriminators_beside_the_codec_are_restored_and_others_start_anew(tmp_path, codec, debug_run):
    last = checkpoints(debug_run)[-1]
    for index, source in enumerate((codec, last)):
        (tmp_path / str(index)).mkdir()
        restored = fine_tune(tmp_path / str(index), source).objective.discriminators
        assert_same_tensors(restored.state_dict(), load_file(source / "discriminators.safetensors"))
    assert restored.config.band_periods == (3,)
    (tmp_path / "new").mkdir()
    assert fine_tune(tmp_path / "new", debug_run / "best").objective.discriminators.config.periods == (2,)


def test_a_codec_is_trained_on_from_a_checkpoint_of_a_run(tmp_path, debug_run):
    source = checkpoints(debug_run)[-1]
    fine_tune(tmp_path, source, max_steps=1).train()
    before, after = (AutoModel.from_pretrained(path) for path in (source, checkpoints(tmp_path / "run")[-1]))
    assert after.config.upsampling_ratios == [2, 4, 5, 8]
    assert torch.equal(codes_of(after), codes_of(before))


def test_fine_tuning_goes_on_when_what_it_started_from_is_gone(tmp_path, codec):
    source = shutil.copytree(codec, tmp_path / "source")
    run = fine_tune(tmp_path, source, max_steps=2, checkpoint_every=1)
    run.train()
    whole = load_file(checkpoint_path(tmp_path / "run", 2) / "model.safetensors")
    shutil.rmtree(source)
    shutil.rmtree(checkpoint_path(tmp_path / "run", 2))
    Trainer(run.config, tmp_path / "run", is_resuming=True).train()
    assert_same_tensors(load_file(checkpoint_path(tmp_path / "run", 2) / "model.safetensors"), whole)


def test_a_causal_codec_trains(tmp_path):
    quick(tmp_path, is_causal=True).train()
    assert_it_codes_audio(checkpoints(tmp_path / "run")[-1], WavTokenizerCausalModel)


def test_a_causal_codec_is_fine_tuned_as_one(tmp_path):
    save_codec(tmp_path / "causal", WavTokenizerCausalModel(tiny_causal_model().config))
    fine_tune(tmp_path, tmp_path / "causal", max_steps=1, trains_encoder=True, trains_codebook=True).train()
    assert_it_codes_audio(checkpoints(tmp_path / "run")[-1], WavTokenizerCausalModel)


def test_other_rates_codebooks_and_precisions_train(tmp_path):
    changes = ["model.sampling_rate=16000", "model.upsampling_ratios=[8, 5, 4]", "model.codebook_size=24"]
    run = quick(tmp_path, *changes, "precision=bf16", accumulation_steps=2)
    run.train()
    last = checkpoints(tmp_path / "run")[-1]
    assert_it_codes_audio(last)
    model, extractor = AutoModel.from_pretrained(last), AutoFeatureExtractor.from_pretrained(last)
    assert (model.config.sampling_rate, model.config.hop_length, model.config.codebook_size) == (16000, 160, 24)
    assert (extractor.sampling_rate, extractor.hop_length) == (16000, 160)
    assert {tensor.dtype for tensor in load_file(last / "model.safetensors").values()} == {torch.float32}


def test_files_that_cannot_be_read_are_counted_and_reported_and_the_rest_is_trained_on(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in AUDIO.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    (folder / "empty.wav").touch()
    data = {"data": QUICK["data"] | {"train": [str(folder)], "validation": [str(AUDIO), str(folder / "empty.wav")]}}
    run = tmp_path / "run"
    quick(tmp_path, **data, max_steps=8, checkpoint_every=4, validate_every=2).train()
    counts = failures_in(run)
    assert counts.keys() == {"broken.flac", "empty.wav"}
    assert counts["empty.wav"] > 4  # by each validation, and in training
    assert "2 clips could not be read" in (run / "report" / "index.html").read_text()
    # The counts are part of a checkpoint.
    checkpoint_path(run, 8).rename(tmp_path / "gone")
    Trainer(load_config(str(run / "config.yaml")), run, is_resuming=True).train()
    assert failures_in(run) == counts


def failures_in(run: Path) -> dict[str, int]:
    found = re.findall(r"(\d+)x (?:Cannot read )?\S*/data/(\S+) ", (run / "report" / "index.html").read_text())
    return {name: int(count) for count, name in found}


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["debug", DATA, "optimiser.learning_rate=1"], "unknown key 'optimiser'; did you mean 'optimizer'?"),
        (["debug", DATA, "max_steps=many"], "max_steps: expected int, got 'many'"),
        (["debag", DATA], "no recipe 'debag'; there are debug, finetune-decoder, "),
        (["debug"], "there is nothing to train on: give `data.train` a folder or a manifest"),
        (["debug", "data.train=nowhere"], "no such file: nowhere"),
        (["debug", DATA, "data.holdout_every=1"], "every one of 8 clips is held out for validation"),
        (["debug", DATA, "data.crop_s=20"], "a crop must have from 1 to 240000 samples (10 s), got 480000"),
        (["debug", DATA, "model.upsampling_ratios=[3, 3]"], "hop"),
        (["debug", DATA, "model.adanorm_num_embeddings=8"], "the codec has 8 bandwidth ids, its discriminators tell"),
        (["debug", DATA, "--resume"], "run holds no checkpoint to go on from; start without resuming"),
        (["debug", DATA, "-o", "."], ". is not empty; resume the run in it, or name another folder"),
        (["finetune-decoder", DATA], "say what to start from: init_from=FOLDER"),
        (["finetune-decoder", DATA, "init_from=x.ckpt"], "wavtokenizer convert x.ckpt FOLDER --keep-discriminators"),
        (["finetune-decoder", DATA, "init_from=missing"], "missing is no folder here, no owner/name on the Hub and"),
        (["finetune-decoder", DATA, "init_from=CODEC", "is_causal=true"], "is not causal; leave it out"),
        (["debug", DATA, "init_from=CODEC"], "leave `model` out (`model={}` clears that of a recipe)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_costs_one_line_and_leaves_no_folder(tmp_path, monkeypatch, codec, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("x.ckpt").touch()
    arguments = [argument.replace("CODEC", str(codec)) for argument in arguments]
    status, out, err = command(*([] if "-o" in arguments else ["-o", "run"]), *arguments)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


def test_the_recipes_are_listed_with_their_purposes():
    status, out, _ = command("--recipes")
    assert status == 0
    listed = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert listed == {name: purpose_of(name) for name in recipe_names()}


def test_the_keys_are_listed_with_defaults_and_meanings():
    status, out, _ = command("--keys")
    assert status == 0
    assert "codebook.decay=0.99\n    Share of the old value that a moving average keeps per update.\n" in out
