"""An objective and a learner that the package does not know plug into a run without a change of the trainer."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tests.golden import AUDIO
from wavtokenizer_hf.training.checkpoint import checkpoint_path, checkpoints
from wavtokenizer_hf.training.config import config_from_dict, load_config
from wavtokenizer_hf.training.learner import QuantizerLearner, QuantizerLoss, learners
from wavtokenizer_hf.training.objective import Objective, objectives
from wavtokenizer_hf.training.optimizers import adamw, cosine, take_step
from wavtokenizer_hf.training.schedule import value_at
from wavtokenizer_hf.training.trainer import Trainer
from wavtokenizer_hf.training.validation import Validation

RUN = {
    "data": {"train": [str(AUDIO)], "holdout_every": 4, "crop_s": 0.1, "validation_s": 0.2, "num_workers": 0},
    "batch_size": 2,
    "max_steps": 4,
    "log_every": 1,
    "validate_every": 2,
    "checkpoint_every": 2,
    "num_pictures": 0,
    "tracker": "none",
}


@pytest.fixture(autouse=True)
def _one_accelerator_and_no_curves(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr("wavtokenizer_hf.training.report.curve_png", lambda *args, **kwargs: b"")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class PredictorConfig(PreTrainedConfig):
    model_type = "toy_predictor"
    sampling_rate: int = 8000
    hop_length: int = 16
    width: int = 4


class Predictor(PreTrainedModel):
    """Tells a sample by those before it."""

    config_class = PredictorConfig

    def __init__(self, config):
        super().__init__(config)
        self.convolution = nn.Conv1d(1, 1, config.width)
        self.post_init()

    def forward(self, input_values):
        return self.convolution(input_values[..., :-1])


class Prediction(Objective):
    name = "toy_prediction"
    weights = {"model/error": 1.0, "model/size": 0.1}  # noqa: RUF012

    def __init__(self, config, accelerator, source):
        super().__init__(config, accelerator, source)
        self.model = Predictor(PredictorConfig(**config.model))

    @classmethod
    def model_config_class(cls, config):
        return PredictorConfig

    def prepare(self):
        settings = self.config.optimizer
        optimizer = adamw(self.model.parameters(), settings, settings.learning_rate)
        self.schedules["model"] = cosine(optimizer, settings, self.config.max_steps)
        self.modules["model"], self.optimizers["model"] = self.accelerator.prepare(self.model, optimizer)

    def error(self, model, input_values):
        return (model(input_values) - input_values[..., self.model.config.width :]).abs().mean()

    def __call__(self, batches, step):
        self.optimizers["model"].zero_grad()
        weights = {name: value_at(weight, step) for name, weight in self.config.weights.items()}
        for batch in batches:
            losses = {"model/error": self.error(self.modules["model"], batch["input_values"])}
            losses["model/size"] = self.model.convolution.weight.square().sum()
            self.accelerator.backward(sum(weights[name] * loss for name, loss in losses.items()) / len(batches))
        logged = {name: loss.detach() for name, loss in losses.items()}
        take_step(self.accelerator, self.optimizers["model"], "model", step, logged)
        return logged

    @torch.no_grad()
    def validate(self, model, data, *, hears_codes, num_pitch_clips):
        errors = [
            self.error(model, clip["input_values"][None]).item()
            for clip in map(data.validation_set.__getitem__, range(2))
        ]
        return Validation(sum(errors) / 2, None, None, None, 2, ())

    def save(self, folder, model):
        model.save_pretrained(folder)


class Signs(QuantizerLearner):
    """A bit for each dimension of the latents, as far as the codebook's size has ids for them; nothing is moved."""

    name = "toy_signs"
    losses = {"generator/spread": QuantizerLoss(2.0, lambda made: made.commitment)}  # noqa: RUF012

    @staticmethod
    def quantize(codebook, latents):
        signs = torch.where(latents > 0, 1.0, -1.0)
        codes = ((signs[:, :6] > 0).long() * 2 ** torch.arange(6)[:, None]).sum(dim=1)
        return codes, signs + latents - latents.detach(), (latents - signs).square().mean()


@pytest.fixture(autouse=True)
def _registered():
    objectives.register(Prediction)
    learners.register(Signs)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_another_objective_trains_another_model_and_a_run_of_it_goes_on_as_if_it_had_not_ended(tmp_path):
    weights = {"model/size": [[0, 0.5], [4, 0]]}
    told = RUN | {"objective": "toy_prediction", "model": {"width": 6}, "loss_weights": weights, "ema_decay": 0.9}
    config = config_from_dict(told)
    Trainer(config, tmp_path / "run").train()
    entries = log_of(tmp_path / "run")
    assert {"model/error", "model/size", "model/learning_rate", "validation/mel"} <= {
        name for e in entries for name in e
    }
    whole = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert whole["convolution.weight"].shape == (1, 1, 6)
    last = load_file(checkpoint_path(tmp_path / "run", 4) / "model.safetensors")
    checkpoint_path(tmp_path / "run", 4).rename(tmp_path / "gone")
    Trainer(load_config(str(tmp_path / "run" / "config.yaml")), tmp_path / "run", is_resuming=True).train()
    again = load_file(checkpoints(tmp_path / "run")[-1] / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in last.items())
    with pytest.raises(ValueError, match=r"unknown key 'model\.codebook_size'"):
        config_from_dict(told | {"model": {"codebook_size": 8}})
    with pytest.raises(ValueError, match=r"names no loss: generator/mel\. Losses are model/error, model/size, "):
        config_from_dict(told | {"loss_weights": {"generator/mel": 1}})


def test_another_learner_quantizes_and_brings_its_losses(tmp_path):
    told = {key: value for key, value in RUN.items() if key != "data"} | {"base": "debug"}
    (tmp_path / "signs.yaml").write_text(json.dumps(told | {"data": RUN["data"], "discriminator_start_step": 9}))
    with pytest.raises(ValueError, match="`loss_weights` names no loss: generator/commitment"):
        load_config(str(tmp_path / "signs.yaml"), ["codebook.learner=toy_signs"])
    changes = ["codebook.learner=toy_signs", "loss_weights={generator/spread: 3}"]
    Trainer(load_config(str(tmp_path / "signs.yaml"), changes), tmp_path / "run").train()
    entries = [entry for entry in log_of(tmp_path / "run") if "generator/mel" in entry]
    for entry in entries:
        expected = 45 * entry["generator/mel"] + 3 * entry["generator/spread"]
        assert entry["generator/total"] == pytest.approx(expected, rel=1e-5)
        assert "codebook/revived" not in entry
    kept = load_file(checkpoints(tmp_path / "run")[-1] / "model.safetensors")
    assert not kept["encoder_model.quantizer.codebook.inited"].any()  # no start, no move
