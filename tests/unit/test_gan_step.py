"""A GAN step: what it calls, what it moves, and what it leaves alone."""

import copy
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from tests.tiny import noise, tiny_model
from wavtokenizer_hf import WavTokenizerModel
from wavtokenizer_hf.training.config import OptimizerConfig, TrainingConfig
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.gan_objective import make_gan_step
from wavtokenizer_hf.training.learner import CodebookConfig
from wavtokenizer_hf.training.losses import total
from wavtokenizer_hf.training.steps import Generator, deception_losses, judge, reconstruction_losses

CONFIG = TrainingConfig(
    codebook=CodebookConfig(revival_share=0),
    # Bands of 64 samples would shrink to a width of one, where torch's bfloat16 gradients on a CPU read unset memory.
    discriminators=DiscriminatorConfig(
        width=0.05, periods=(2,), resolutions=(64,), band_periods=(3,), band_resolutions=(256,)
    ),
    loss_weights={"generator/commitment": 2.0, "generator/adversarial_multi_band": 3.0},
)
LEGACY = dataclasses.replace(CONFIG, legacy=True, codebook=CodebookConfig(legacy=True))
NUM_CODES = 20  # of a clip of 1600 samples


class Setup(NamedTuple):
    model: WavTokenizerModel
    discriminators: Discriminators
    step: GanStep
    schedules: list[Any]


@pytest.fixture
def prepared(accelerator):
    """A function from a configuration to a step with a tiny codec, without dropout, and tiny discriminators."""

    def prepare(config: TrainingConfig = CONFIG, precision: str = "no", has_discriminators: bool = True) -> Setup:
        torch.manual_seed(0)
        model, discriminators = tiny_model(), Discriminators(config.discriminators)
        generator = Generator(model, config.trains_encoder)
        step, schedules = make_gan_step(
            config, accelerator(precision), generator, discriminators if has_discriminators else None
        )
        return Setup(model, discriminators, step, schedules)

    return prepare


def batch(num_clips: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"input_values": noise(num_clips, 1, 80 * NUM_CODES, seed=seed)}


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def held(optimizer: Any) -> set[torch.nn.Parameter]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def norm_of(tensors) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()


def changed(module: torch.nn.Module, before: torch.nn.Module) -> set[str]:
    """Names of the tensors that differ, up to the first dot."""
    then = before.state_dict()
    return {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, then[name])}


# ------------------------------------------------------------------------------------- what is called, and what moves


@pytest.mark.parametrize(("config", "num_forwards"), [(CONFIG, 1), (LEGACY, 2)])
def test_the_codec_runs_once_for_each_batch_and_twice_under_legacy(prepared, config, num_forwards):
    setup = prepared(config)
    ids = []
    setup.step.generator.register_forward_pre_hook(lambda _module, inputs: ids.append(inputs[1]))
    codebook = setup.model.encoder_model.quantizer.codebook
    setup.step([batch()], (3, 1), step=0)
    assert ids == [3, 1][-num_forwards:]
    num_entries = len(codebook.embed)  # with a count of 1 each at the start
    expected = 0.99**num_forwards * num_entries + (1 - 0.99**num_forwards) * 2 * NUM_CODES
    assert codebook.cluster_size.sum().item() == pytest.approx(expected, rel=1e-6)


