"""Discriminators and losses of one batch equal those of the original, within the noise of float32."""

import numpy as np
import pytest
import torch

from tests.parity.conftest import GOLDEN
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.losses import adversarial_losses, discriminator_losses, loss_mel, mel_loss, total

FAMILIES = ("multi_period", "multi_resolution", "multi_band")
MAX_SCORE_ERROR = 1e-4
MAX_STATISTICS_ERROR = 1e-5
MAX_MEL_ERROR = 5e-4
LOSS_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected(training_golden) -> dict:
    """Losses and totals of the original, and the batch that they belong to."""
    return training_golden("hop320")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The original's reconstruction of the batch, scores, and statistics of scores and features."""
    with np.load(GOLDEN / "discriminators.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def audio(clips, expected, arrays) -> dict[str, torch.Tensor]:
    """Recordings and their reconstructions, (2, 24000) each."""
    return {"real": clips(expected["batch"])[:, 0], "fake": torch.from_numpy(arrays["audio_hat"])}


@pytest.fixture(scope="module")
def judged(reference_discriminators, audio, expected) -> dict:
    """What all discriminators say of both."""
    with torch.no_grad():
        return {which: reference_discriminators(audio[which], expected["bandwidth_id"]) for which in ("real", "fake")}


@pytest.mark.parametrize("which", ["real", "fake"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_original(family, which, judged, arrays):
    judgements = judged[which][family]
    scores = [judgement.score.numpy() for judgement in judgements]
    first = arrays[f"{family}/{which}/score"]
    np.testing.assert_allclose(scores[0], first, rtol=0, atol=MAX_SCORE_ERROR)
    statistics = [(score.mean(dtype=np.float64), score.std(dtype=np.float64)) for score in scores]
    expected = arrays[f"{family}/{which}/score_statistics"]
    np.testing.assert_allclose(statistics, expected, rtol=0, atol=MAX_STATISTICS_ERROR)


def test_scores_of_a_banded_spectrum_equal_the_original(judged, arrays):
    expected = arrays["multi_band/fake/score_of_spectrum"]  # the first 8 frames
    score = judged["fake"]["multi_band"][5].score.unflatten(1, (-1, expected.shape[-1]))
    np.testing.assert_allclose(score[:, :8], expected, rtol=0, atol=MAX_SCORE_ERROR)


@pytest.mark.parametrize(
    ("family", "which"), [(family, "fake") for family in FAMILIES] + [(family, "real") for family in FAMILIES[:2]]
)
def test_the_features_that_are_matched_equal_the_original(family, which, judged, arrays):
    features = [feature.numpy() for judgement in judged[which][family] for feature in judgement.features]
    statistics = [(feature.mean(dtype=np.float64), feature.std(dtype=np.float64)) for feature in features]
    expected = arrays[f"{family}/{which}/feature_statistics"]
    np.testing.assert_allclose(statistics, expected, rtol=0, atol=MAX_STATISTICS_ERROR)


@pytest.mark.parametrize(("which", "name"), [("real", "mel_real"), ("fake", "mel_hat")])
def test_mel_magnitudes_equal_the_original(which, name, audio, arrays):
    mel = loss_mel(audio[which], 24000)[..., : arrays[name].shape[-1]]
    np.testing.assert_allclose(mel, arrays[name], rtol=0, atol=MAX_MEL_ERROR)


def test_losses_and_totals_equal_the_original(judged, audio, expected):
    of_discriminators = discriminator_losses(**judged)
    of_generator = adversarial_losses(**judged) | {
        "generator/mel": mel_loss(audio["real"], audio["fake"], 24000),
        "generator/commitment": torch.tensor(expected["losses"]["generator/commitment"]),
    }
    losses = {name: loss.item() for name, loss in (of_discriminators | of_generator).items()}
    assert losses == pytest.approx(expected["losses"], rel=LOSS_TOLERANCE)
    weights = TrainingConfig().weights
    named = {"discriminator": of_discriminators, "generator": of_generator}
    totals = {name: total(losses, weights).item() for name, losses in named.items()}
    assert totals == pytest.approx(expected["totals"], rel=LOSS_TOLERANCE)
