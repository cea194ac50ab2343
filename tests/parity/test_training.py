"""Training equals the original's: forward, codebook, losses, gradients, and a run over two batches."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conversion.key_map import to_ours

from tests.parity.conftest import GOLDEN
from wavtokenizer_hf import WavTokenizerModel
from wavtokenizer_hf.training.codebook import kmeans, quantize
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.discriminators import _our_name
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.gan_objective import make_gan_step
from wavtokenizer_hf.training.learner import CodebookConfig
from wavtokenizer_hf.training.legacy import LegacyCodebookLearner
from wavtokenizer_hf.training.steps import Generator

# How far apart float32 and float64 are, with a margin.
MAX_QUANTIZED_ERROR = 1e-6
MAX_BUFFER_ERROR = {"cluster_size": 2e-5, "embed_avg": 1e-4, "embed": 5e-6}
MAX_CENTRE_ERROR = 1e-5
SCALAR_TOLERANCE = 1e-5
SUM_TOLERANCE = 1e-7  # of the sum of magnitudes
GRADIENT_TOLERANCE = 2e-3
# Adam's first step is as long for a gradient that is all noise as for any other, so runs drift apart.
STEP_TOLERANCES = ({"discriminator": 1e-5, "generator": 1e-4}, {"discriminator": 3e-3, "generator": 3e-3})
RUN_GRADIENT_TOLERANCE = 3e-3
CHANGE_TOLERANCE = 1e-3
# Adds the same to all that a softmax takes in, so its true gradient is zero.
WITHOUT_GRADIENT = "backbone.pos_net.2.k.bias"
PARTS = {
    "feature_extractor": "encoder_model.",
    "feature_extractor.encodec.encoder": "encoder_model.encoder.",
    "feature_extractor.encodec.quantizer": "encoder_model.quantizer.",
    "backbone": "backbone.",
    "head": "head.",
    "multiperioddisc": "multi_period.",
    "multiresddisc": "multi_resolution.",
    "dacdiscriminator": "multi_band.",
}


@pytest.fixture(scope="module", params=["hop320", pytest.param("hop600", marks=pytest.mark.slow)])
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(architecture, training_golden) -> dict:
    return training_golden(architecture)


@pytest.fixture(scope="module")
def arrays(architecture) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"training_{architecture}.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def new_model(architecture, reference_folder):
    """A function that loads the model to train it, without dropout."""

    def load() -> WavTokenizerModel:
        model = WavTokenizerModel.from_pretrained(reference_folder(architecture)).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model

    return load


@pytest.fixture(scope="module")
def encoded(new_model, clips, expected):
    """The untrained encoder's latents of the batch, and the codebook."""
    encoder_model = new_model().encoder_model
    with torch.no_grad():
        latents, _ = encoder_model.encoder(clips(expected["batch"]))
    return latents, encoder_model.quantizer.codebook


def test_a_training_forward_quantizes_as_the_original(encoded, arrays, expected):
    latents, codebook = encoded
    codes, quantized, commitment = quantize(codebook, latents)
    np.testing.assert_array_equal(codes, arrays["codes"][0])
    ours = quantized[..., : arrays["quantized"].shape[-1]]
    np.testing.assert_allclose(ours, arrays["quantized"], rtol=0, atol=MAX_QUANTIZED_ERROR)
    assert commitment.item() == pytest.approx(expected["losses"]["generator/commitment"], rel=SCALAR_TOLERANCE)


def test_two_forwards_move_the_codebook_as_in_the_original(encoded, arrays, expected):
    latents, codebook = encoded[0], copy.deepcopy(encoded[1])
    learner = LegacyCodebookLearner(codebook, CodebookConfig())
    codes = codebook(latents)
    learner.observe(latents, codes)
    learner.update(step=0)
    assert_buffers_equal(codebook, arrays, expected["codebook"]["after_one"])

    codes_of_second = codebook(latents)
    learner.observe(latents, codes_of_second)
    learner.update(step=1)
    after_two = expected["codebook"]["after_two"]
    assert (codes_of_second != codes).sum() == after_two["codes_changed"]
    sums = codebook.cluster_size.double().sum().item(), codebook.embed.double().square().sum().item()
    assert sums == pytest.approx((after_two["cluster_size_sum"], after_two["embed_sq_sum"]), rel=SCALAR_TOLERANCE)