def test_a_step_moves_codec_codebook_and_discriminators(prepared):
    setup = prepared()
    before = copy.deepcopy(setup.model), copy.deepcopy(setup.discriminators)
    losses = setup.step([batch()], (0, 0), step=0)
    assert changed(setup.model, before[0]) == {"encoder_model", "backbone", "head"}
    assert changed(setup.discriminators, before[1]) == {"multi_period", "multi_resolution", "multi_band"}
    assert "quantizer" in changed(setup.model.encoder_model, before[0].encoder_model)
    assert all(loss.isfinite() and not loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("num_steps", [1, 3])
def test_under_legacy_the_multi_band_discriminators_never_learn(prepared, num_steps):
    setup = prepared(LEGACY)
    before = copy.deepcopy(setup.discriminators)
    for number in range(num_steps):
        setup.step([batch()], (0, 1), step=number)
    assert changed(setup.discriminators, before) == {"multi_period", "multi_resolution"}
    assert not held(setup.step.discriminator_optimizer) & set(setup.discriminators.multi_band.parameters())


def test_a_step_without_discriminators_leaves_them_alone(prepared):
    setup = prepared()
    before = copy.deepcopy(setup.discriminators)
    losses = setup.step([batch()], (0, 0), step=0, uses_discriminators=False)
    assert set(losses) == {"generator/mel", "generator/commitment", "generator/total", "codebook/revived"}
    assert not changed(setup.discriminators, before)
    assert not gradients(setup.discriminators)


def test_a_step_without_the_quantizer_leaves_the_codebook_alone(prepared):
    setup = prepared()
    before = copy.deepcopy(setup.model.encoder_model)
    losses = setup.step([batch()], (0, 0), step=0, uses_quantizer=False)
    assert losses["generator/commitment"] == 0
    assert changed(setup.model.encoder_model, before) == {"encoder"}


def test_clips_that_bypass_the_quantizer_teach_the_waveform_and_the_others_do_not(prepared):
    weights = {"generator/waveform": 1.0, "generator/relative_commitment": 1.0, "generator/latent_energy": 1.0}
    config = dataclasses.replace(CONFIG, quantizer_dropout=0.5, loss_weights=CONFIG.loss_weights | weights)
    setup = prepared(config, has_discriminators=False)
    twin = Generator(copy.deepcopy(setup.model))
    losses = setup.step([batch(4)], (0, 1), step=0)
    real = batch(4)["input_values"]
    latents, _ = twin.model.encoder_model.encoder(real)
    plain, bypassed = twin(real, 1), twin.model.decode(bandwidth_id=1, quantized_latents=latents).audio_values
    distance = (real[:2] - bypassed[:2]).abs().mean(dim=-1) / real[:2].abs().mean(dim=-1)
    assert losses["generator/waveform"].item() == pytest.approx(distance.mean().item(), rel=1e-5)
    entries = plain.quantized_latents
    assert losses["generator/relative_commitment"].item() == pytest.approx(
        ((latents - entries).square().mean() / entries.var(dim=(0, 2), correction=0).mean()).item(), rel=1e-5
    )
    assert losses["generator/latent_energy"].item() == pytest.approx(max(latents.square().mean().item() - 1, 0))
    assert losses["generator/commitment"].item() == pytest.approx(plain.commitment.item(), rel=1e-5)


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, {0}), (1.0, {4}), (0.3, {1, 2})])
def test_what_is_left_of_the_share_of_unquantized_clips_is_left_to_chance(prepared, dropout, expected):
    setup = prepared(dataclasses.replace(CONFIG, quantizer_dropout=dropout), has_discriminators=False)
    counts = set()
    setup.step.generator.register_forward_pre_hook(lambda _module, inputs: counts.add(inputs[3]))
    for number in range(12):
        torch.manual_seed(number)
        setup.step([batch(4)], (0, 0), step=number)
    assert counts == expected


def test_weights_move_with_the_steps(prepared):
    config = dataclasses.replace(CONFIG, loss_weights={"generator/mel": [[0, 1], [10, 3]], "generator/commitment": 0})
    setup = prepared(config, has_discriminators=False)
    for number, weight in ((0, 1), (5, 2), (10, 3)):
        losses = setup.step([batch()], (0, 0), step=number)
        assert losses["generator/total"].item() == pytest.approx(weight * losses["generator/mel"].item())
        assert "generator/commitment" not in losses


