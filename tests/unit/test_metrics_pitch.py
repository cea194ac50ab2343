"""Voicing, periodicity and pitch on signals whose pitch is known."""

import numpy as np
import pytest
import torch

from wavtokenizer_hf.evaluation import pitch
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.pitch import (
    F0Correlation,
    PeriodicityError,
    PitchTrack,
    VoicingF1,
    periodicity,
    pitch_track,
)

RATE = 16000
NUM_SAMPLES = RATE


def glide(start_hz: float, end_hz: float) -> np.ndarray:
    """A buzz of ten harmonics whose pitch moves in a straight line."""
    f0_hz = np.linspace(start_hz, end_hz, NUM_SAMPLES)
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 11))


def hiss(seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(NUM_SAMPLES)


def pair(reference: np.ndarray, estimate: np.ndarray) -> Pair:
    clips = (torch.from_numpy(clip.astype(np.float32)) for clip in (reference, estimate))
    return Pair("pair", *clips, RATE)


def test_the_pitch_of_a_glide_is_followed():
    track = pitch_track(glide(120, 240))
    inner = track.is_voiced[5:-5]
    assert inner.all()
    expected = np.linspace(120, 240, len(track.f0_hz))
    np.testing.assert_allclose(track.f0_hz[5:-5], expected[5:-5], rtol=0.02)


def test_periodicity_tells_a_voice_from_hiss_and_from_silence():
    assert periodicity(glide(120, 120), 100)[5:-5].min() > 0.99
    assert periodicity(hiss(), 100).max() < 0.6
    np.testing.assert_array_equal(periodicity(np.zeros(NUM_SAMPLES), 100), 0)
    half = np.concatenate([glide(120, 120)[: RATE // 2], np.zeros(RATE // 2)])
    assert (periodicity(half, 100)[55:] == 0).all()


def test_the_periodicity_of_a_voice_in_noise_is_its_share_of_the_power():
    # the autocorrelation at the period is what repeats: the voice's power over that of both
    voice, noise = glide(200, 200), hiss()
    expected = voice.var() / (voice.var() + noise.var())
    assert periodicity(voice + noise, 100)[5:-5].mean() == pytest.approx(expected, abs=0.05)


def test_periodicity_ignores_level():
    sound = glide(150, 300) + hiss()
    np.testing.assert_allclose(periodicity(0.01 * sound, 100), periodicity(sound, 100), atol=1e-9)


@pytest.mark.parametrize("num_samples", [1, 500, 4000])
def test_a_short_clip_has_one_value_per_frame(num_samples):
    track = pitch_track(glide(200, 200)[:num_samples])
    assert len(track.periodicity) == len(track.f0_hz) >= 1


def tracks(reference_hz: list[float], estimate_hz: list[float]) -> Pair:
    """A pair whose tracks are given, with a periodicity of 0.8 where voiced and 0.2 elsewhere."""
    result = tuple(
        PitchTrack(np.array(f0_hz), np.where(np.array(f0_hz) > 0, 0.8, 0.2)) for f0_hz in (reference_hz, estimate_hz)
    )
    made = pair(hiss(), hiss())
    made._kept[pitch.pitch_tracks] = result
    return made


def test_v_uv_f1_is_of_the_frames_of_all_clips_together():
    metric = VoicingF1()
    first = tracks([100, 100, 100, 0], [100, 100, 0, 100])  # 2 right, 1 missed, 1 too many
    second = tracks([100, 0, 0, 0], [100, 0, 0, 0])
    precision, recall = 3 / 4, 3 / 4
    assert metric.pool([metric.score(first)]) == pytest.approx(2 / 3)
    assert metric.pool([metric.score(first), metric.score(second)]) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )


def test_the_periodicity_error_is_a_root_mean_square():
    made = tracks([100, 100, 0, 0], [100, 0, 0, 0])
    assert PeriodicityError().score(made) == pytest.approx((0.6**2 / 4) ** 0.5)


def test_f0_correlation_is_of_log_pitch_where_both_are_voiced():
    rng = np.random.default_rng(0)
    reference, estimate = rng.uniform(100, 200, 30), rng.uniform(100, 200, 30)
    expected = np.corrcoef(np.log(reference[:20]), np.log(estimate[:20]))[0, 1]
    estimate[20:] = 0
    assert F0Correlation().score(tracks(reference, estimate)) == pytest.approx(expected)


def test_a_melody_turned_upside_down_correlates_negatively_and_a_constant_one_not_at_all():
    assert F0Correlation().score(pair(glide(120, 240), glide(240, 120))) < -0.9
    flat = Pair("flat", torch.zeros(1), torch.zeros(1), RATE)
    flat._kept[pitch.pitch_tracks] = (PitchTrack(np.full(20, 100.0), np.ones(20)),) * 2
    with pytest.raises(ValueError, match="constant pitch"):
        F0Correlation().score(flat)


def test_a_voice_turned_to_hiss_loses_its_voicing():
    whisper = pair(glide(120, 240), hiss())
    metric = VoicingF1()
    assert metric.pool([metric.score(whisper)]) < 0.3
    assert PeriodicityError().score(whisper) > 0.5