def assert_buffers_equal(codebook: torch.nn.Module, arrays: dict[str, np.ndarray], sums: dict[str, dict]) -> None:
    """Compares all counts, some of the other rows, and sums over all of them."""
    for name, tolerance in MAX_BUFFER_ERROR.items():
        buffer = codebook.get_buffer(name)
        rows = slice(None) if name == "cluster_size" else arrays["rows"]
        np.testing.assert_allclose(buffer.numpy()[rows], arrays[name], rtol=0, atol=tolerance)
        buffer, of_original = buffer.double(), sums[name]
        assert buffer.abs().sum().item() == pytest.approx(of_original["abs_sum"], rel=SCALAR_TOLERANCE)
        assert buffer.square().sum().item() == pytest.approx(of_original["sq_sum"], rel=SCALAR_TOLERANCE)
        assert buffer.sum().item() == pytest.approx(of_original["sum"], abs=SUM_TOLERANCE * of_original["abs_sum"])


@pytest.fixture(scope="module")
def taught(accelerator, new_model, reference_discriminators, clips, expected):
    """Losses, codec and discriminators after a step whose optimizers stand still: all gradients are of one state."""
    model = new_model()
    generator = Generator(model)
    modules = generator, reference_discriminators
    learner = LegacyCodebookLearner(model.encoder_model.quantizer.codebook, CodebookConfig())
    step = GanStep(
        accelerator(),
        *modules,
        *(torch.optim.SGD(module.parameters(), lr=0) for module in modules),
        learner,
        weights=TrainingConfig().weights,
        sampling_rate=24000,
    )
    losses = step([{"input_values": clips(expected["batch"])}], (0, expected["bandwidth_id"]), step=0)
    return SimpleNamespace(
        losses={name: loss.item() for name, loss in losses.items()},
        model=model,
        discriminators=reference_discriminators,
    )


def test_losses_and_totals_of_a_step_equal_the_original(taught, expected):
    totals = {f"{name}/total": value for name, value in expected["totals"].items()}
    assert taught.losses == pytest.approx(expected["losses"] | totals | {"codebook/revived": 0}, rel=SCALAR_TOLERANCE)


def test_every_gradient_of_the_codec_is_as_long_as_in_the_original(taught, expected):
    norms = {name: parameter.grad.norm().item() for name, parameter in taught.model.named_parameters()}
    of_original = {to_ours(name): norm for name, norm in expected["gradient_norms"]["generator"].items()}
    assert len(of_original) == 222
    assert norms.pop(WITHOUT_GRADIENT) < 1e-5
    assert of_original.pop(WITHOUT_GRADIENT) < 1e-5
    assert norms == pytest.approx(of_original, rel=GRADIENT_TOLERANCE)


def test_seven_gradients_of_the_codec_equal_the_original(taught, arrays):
    names = [name for name in arrays if name.startswith("gradient/")]
    assert len(names) == 7
    for name in names:
        ours = taught.model.get_parameter(to_ours(name.removeprefix("gradient/"))).grad
        distance = np.linalg.norm(ours.numpy() - arrays[name])
        assert distance < GRADIENT_TOLERANCE * np.linalg.norm(arrays[name]), name


def test_gradients_of_the_discriminators_equal_the_original(taught, expected):
    norms = {name: parameter.grad.norm().item() for name, parameter in taught.discriminators.named_parameters()}
    of_original = {_our_name(name): norm for name, norm in expected["gradient_norms"]["discriminators"].items()}
    assert norms == pytest.approx(of_original, rel=GRADIENT_TOLERANCE)


def test_a_step_moves_the_codebook_as_a_forward_of_the_original(taught, arrays, expected):
    codebook = taught.model.encoder_model.quantizer.codebook
    assert_buffers_equal(codebook, arrays, expected["codebook"]["after_one"])


def part_of(modules: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in modules.items() if name.startswith(PARTS[part])}


def norm_of(tensors) -> float:
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))