def test_a_frozen_encoder_gets_no_gradient_and_stays(prepared):
    setup = prepared(dataclasses.replace(CONFIG, trains_encoder=False, trains_codebook=False))
    before = copy.deepcopy(setup.model)
    setup.step([batch()], (0, 0), step=0)
    assert not gradients(setup.model.encoder_model)
    assert changed(setup.model, before) == {"backbone", "head"}
    assert not held(setup.step.generator_optimizer) & set(setup.model.encoder_model.parameters())


def test_a_codebook_may_learn_beside_a_frozen_encoder(prepared):
    setup = prepared(dataclasses.replace(CONFIG, trains_encoder=False))
    before = copy.deepcopy(setup.model.encoder_model)
    setup.step([batch()], (0, 0), step=0)
    assert changed(setup.model.encoder_model, before) == {"quantizer"}


# -------------------------------------------------------------------------------------- who is taught, and by what


def test_discriminators_learn_from_their_own_loss_alone(prepared):
    setup = prepared()
    twin, judges = Generator(copy.deepcopy(setup.model)), copy.deepcopy(setup.discriminators)
    losses = setup.step([batch()], (3, 1), step=0)
    real = batch()["input_values"]
    expected = judge(judges, real[:, 0], twin(real, 1).audio_values, 1)
    total(expected, CONFIG.weights).backward()
    torch.testing.assert_close(gradients(setup.discriminators), gradients(judges), rtol=0, atol=0)
    assert {name: losses[name].item() for name in expected} == {name: loss.item() for name, loss in expected.items()}


def test_the_codec_learns_from_discriminators_that_have_just_learnt(prepared):
    setup = prepared()
    twin = Generator(copy.deepcopy(setup.model))
    losses = setup.step([batch()], (3, 1), step=0)
    real = batch()["input_values"]
    reconstruction = twin(real, 1)
    judged = deception_losses(setup.discriminators, real[:, 0], reconstruction.audio_values, 1)
    expected = reconstruction_losses(real[:, 0], reconstruction, 24000, None, CONFIG.weights) | judged
    loss = total(expected, CONFIG.weights)
    loss.backward()
    torch.testing.assert_close(gradients(setup.model), gradients(twin.model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close({name: losses[name] for name in expected}, expected, rtol=0, atol=0)
    torch.testing.assert_close(losses["generator/total"], loss, rtol=0, atol=0)


def test_deceiving_gives_discriminators_no_gradient_even_if_it_fails(prepared):
    discriminators = prepared().discriminators
    real, fake = noise(2, 400), noise(2, 400, seed=1).requires_grad_()
    total(deception_losses(discriminators, real, fake, 0), CONFIG.weights).backward()
    assert fake.grad.abs().sum() > 0
    assert not gradients(discriminators)
    with pytest.raises(ValueError, match="`bandwidth_id`"):
        deception_losses(discriminators, real, fake, 9)
    assert all(parameter.requires_grad for parameter in discriminators.parameters())


def test_deceiving_leaves_frozen_discriminators_frozen(prepared):
    discriminators = prepared().discriminators.requires_grad_(False)
    deception_losses(discriminators, noise(2, 400), noise(2, 400, seed=1), 0)
    assert not any(parameter.requires_grad for parameter in discriminators.parameters())


# ----------------------------------------------------------------------------------------- accumulation and clipping


@pytest.mark.parametrize("num_parts", [2, 3])
def test_parts_of_a_batch_teach_as_the_whole_batch_does(prepared, num_parts):
    whole, parts = prepared(has_discriminators=False), prepared(has_discriminators=False)
    clips = batch(num_clips=6)["input_values"]
    one = whole.step([{"input_values": clips}], (0, 1), step=0)
    many = parts.step([{"input_values": part} for part in clips.chunk(num_parts)], (0, 1), step=0)
    torch.testing.assert_close(many, one, rtol=1e-5, atol=0)
    for name, gradient in gradients(whole.model).items():
        distance = (gradients(parts.model)[name] - gradient).norm()
        assert distance < 1e-4 * gradient.norm() + 1e-6, name
    codebooks = [setup.model.encoder_model.quantizer.codebook.state_dict() for setup in (whole, parts)]
    torch.testing.assert_close(*codebooks, rtol=1e-5, atol=1e-6)


def test_discriminators_step_once_for_all_parts(prepared):
    setup = prepared()
    judges = copy.deepcopy(setup.discriminators)
    twin = Generator(copy.deepcopy(setup.model))
    parts = [batch(seed=seed) for seed in range(3)]
    setup.step(parts, (0, 1), step=0)
    for part in parts:
        real = part["input_values"]
        (total(judge(judges, real[:, 0], twin(real, 1).audio_values, 1), CONFIG.weights) / 3).backward()
    torch.testing.assert_close(gradients(setup.discriminators), gradients(judges))


def test_nothing_of_a_step_is_left_in_the_next(prepared):
    setup = prepared(dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e-12)))
    seen = []
    for number in range(2):
        setup.step([batch()], (0, 0), step=number, uses_quantizer=False)
        seen.append((gradients(setup.model), gradients(setup.discriminators)))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, LEGACY])
