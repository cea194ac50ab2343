"""Metrics without a model, against formulas written out in NumPy or direct calls of their package."""

import math
from pathlib import Path

import numpy as np
import pesq
import pystoi
import pytest
import soundfile
import torch
import torchaudio

from tests.tiny import noise
from tests.unit.test_signal import numpy_log_mel
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.evaluation import perceptual
from wavtokenizer_hf.evaluation.coding import Bitrate, CodebookPerplexity, CodebookUsage, CodesPerSecond
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.pair import Coding, Pair
from wavtokenizer_hf.evaluation.perceptual import PESQ, STOI
from wavtokenizer_hf.evaluation.pitch import F0Correlation, GrossPitchError, PeriodicityError, VoicingF1
from wavtokenizer_hf.evaluation.registry import METRICS, choose_metrics
from wavtokenizer_hf.evaluation.spectral import RESOLUTIONS, LogMelL1, MultiResolutionSTFT
from wavtokenizer_hf.evaluation.speed import DecodeRealTimeFactor, EncodeRealTimeFactor
from wavtokenizer_hf.evaluation.tone import FrameTone
from wavtokenizer_hf.evaluation.waveform import SISDR, Level

ANCHOR = Path(__file__).parents[1] / "golden" / "anchor"


def load(folder: str) -> torch.Tensor:
    samples, rate = soundfile.read(next((ANCHOR / folder).iterdir()), dtype="float32")
    assert rate == 24000
    return torch.from_numpy(samples)


def anchor(folder: str) -> Pair:
    """A real utterance and what a published checkpoint made of it."""
    reference, estimate = load("ref"), load(folder)
    num_samples = min(len(reference), len(estimate))
    return Pair("anchor", reference[:num_samples], estimate[:num_samples], 24000, "speech")


@pytest.fixture(scope="module")
def pair_75() -> Pair:
    return anchor("wavtokenizer_75")


@pytest.fixture(scope="module")
def pair_40() -> Pair:
    return anchor("wavtokenizer_40")


def make(reference, estimate, rate: int = 24000, **more) -> Pair:
    clips = (torch.as_tensor(clip, dtype=torch.float32) for clip in (reference, estimate))
    return Pair("pair", *clips, rate, **more)


def coded(codes: list[int], *, num_samples: int = 240, codebook_size: int = 8, **times) -> Pair:
    coding = Coding(
        torch.tensor(codes), CodecSpec(24000, 320, (codebook_size,)), **{"encode_s": 0.0, "decode_s": 0.0} | times
    )
    return make(torch.zeros(num_samples), torch.zeros(num_samples), 240, coding=coding)


def ready(metric: Metric) -> Metric:
    metric.prepare(torch.device("cpu"))
    return metric


def value(metric: Metric, *pairs: Pair) -> float:
    return ready(metric).pool([metric.score(pair) for pair in pairs])


def at_16_khz(pair: Pair) -> list[np.ndarray]:
    return [torchaudio.functional.resample(clip, 24000, 16000).numpy() for clip in (pair.reference, pair.estimate)]


def test_log_mel_l1_is_the_mean_difference_of_log_mel_spectrograms(pair_75):
    logs = [numpy_log_mel(clip.double().numpy(), 24000) for clip in (pair_75.reference, pair_75.estimate)]
    assert value(LogMelL1(), pair_75) == pytest.approx(np.abs(logs[0] - logs[1]).mean(), rel=1e-5)


