"""Two processes train one codec: alike, and as one process does with the batches of both."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator

from tests.tiny import noise, tiny_model
from wavtokenizer_hf.training.clips import Clip
from wavtokenizer_hf.training.config import OptimizerConfig, TrainingConfig
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators
from wavtokenizer_hf.training.gan_objective import make_gan_step
from wavtokenizer_hf.training.learner import CodebookConfig
from wavtokenizer_hf.training.steps import Generator
from wavtokenizer_hf.training.validation import validate

NUM_PROCESSES = 2
NUM_STEPS, NUM_PARTS = 4, 2
NUM_CLIPS, NUM_SAMPLES = 3, 1600  # of a part of a batch, for each process; 20 codes a clip
CONFIG = TrainingConfig(
    codebook=CodebookConfig(decay=0.8, revival_share=0.5, kmeans_iterations=5),
    discriminators=DiscriminatorConfig(
        width=0.05, periods=(2,), resolutions=(64,), band_periods=(3,), band_resolutions=(64,)
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=50.0),
    accumulation_steps=NUM_PARTS,
)


class Clips(list):
    """A dataset for validation."""

    clips: ClassVar = [Clip(f"{index}", Path(f"{index}.wav")) for index in range(5)]


def train(accelerator: Accelerator) -> dict[str, Any]:
    """Starts the codebook, takes some steps, validates; and returns what there is to compare."""
    torch.manual_seed(0)
    own = slice(accelerator.process_index, None, accelerator.num_processes)

    def share(seed: int, num_clips: int) -> torch.Tensor:
        """This process' clips, in an order in which those of all processes stand when they are gathered."""
        clips = noise(NUM_PROCESSES * num_clips, 1, NUM_SAMPLES, seed=seed)
        return clips.unflatten(0, (NUM_PROCESSES, num_clips))[own].flatten(0, 1)

    model, discriminators = tiny_model(), Discriminators(CONFIG.discriminators)
    step, schedules = make_gan_step(CONFIG, accelerator, Generator(model), discriminators)
    codebook = model.encoder_model.quantizer.codebook
    with torch.no_grad():
        latents = step.generator(share(seed=99, num_clips=64), 0, uses_quantizer=False).encoder_latents
    per_update = NUM_PROCESSES * NUM_PARTS * NUM_CLIPS * latents.shape[-1]
    step.learner.start(latents.transpose(1, 2).flatten(0, 1), per_update)

    def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    seen: dict[str, Any] = {"start": state(codebook), "codebooks": [], "gradients": [], "revived": []}
    for number in range(NUM_STEPS):
        parts = [{"input_values": share(NUM_PARTS * number + part, NUM_CLIPS)} for part in range(NUM_PARTS)]
        losses = step(parts, (1, 2), step=number)
        for schedule in schedules:
            schedule.step()
        seen["codebooks"].append(state(codebook))
        seen["gradients"].append({name: value.grad.clone() for name, value in model.named_parameters()})
        seen["revived"].append(losses["codebook/revived"].item())
    clips = Clips(
        {"input_values": clip, "cutoff_hz": 12000.0, "failures": []} for clip in noise(5, 1, NUM_SAMPLES, seed=98)
    )
    seen["validation"] = validate(model, clips, accelerator, batch_size=2, num_pictures=0).figures
    return seen | {"codec": state(model), "discriminators": state(discriminators)}


def work(rank: int, folder: Path) -> None:
    """One of several processes."""
    os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(NUM_PROCESSES))
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=NUM_PROCESSES)
    torch.save(train(Accelerator(cpu=True)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (folder,), nprocs=NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_PROCESSES)]


@pytest.fixture(scope="module")
def alone(accelerator) -> dict[str, Any]:
    """What one process saw, with the clips of both."""
    return train(accelerator())


def test_processes_keep_identical_codebooks_weights_and_results(together):
    one, other = together
    assert all(count > 0 for count in one["revived"])
    torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_processes_start_the_codebook_as_one_would(together, alone):
    torch.testing.assert_close(together[0]["start"], alone["start"], rtol=1e-4, atol=1e-5)


def test_processes_move_and_revive_the_codebook_as_one_would(together, alone):
    assert together[0]["revived"][0] == alone["revived"][0]
    torch.testing.assert_close(together[0]["codebooks"][0], alone["codebooks"][0], rtol=1e-4, atol=1e-5)


def test_processes_take_the_gradient_that_one_would(together, alone):
    for name, gradient in alone["gradients"][0].items():
        distance = (together[0]["gradients"][0][name] - gradient).norm()
        assert distance < 1e-3 * gradient.norm() + 1e-5, name


def test_processes_keep_the_codec_that_one_would(together, alone):
    """After several steps only about: Adam makes much of rounding errors."""
    assert together[0]["validation"] == pytest.approx(alone["validation"], rel=0.01)