def test_long_gradients_are_shortened_and_their_length_is_logged(prepared, config):
    unlimited = prepared(config)
    limited = prepared(dataclasses.replace(config, optimizer=OptimizerConfig(max_grad_norm=0.01)))
    for number in range(2):  # discriminators that no optimizer holds collect gradients
        free, losses = (setup.step([batch()], (0, 0), step=number) for setup in (unlimited, limited))
        if number == 0:
            norms = norm_of(taught(unlimited, config)), norm_of(gradients(unlimited.model).values())
            logged = losses["discriminator/grad_norm"].item(), losses["generator/grad_norm"].item()
            assert logged == pytest.approx(norms, rel=0.02)
        assert "generator/grad_norm" not in free
        assert norm_of(taught(limited, config)) == pytest.approx(0.01, rel=1e-3)
        assert norm_of(gradients(limited.model).values()) == pytest.approx(0.01, rel=1e-3)


def taught(setup: Setup, config: TrainingConfig) -> list[torch.Tensor]:
    """Gradients that the discriminators' optimizer sees."""
    return [
        gradient
        for name, gradient in gradients(setup.discriminators).items()
        if not (config.legacy and name.startswith("multi_band."))
    ]


# -------------------------------------------------------------------------------------------- precision and schedules


def test_losses_in_bfloat16_are_near_those_in_float32(prepared):
    expected = prepared().step([batch()], (0, 1), step=0)
    mixed = prepared(precision="bf16")
    losses = mixed.step([batch()], (0, 1), step=0)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(mixed.model).values())
    pairs = {name: (losses[name].item(), loss.item()) for name, loss in expected.items()}
    assert any(ours != exact for ours, exact in pairs.values())
    for name, (ours, exact) in pairs.items():
        assert ours == pytest.approx(exact, rel=0.03), name


def test_rates_rise_to_their_highest_and_fall_along_a_cosine(prepared):
    settings = OptimizerConfig(learning_rate=1e-3, discriminator_learning_rate=1e-4, final_share=0.1, warmup_steps=2)
    config = dataclasses.replace(CONFIG, optimizer=settings, max_steps=10, discriminator_start_step=4)
    rates = [[], []]
    for which, schedule in enumerate(prepared(config).schedules):
        for _ in range(11):
            rates[which].append(schedule.get_last_lr()[0])
            schedule.optimizer.step()
            schedule.step()
    for which, highest, num_steps in ((0, 1e-3, 10), (1, 1e-4, 6)):
        middle = 2 + (num_steps - 2) // 2
        picked = [rates[which][index] for index in (0, 1, 2, middle, num_steps)]
        assert picked == pytest.approx([highest * share for share in (0, 0.5, 1, 0.55, 0.1)])