def test_the_stft_distance_adds_spectral_convergence_and_log_differences_over_three_resolutions(pair_75):
    distances = []
    for n_fft, hop, win in RESOLUTIONS:
        window = np.zeros(n_fft)
        start = (n_fft - win) // 2
        window[start : start + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
        magnitudes = []
        for clip in (pair_75.reference, pair_75.estimate):
            padded = np.pad(clip.double().numpy(), n_fft // 2, mode="reflect")
            frames = np.stack([padded[at : at + n_fft] for at in range(0, len(padded) - n_fft + 1, hop)])
            power = np.abs(np.fft.rfft(frames * window)) ** 2
            magnitudes.append(np.sqrt(np.maximum(power, 1e-7)))
        reference, estimate = magnitudes
        distances.append(
            np.linalg.norm(reference - estimate) / np.linalg.norm(reference)
            + np.abs(np.log(reference / estimate)).mean()
        )
    assert value(MultiResolutionSTFT(), pair_75) == pytest.approx(np.mean(distances), rel=1e-6)


def test_pesq_and_stoi_are_those_of_their_packages_at_16_khz(pair_75):
    reference, estimate = at_16_khz(pair_75)
    assert value(PESQ(), pair_75) == pesq.pesq(16000, reference, estimate, "wb")
    assert value(STOI(), pair_75) == pystoi.stoi(reference, estimate, 16000)


@pytest.mark.parametrize("metric_class", [LogMelL1, MultiResolutionSTFT, SISDR, PESQ, STOI, PeriodicityError])
def test_every_metric_prefers_75_codes_a_second_to_40(metric_class, pair_75, pair_40):
    better, worse = value(metric_class(), pair_75), value(metric_class(), pair_40)
    assert better < worse if metric_class.direction == "lower" else better > worse


@pytest.mark.parametrize(
    ("metric_class", "best"),
    [
        (FrameTone, 0),
        (Level, 0),
        (LogMelL1, 0),
        (MultiResolutionSTFT, 0),
        (PESQ, 4.644),
        (STOI, 1),
        (GrossPitchError, 0),
        (VoicingF1, 1),
        (F0Correlation, 1),
    ],
)
def test_a_clip_against_itself_gets_the_best_value(metric_class, best, pair_75):
    same = make(pair_75.reference, pair_75.reference, frame_rate=75.0)
    assert value(metric_class(), same) == pytest.approx(best, abs=1e-3)


HUM = sum(torch.sin(2 * torch.pi * 75 * k * torch.arange(48000) / 24000 + k * k) for k in range(1, 150))


@pytest.mark.parametrize("frame_rate", [75.0, 40.0, 12.5])
def test_a_tone_at_the_frame_rate_is_heard_at_any_frame_rate_and_no_other_tone_is(frame_rate, pair_75):
    clip = pair_75.reference
    at = torch.arange(len(clip)) / 24000 * frame_rate * 2 * torch.pi
    buzz = 0.002 * sum(torch.cos(k * at + k * k) for k in range(1, int(11000 / frame_rate)))
    # halfway between two multiples a tone counts as less than none
    other = 0.002 * sum(torch.cos((k + 0.5) * at + k * k) for k in range(1, int(11000 / frame_rate)))
    heard, less = (value(FrameTone(), make(clip, clip + added, frame_rate=frame_rate)) for added in (buzz, other))
    assert heard > 3
    assert less < -3
    changed = make(clip, 0.1 * clip.roll(100), frame_rate=frame_rate)
    assert abs(value(FrameTone(), changed)) < 0.5


def test_a_hum_counts_in_the_silence_of_a_recording_and_silence_has_none():
    assert value(FrameTone(), make(SILENCE, SILENCE, frame_rate=75.0)) == 0
    assert value(FrameTone(), make(SILENCE, 1e-3 * HUM[:24000], frame_rate=75.0)) > 30


def test_the_tone_is_the_median_over_the_multiples_of_their_power_over_that_halfway_between(pair_75):
    tones_db = []
    window = np.hanning(8193)[:-1]
    for clip in (pair_75.reference, pair_75.estimate):
        samples = clip.double().numpy()
        frames = [samples[start : start + 8192] for start in range(0, len(samples) - 8191, 2048)]
        power = np.mean([np.abs(np.fft.rfft(window * frame)) ** 2 for frame in frames], axis=0)
        power += 1e-10 * (window**2).sum()
        bins = [[round(75 * (k + share) * 8192 / 24000) for share in (0, 0.5)] for k in range(27, 134)]
        tones_db.append([10 * math.log10(power[at] / power[between]) for at, between in bins])
    expected = np.median(tones_db[1]) - np.median(tones_db[0])
    assert value(FrameTone(), make(pair_75.reference, pair_75.estimate, frame_rate=75.0)) == pytest.approx(expected)


def test_the_level_is_a_ratio_of_powers_and_that_of_silence_is_finite(pair_75):
    clip = pair_75.reference
    assert value(Level(), make(clip, 0.5 * clip)) == pytest.approx(20 * math.log10(0.5), abs=1e-3)
    assert value(Level(), make(clip, -2 * clip.roll(7))) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert -100 < value(Level(), make(clip, torch.zeros(len(clip)))) < -60


def test_a_long_clip_is_given_to_pesq_in_equal_parts_of_at_most_20_s():
    # more than 50 utterances, on which the package's C code would crash this process
    times = np.arange(24 * 16000)
    is_on = times % 6720 < 3360
    reference = (np.random.default_rng(0).normal(size=len(times)) * is_on * 0.2).astype(np.float32)
    estimate = reference + noise(len(times)).numpy() * 0.01
    halves = [slice(0, 12 * 16000), slice(12 * 16000, None)]
    expected = np.mean([pesq.pesq(16000, reference[half], estimate[half], "wb") for half in halves])
    assert value(PESQ(), make(reference, estimate, 16000)) == pytest.approx(expected)


SILENCE = torch.zeros(24000)
TONE = 0.3 * torch.sin(torch.arange(24000) / 10)


@pytest.mark.parametrize(
    ("metric", "pair", "reason"),
    [
        (LogMelL1(), make(TONE[:300], TONE[:300]), "got 300"),
        (MultiResolutionSTFT(), make(TONE[:1024], TONE[:1024]), "more than 1024 samples, got 1024"),
        (MultiResolutionSTFT(), make(SILENCE, TONE), "undefined for a silent reference"),
        (SISDR(), make(SILENCE, TONE), "silent reference"),
        (SISDR(), make(TONE, TONE), "infinite"),
        (Level(), make(SILENCE, TONE), "silent reference"),
        (FrameTone(), make(TONE, TONE), "frame rate, which is not known"),
        (FrameTone(), make(TONE[:7000], TONE[:7000], frame_rate=75.0), "8192 samples, 0.34 s, got 7000"),
        (FrameTone(), make(TONE, TONE, 4000, frame_rate=75.0), "no multiple of 75 Hz from 2000 to 1962.5 Hz"),
        (PESQ(), make(SILENCE, TONE), "undefined for silence"),
        (PESQ(), make(TONE, SILENCE), "undefined for silence"),
        (PESQ(), make(TONE[:2000], TONE[:2000]), "PESQ: Buffer needs to be at least 1/4 of a second long"),
        (STOI(), make(SILENCE, TONE), "silent reference"),
        (STOI(), make(TONE[:2400], TONE[:2400]), "STOI: Not enough STFT frames"),
        (VoicingF1(), make(SILENCE, SILENCE), "no frame is voiced"),
        (F0Correlation(), make(SILENCE, TONE), "fewer than 20 frames are voiced in both"),
        (CodebookUsage(), make(TONE, TONE), "without their codec"),
        (Bitrate(), make(TONE, TONE), "without their codec"),
        (EncodeRealTimeFactor(), make(TONE, TONE), "without their codec"),
    ],
)
def test_what_a_metric_does_not_define_is_refused_with_the_reason(metric, pair, reason):
    with pytest.raises(ValueError, match=reason):
        ready(metric).score(pair)


def test_a_missing_package_names_the_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("wavtokenizer_hf.evaluation.metric.importlib.import_module", absent)
    for metric in (PESQ(), STOI(), VoicingF1()):
        with pytest.raises(ImportError, match=r"No module named .*pip install 'wavtokenizer-hf\[eval\]'"):
            metric.prepare(torch.device("cpu"))


def test_codebook_usage_and_perplexity_are_of_all_clips_together():
    pairs = coded([0, 0, 1]), coded([1, 2, 7])
    shares = np.array([2, 2, 1, 1]) / 6
    assert value(CodebookUsage(), *pairs) == pytest.approx(100 * 4 / 8)
    assert value(CodebookUsage(), pairs[0]) == pytest.approx(100 * 2 / 8)
    assert value(CodebookPerplexity(), *pairs) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert value(CodebookPerplexity(), coded(list(range(8)))) == pytest.approx(8)


def test_rates_are_all_codes_over_all_seconds():
    pairs = coded([0] * 10, num_samples=240), coded([0] * 5, num_samples=480)  # 1 s and 2 s
    assert value(CodesPerSecond(), *pairs) == pytest.approx(5)
    assert value(Bitrate(), *pairs) == pytest.approx(5 * 3 / 1000)  # three bits each


def test_real_time_factors_are_all_computing_over_all_seconds():
    pairs = coded([0], encode_s=0.5, decode_s=0.1), coded([0], num_samples=720, encode_s=0.7, decode_s=0.3)
    assert value(EncodeRealTimeFactor(), *pairs) == pytest.approx(1.2 / 4)
    assert value(DecodeRealTimeFactor(), *pairs) == pytest.approx(0.4 / 4)


def test_a_pair_is_resampled_once_for_all_metrics(pair_75):
    assert pair_75.at(None)[0] is pair_75.at(24000)[0] is pair_75.reference
    assert pair_75.at(16000)[0] is pair_75.at(16000)[0]
    for resampled, expected in zip(pair_75.at(16000), at_16_khz(pair_75), strict=True):
        np.testing.assert_array_equal(resampled.numpy(), expected)


def test_every_metric_says_what_it_is():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.isidentifier()
        assert metric.meaning.endswith(".")
        assert metric.direction in ("higher", "lower", "zero", "neither")
        assert metric.label
    assert perceptual.PESQ().model is None


def test_by_default_all_metrics_are_asked_for_but_those_with_a_download_are_left_out():
    metrics, left_out = choose_metrics()
    assert [metric.name for metric in metrics] == [metric.name for metric in METRICS]
    assert set(left_out) == {"utmos", "wer", "speaker_similarity"}
    assert "facebook/wav2vec2-base-960h" in left_out["wer"]


def test_naming_a_model_or_a_metric_asks_for_it():
    metrics, left_out = choose_metrics(None, {"wer": "my/asr"})
    assert set(left_out) == {"utmos", "speaker_similarity"}
    assert next(metric.model for metric in metrics if metric.name == "wer") == "my/asr"
    metrics, left_out = choose_metrics(["stoi", "pesq_wb"], {"speaker_similarity": "my/speaker"})
    assert [metric.name for metric in metrics] == ["pesq_wb", "stoi", "speaker_similarity"]
    assert left_out == {}
    metrics, left_out = choose_metrics(["all"])
    assert (len(metrics), left_out) == (len(METRICS), {})


def test_an_unknown_metric_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"no metric is called 'pesq'; there are frame_tone_db, .*pesq_wb"):
        choose_metrics(["stoi", "pesq"])