@pytest.fixture(scope="module")
def run(accelerator, new_model, reference_discriminators, clips, expected):
    """What the original's trainer did, by `make_gan_step` under `legacy`: two batches, four steps of an optimizer."""
    recorded = expected["two_batches"]
    modules = new_model(), copy.deepcopy(reference_discriminators)
    config = TrainingConfig(legacy=True, codebook=CodebookConfig(legacy=True))
    step, schedules = make_gan_step(config, accelerator(), Generator(modules[0]), modules[1])
    before = {name: value.clone() for module in modules for name, value in module.state_dict().items()}
    steps = []
    for number, (parts, ids) in enumerate(zip(recorded["batches"], recorded["bandwidth_ids"], strict=True)):
        losses = step([{"input_values": clips(parts)}], tuple(ids), step=number)
        for schedule in schedules:
            schedule.step()
        gradients = {name: value.grad for module in modules for name, value in module.named_parameters()}
        steps.append(
            {
                "losses": {name: loss.item() for name, loss in losses.items()},
                "gradient_norms": {
                    part: norm_of(part_of(gradients, part).values()) for part in recorded["steps"][0]["gradient_norms"]
                },
                "cluster_size_sum": modules[0].encoder_model.quantizer.codebook.cluster_size.double().sum().item(),
            }
        )
    after = {name: value for module in modules for name, value in module.state_dict().items()}
    changes = {name: value - before[name] for name, value in after.items()}
    return SimpleNamespace(
        steps=steps,
        changes={part: norm_of(part_of(changes, part).values()) for part in recorded["changes"]},
        learning_rates=[schedule.get_last_lr()[0] for schedule in schedules],
        model=modules[0].eval(),
    )


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("optimizer", ["discriminator", "generator"])
def test_losses_of_a_run_equal_the_original(optimizer, number, run, expected):
    def of(losses: dict[str, float]) -> dict[str, float]:
        return {name: loss for name, loss in losses.items() if name.startswith(optimizer)}

    of_original = of(expected["two_batches"]["steps"][number]["losses"])
    assert of(run.steps[number]["losses"]) == pytest.approx(of_original, rel=STEP_TOLERANCES[number][optimizer])


@pytest.mark.parametrize("number", [0, 1])
def test_gradients_of_a_run_equal_the_original(number, run, expected):
    of_original = expected["two_batches"]["steps"][number]["gradient_norms"]
    assert run.steps[number]["gradient_norms"] == pytest.approx(of_original, rel=RUN_GRADIENT_TOLERANCE)


@pytest.mark.parametrize("number", [0, 1])
def test_the_codebook_moves_twice_for_each_batch_of_a_run(number, run, expected):
    of_original = expected["two_batches"]["steps"][number]["cluster_size_sum"]
    assert run.steps[number]["cluster_size_sum"] == pytest.approx(of_original, rel=1e-6)


def test_a_run_changes_weights_as_much_as_in_the_original(run, expected):
    of_original = expected["two_batches"]["changes"]
    assert of_original["dacdiscriminator"] == run.changes["dacdiscriminator"] == 0
    assert run.changes == pytest.approx(of_original, rel=CHANGE_TOLERANCE)
    assert run.learning_rates == pytest.approx([expected["two_batches"]["learning_rate"]] * 2, rel=1e-15)


def test_the_codec_after_a_run_gives_the_codes_of_the_original(run, clips, expected):
    inference = expected["two_batches"]["inference"]
    with torch.no_grad():
        encoded = run.model.encode(clips([inference["input"]]))
        decoded = run.model.decode(encoded.audio_codes, bandwidth_id=inference["bandwidth_id"])
    assert encoded.audio_codes[0, 0].tolist() == inference["codes"]
    rms = decoded.audio_values.square().mean().sqrt().item()
    assert rms == pytest.approx(inference["audio_rms"], rel=STEP_TOLERANCES[1]["generator"])


def test_kmeans_gives_the_centres_and_counts_of_the_original():
    with np.load(GOLDEN / "kmeans.npz") as stored:
        samples = torch.from_numpy(stored["samples"])
        for iterations in (1, 2, 10):
            centres, counts = kmeans(samples, samples[:8], iterations)
            np.testing.assert_array_equal(counts, stored[f"bins_iters{iterations}"])
            np.testing.assert_allclose(centres, stored[f"means_iters{iterations}"], rtol=0, atol=MAX_CENTRE_ERROR)


def test_a_centre_that_nothing_chooses_stays_as_in_the_original():
    with np.load(GOLDEN / "kmeans.npz") as stored:
        samples = torch.from_numpy(stored["samples"])
        start = samples[:8].clone()
        start[7] = 1000
        centres, counts = kmeans(samples, start, 10)
        np.testing.assert_array_equal(counts, stored["empty_bins"])
        np.testing.assert_allclose(centres, stored["empty_means"], rtol=0, atol=MAX_CENTRE_ERROR)
        assert counts[7] == 0
        assert (centres[7] == 1000).all()
