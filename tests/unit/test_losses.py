"""Losses of a GAN step against their formulas."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import noise
from tests.unit.test_signal import numpy_log_mel
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.discriminators import Judgement
from wavtokenizer_hf.training.losses import (
    adversarial_losses,
    discriminator_losses,
    mel_loss,
    total,
)

DEFAULT_WEIGHTS = TrainingConfig().weights
FAMILIES = ("multi_period", "multi_resolution", "multi_band")


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Two recordings and two reconstructions of them."""
    recordings = noise(2, 6000)
    return recordings, 0.5 * recordings + 0.2 * noise(2, 6000, seed=1)


def numpy_distance_by_band(reference: torch.Tensor, estimate: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """(B, 100)"""
    logs = [
        np.stack([numpy_log_mel(clip.double().detach().numpy(), sampling_rate) for clip in batch])
        for batch in (reference, estimate)
    ]
    return np.abs(logs[0] - logs[1]).mean(axis=-1)


def tops_hz(sampling_rate: int) -> np.ndarray:
    """Upper ends of 100 triangles that are evenly spaced on the HTK scale."""
    mels = np.linspace(0, 2595 * math.log10(1 + sampling_rate / 2 / 700), 102)
    return 700 * (10 ** (mels[2:] / 2595) - 1)


@pytest.mark.parametrize("sampling_rate", [24000, 44100])
def test_the_mel_loss_is_the_mean_difference_of_log_mel_magnitudes(clips, sampling_rate):
    expected = numpy_distance_by_band(*clips, sampling_rate).mean()
    assert mel_loss(*clips, sampling_rate).item() == pytest.approx(expected, rel=1e-4)


def test_bands_that_reach_beyond_the_cutoff_of_a_clip_do_not_count(clips):
    cutoffs = torch.tensor([8000.0, 3000.0])
    by_band = numpy_distance_by_band(*clips, 24000)
    kept = [tops_hz(24000) <= cutoff for cutoff in (8000, 3000)]
    assert 0 < kept[1].sum() < kept[0].sum() < 100
    expected = np.mean([distances[keep].mean() for distances, keep in zip(by_band, kept, strict=True)])
    assert mel_loss(*clips, 24000, cutoffs).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sampling_rate", [24000, 22050, 44100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_cutoff_at_half_the_rate_keeps_every_band(clips, sampling_rate, dtype):
    cutoffs = torch.full((2,), sampling_rate / 2, dtype=dtype)
    assert mel_loss(*clips, sampling_rate, cutoffs).item() == pytest.approx(
        mel_loss(*clips, sampling_rate).item(), rel=1e-6
    )


def test_treble_that_the_source_could_not_hold_costs_nothing(clips):
    recording = clips[0][:1]
    tone = torch.hann_window(6000) * torch.sin(2 * math.pi * 10000 / 24000 * torch.arange(6000))
    brighter = recording + tone
    full, without_treble = (
        mel_loss(recording, brighter, 24000, torch.tensor([cutoff_hz])) for cutoff_hz in (12000.0, 8000.0)
    )
    assert without_treble < 0.01 * full


def test_the_gradient_of_a_clip_stays_below_its_cutoff(clips):
    reference, estimate = clips
    estimate = estimate.clone().requires_grad_()
    mel_loss(reference, estimate, 24000, torch.tensor([4000.0, 12000.0])).backward()
    energy = torch.fft.rfft(estimate.grad).abs().square()
    treble = energy[:, 6000 // 4 :].sum(dim=1) / energy.sum(dim=1)  # above 6 kHz
    assert treble[0] < 1e-3
    assert treble[1] > 0.02


@pytest.mark.parametrize(
    ("cutoffs", "message"),
    [
        (torch.tensor([8000.0, 8.0]), "cutoff of clip 1, 8 Hz"),
        (torch.tensor([8000.0]), r"shape \(2,\), one per clip, got \(1,\)"),
        (torch.tensor(8000.0), r"shape \(2,\), one per clip, got \(\)"),
    ],
)
def test_cutoffs_that_do_not_fit_are_refused(clips, cutoffs, message):
    with pytest.raises(ValueError, match=message):
        mel_loss(*clips, 24000, cutoffs)


@pytest.mark.parametrize("shape", [(2, 5999), (1, 6000), (2, 1, 6000)])
def test_batches_that_differ_in_shape_are_refused(clips, shape):
    with pytest.raises(ValueError, match=r"one shape, got \(2, 6000\)"):
        mel_loss(clips[0], torch.zeros(shape), 24000)


def test_the_mel_loss_is_the_same_under_autocast(clips):
    reference, estimate = clips
    estimate = estimate.clone().requires_grad_()
    expected = mel_loss(reference, estimate, 24000)
    (gradient,) = torch.autograd.grad(expected, estimate)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mel_loss(reference, estimate, 24000)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(estimate.grad, gradient, rtol=0, atol=0)


def test_filters_that_evaluation_has_made_serve_training(clips):
    sampling_rate = 24002  # its filters are made here
    with torch.inference_mode():
        mel_loss(*clips, sampling_rate)
    estimate = clips[1].clone().requires_grad_()
    mel_loss(clips[0], estimate, sampling_rate).backward()
    assert estimate.grad.abs().sum() > 0


def judgements(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, list[Judgement]]:
    """Two discriminators in each family, with two features."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    return {
        family: [Judgement(drawn(2, 7 + i), [drawn(2, 3, 4, 5 + i), drawn(2, 1, 2, 3)]) for i in range(2)]
        for family in FAMILIES
    }


def numpy_scores(judged: dict[str, list[Judgement]], family: str) -> list[np.ndarray]:
    return [judgement.score.detach().float().numpy() for judgement in judged[family]]


def test_discriminators_learn_by_the_hinge_and_the_multi_band_family_by_least_squares():
    real, fake = judgements(0), judgements(1)
    losses = discriminator_losses(real, fake)
    assert list(losses) == [f"discriminator/{family}" for family in FAMILIES]
    for family in FAMILIES[:2]:
        pairs = zip(numpy_scores(real, family), numpy_scores(fake, family), strict=True)
        each = [np.maximum(1 - one, 0).mean() + np.maximum(1 + other, 0).mean() for one, other in pairs]
        assert losses[f"discriminator/{family}"].item() == pytest.approx(sum(each) / 2, rel=1e-5)
    pairs = zip(numpy_scores(real, "multi_band"), numpy_scores(fake, "multi_band"), strict=True)
    each = [((1 - one) ** 2).mean() + (other**2).mean() for one, other in pairs]
    assert losses["discriminator/multi_band"].item() == pytest.approx(sum(each), rel=1e-5)


def test_generators_learn_to_raise_scores_and_to_match_features():
    real, fake = judgements(0), judgements(1)
    losses = adversarial_losses(real, fake)
    kinds = ("adversarial", "feature_matching")
    assert set(losses) == {f"generator/{kind}_{family}" for kind in kinds for family in FAMILIES}
    for family in FAMILIES:
        scores, is_summed = numpy_scores(fake, family), family == "multi_band"
        each = [((1 - score) ** 2 if is_summed else np.maximum(1 - score, 0)).mean() for score in scores]
        expected = sum(each) if is_summed else sum(each) / 2
        assert losses[f"generator/adversarial_{family}"].item() == pytest.approx(expected, rel=1e-5)
        differences = [
            np.abs(target.detach().numpy() - ours.detach().numpy()).mean()
            for one, other in zip(real[family], fake[family], strict=True)
            for target, ours in zip(one.features, other.features, strict=True)
        ]
        expected = sum(differences) if is_summed else sum(differences) / 2
        assert losses[f"generator/feature_matching_{family}"].item() == pytest.approx(expected, rel=1e-5)


def test_feature_matching_moves_reconstructions_and_never_recordings():
    real, fake = judgements(0), judgements(1)
    total(adversarial_losses(real, fake), DEFAULT_WEIGHTS).backward()
    for family in FAMILIES:
        for one, other in zip(real[family], fake[family], strict=True):
            assert all(tensor.grad is None for tensor in (one.score, *one.features))
            assert all(tensor.grad.abs().sum() > 0 for tensor in (other.score, *other.features))


def test_losses_of_half_precision_judgements_are_float32():
    real, fake = judgements(0, torch.bfloat16), judgements(1, torch.bfloat16)
    for losses, as_float in (
        (discriminator_losses(real, fake), discriminator_losses(widened(real), widened(fake))),
        (adversarial_losses(real, fake), adversarial_losses(widened(real), widened(fake))),
    ):
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        torch.testing.assert_close(losses, as_float, rtol=1e-6, atol=0)


def widened(judged: dict[str, list[Judgement]]) -> dict[str, list[Judgement]]:
    return {
        family: [Judgement(one.score.float(), [feature.float() for feature in one.features]) for one in each]
        for family, each in judged.items()
    }


def test_the_default_weights_are_the_originals_for_every_loss():
    named = discriminator_losses(judgements(0), judgements(1)) | adversarial_losses(judgements(0), judgements(1))
    used = {name: weight for name, weight in DEFAULT_WEIGHTS.items() if weight}
    assert used == dict.fromkeys(named, 1.0) | {"generator/mel": 45.0, "generator/commitment": 1000.0}


def test_the_total_is_the_weighted_sum_of_the_losses_that_are_there():
    losses = {"generator/mel": torch.tensor(2.0), "generator/commitment": torch.tensor(0.5)}
    assert total(losses, DEFAULT_WEIGHTS).item() == 45 * 2 + 1000 * 0.5
    assert total(losses, {"generator/mel": 3, "generator/commitment": 0, "other": 7}).item() == 6


def test_a_loss_without_a_weight_is_refused_by_name():
    with pytest.raises(ValueError, match="No weight for generator/mell"):
        total({"generator/mell": torch.tensor(1.0), "generator/mel": torch.tensor(1.0)}, DEFAULT_WEIGHTS)
    with pytest.raises(ValueError, match="No losses"):
        total({}, DEFAULT_WEIGHTS)
