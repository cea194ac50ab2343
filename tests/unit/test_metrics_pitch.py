"""Voicing, periodicity and pitch on signals whose pitch is known."""

import numpy as np
import pytest
import torch

from wavtokenizer_hf.evaluation import pitch
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.pitch import (
    F0Correlation,
    GrossPitchError,
    PeriodicityError,
    VoicingF1,
    periodicity,
    pitch_track,
)

RATE = 24000


def glide(start_hz: float, end_hz: float, rate: int = RATE) -> np.ndarray:
    """A second of ten harmonics whose pitch moves in a straight line."""
    f0_hz = np.linspace(start_hz, end_hz, rate)
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 11))


def hiss(seed: int = 0, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(rate)


def pair(reference: np.ndarray, estimate: np.ndarray) -> Pair:
    clips = (torch.from_numpy(clip.astype(np.float32)) for clip in (reference, estimate))
    return Pair("pair", *clips, RATE)


def test_the_pitch_of_a_glide_is_followed():
    f0_hz = pitch_track(glide(120, 240))
    expected = np.linspace(120, 240, len(f0_hz))
    np.testing.assert_allclose(f0_hz[10:-10], expected[10:-10], rtol=0.02)


def test_periodicity_tells_a_voice_from_hiss_and_from_silence():
    voice = glide(120, 120, 16000)
    assert periodicity(voice)[5:-5].min() > 0.99
    assert periodicity(hiss(rate=16000))[5:-5].max() < 0.6
    np.testing.assert_array_equal(periodicity(np.zeros(16000)), np.zeros(101))
    half = np.concatenate([voice[:8000], np.zeros(8000)])
    assert (periodicity(half)[55:] == 0).all()


def test_the_periodicity_of_a_voice_in_noise_is_its_share_of_the_power():
    # the autocorrelation at the period is what repeats: the voice's power over that of both
    voice, noise = glide(200, 200, 16000), hiss(rate=16000)
    expected = voice.var() / (voice.var() + noise.var())
    assert periodicity(voice + noise)[5:-5].mean() == pytest.approx(expected, abs=0.05)


def test_periodicity_ignores_level():
    sound = glide(150, 300, 16000) + hiss(rate=16000)
    np.testing.assert_allclose(periodicity(0.01 * sound), periodicity(sound), atol=1e-9)


@pytest.mark.parametrize("num_samples", [1, 500, 4000])
def test_the_shortest_clips_have_a_frame(num_samples):
    assert len(pitch_track(glide(200, 200)[:num_samples])) >= 1
    assert len(periodicity(glide(200, 200)[:num_samples])) == num_samples // 160 + 1


def tracks(reference_hz, estimate_hz) -> Pair:
    """A pair whose tracks are given."""
    made = pair(hiss(), hiss())
    made._kept[pitch.pitch_tracks] = np.asarray(reference_hz, float), np.asarray(estimate_hz, float)
    return made


def test_v_uv_f1_is_the_mean_of_precision_and_recall_that_is_named_so():
    made = tracks([100, 100, 100, 0, 0], [100, 100, 0, 100, 100])  # 2 right, 1 missed, 2 too many
    precision, recall = 2 / 4, 2 / 3
    assert VoicingF1().score(made) == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_periodicity_error_is_a_root_mean_square():
    made = pair(glide(120, 240), hiss())
    difference = periodicity(made.at(16000)[0].double().numpy()) - periodicity(made.at(16000)[1].double().numpy())
    assert PeriodicityError().score(made) == pytest.approx(np.sqrt((difference**2).mean()))


def test_a_gross_pitch_error_is_a_factor_of_more_than_1_2_either_way_in_frames_voiced_in_both():
    reference = np.full(40, 100.0)
    estimate = np.concatenate([np.full(10, 119), np.full(10, 121), np.full(10, 84), np.full(5, 82), np.zeros(5)])
    assert GrossPitchError().score(tracks(reference, estimate)) == pytest.approx(15 / 35)
    with pytest.raises(ValueError, match="fewer than 20 frames are voiced in both"):
        GrossPitchError().score(tracks(reference[:19], reference[:19]))


def test_a_wrong_pitch_is_heard_and_a_shift_and_a_level_are_not():
    voice = glide(120, 160)
    assert GrossPitchError().score(pair(voice, glide(180, 240))) > 0.95
    assert GrossPitchError().score(pair(voice, 0.1 * glide(125, 165))) == 0
    assert GrossPitchError().score(pair(voice, np.roll(voice, 100))) < 0.05


def test_f0_correlation_is_of_log_pitch_where_both_are_voiced():
    rng = np.random.default_rng(0)
    reference, estimate = rng.uniform(100, 200, 30), rng.uniform(100, 200, 30)
    expected = np.corrcoef(np.log(reference[:20]), np.log(estimate[:20]))[0, 1]
    estimate[20:] = 0
    assert F0Correlation().score(tracks(reference, estimate)) == pytest.approx(expected)


def test_a_melody_turned_upside_down_correlates_negatively_and_a_constant_one_not_at_all():
    assert F0Correlation().score(pair(glide(120, 240), glide(240, 120))) < -0.9
    with pytest.raises(ValueError, match="constant pitch"):
        F0Correlation().score(tracks(np.full(20, 100), np.full(20, 100)))


def test_a_voice_turned_to_hiss_loses_its_voicing():
    whisper = pair(glide(120, 240), hiss())
    assert VoicingF1().score(whisper) < 0.3
    assert PeriodicityError().score(whisper) > 0.5
