"""The feature extractor: every kind of recording becomes a right-padded mono batch, and bad ones are named."""

import json
import math
import sys

import numpy as np
import pytest
import soundfile
import torch
import transformers

from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.feature_extraction_wavtokenizer import read_audio


@pytest.fixture
def extractor() -> WavTokenizerFeatureExtractor:
    return WavTokenizerFeatureExtractor()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, 1000).astype(np.float32)


def test_one_clip_comes_back_unpadded_with_a_full_mask(extractor, noise):
    inputs = extractor(noise, return_tensors="pt")
    assert inputs["input_values"].shape == (1, 1, 1000)
    assert inputs["input_values"].dtype == torch.float32
    assert inputs["padding_mask"].shape == (1, 1000)
    assert inputs["padding_mask"].dtype == torch.int32
    assert inputs["padding_mask"].all()
    np.testing.assert_array_equal(inputs["input_values"][0, 0], noise)


@pytest.mark.parametrize("kind", ["numpy", "torch", "list", "tuple", "float64", "float16", "two_axes", "gradient"])
def test_every_kind_of_float_clip_gives_the_same_values(kind, extractor, noise):
    if kind == "float16":
        noise = noise.astype(np.float16).astype(np.float32)
    clip = {
        "numpy": lambda: noise,
        "torch": lambda: torch.from_numpy(noise),
        "list": lambda: noise.tolist(),
        "tuple": lambda: tuple(noise.tolist()),
        "float64": lambda: noise.astype(np.float64),
        "float16": lambda: torch.from_numpy(noise).half(),
        "two_axes": lambda: noise[None],
        "gradient": lambda: torch.from_numpy(noise).requires_grad_(),
    }[kind]()
    np.testing.assert_array_equal(extractor(clip)["input_values"], noise[None, None])


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int16, [-32768, 0, 16384], [-1, 0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.int8, [-128, 0, 64], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
        (np.uint16, [0, 32768, 49152], [-1, 0, 0.5]),
        (np.int64, [-(2**63), 0, 2**62], [-1, 0, 0.5]),
    ],
)
def test_integer_arrays_are_scaled_by_the_range_of_their_type(dtype, values, expected, extractor):
    clip = np.array(values, dtype=dtype)
    np.testing.assert_array_equal(extractor(clip)["input_values"][0, 0], np.float32(expected))
    if dtype != np.uint16:  # torch tensors of this type convert, but their arithmetic is incomplete
        np.testing.assert_array_equal(extractor(torch.from_numpy(clip))["input_values"][0, 0], np.float32(expected))


def test_lists_of_numbers_are_taken_as_they_are(extractor):
    np.testing.assert_array_equal(extractor([1, 0, -1])["input_values"], np.float32([[[1, 0, -1]]]))


def test_a_list_is_a_batch_padded_to_its_longest_clip(extractor, noise):
    inputs = extractor([noise[:300], torch.from_numpy(noise), noise[:1].tolist()], return_tensors="np")
    assert inputs["input_values"].shape == (3, 1, 1000)
    assert inputs["padding_mask"].sum(axis=1).tolist() == [300, 1000, 1]
    assert not inputs["input_values"][0, 0, 300:].any()
    np.testing.assert_array_equal(inputs["input_values"][1, 0], noise)


def test_a_list_of_lists_of_numbers_is_a_batch(extractor):
    inputs = extractor([[0.1, 0.2, 0.3], [0.4]])
    np.testing.assert_array_equal(inputs["input_values"], np.float32([[[0.1, 0.2, 0.3]], [[0.4, 0, 0]]]))


def test_three_axes_are_a_batch_and_two_are_one_clip_with_channels(extractor, noise):
    stereo = np.stack([noise, -noise * 0.5])
    assert extractor(stereo)["input_values"].shape == (1, 1, 1000)
    np.testing.assert_allclose(extractor(stereo)["input_values"][0, 0], noise * 0.25, atol=1e-7)
    batch = torch.from_numpy(np.stack([noise, -noise]))[:, None]
    np.testing.assert_array_equal(extractor(batch)["input_values"], batch)


def test_six_channels_are_averaged(extractor):
    channels = np.random.default_rng(1).standard_normal((6, 50)).astype(np.float32)
    expected = [math.fsum(float(channels[c, i]) for c in range(6)) / 6 for i in range(50)]
    np.testing.assert_allclose(extractor(channels)["input_values"][0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("rate", "suffix"), [(8000, ".wav"), (44100, ".flac"), (48000, ".ogg"), (22050, ".mp3")])
def test_a_path_brings_its_own_rate(rate, suffix, extractor, tmp_path):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / f"tone{suffix}"
    soundfile.write(path, np.stack([tone, tone], axis=1), rate)
    with pytest.raises(ValueError, match=f"Clip 0 is at {rate} Hz.*resample=True"):
        extractor(path)
    values = extractor(str(path), resample=True)["input_values"][0, 0]
    assert abs(values.shape[0] - 24000) <= 24000 // 20  # MP3 pads its frames
    spectrum = np.abs(np.fft.rfft(values[1200:22800] * np.hanning(21600)))
    assert abs(spectrum.argmax() * 24000 / 21600 - 440) < 2


def test_paths_and_arrays_mix_in_a_batch_each_at_its_own_rate(extractor, tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.full(16000, 0.25), 16000)
    inputs = extractor([path, np.full(4000, 0.25, np.float32)], sampling_rate=8000, resample=True)
    assert inputs["padding_mask"].sum(axis=1).tolist() == [24000, 12000]


@pytest.mark.parametrize("num_samples", [1, 2, 147, 1000])
def test_resampling_gives_the_documented_length(num_samples, extractor):
    clip = np.zeros(num_samples, np.float32)
    for rate in (8000, 16000, 44100, 96000):
        values = extractor(clip, sampling_rate=rate, resample=True)["input_values"]
        assert values.shape[-1] == math.ceil(num_samples * 24000 / rate)


def test_a_few_numbers_may_be_at_any_rate(extractor):
    few = extractor(np.zeros(3, dtype=np.float32), sampling_rate=7, resample=True)["input_values"]
    assert few.shape[-1] == -(-3 * extractor.sampling_rate // 7)


def test_rates_without_common_divisor_are_refused_before_memory_runs_out(extractor):
    with pytest.raises(ValueError, match=r"44101.*common rate"):
        extractor(np.zeros(10, np.float32), sampling_rate=44101, resample=True)


def test_the_peak_is_set_in_decibels_and_silence_stays_silence(noise):
    extractor = WavTokenizerFeatureExtractor(peak_db=-6.0)
    inputs = extractor([noise * 0.1, np.zeros(10, np.float32)])
    assert np.abs(inputs["input_values"][0]).max() == pytest.approx(10 ** (-6 / 20), rel=1e-6)
    assert not inputs["input_values"][1].any()


def test_truncation_and_padding_to_a_length(extractor, noise):
    cut = extractor([noise, noise[:10]], truncation=True, max_length=100)
    assert cut["input_values"].shape == (2, 1, 100)
    assert cut["padding_mask"].sum(axis=1).tolist() == [100, 10]
    padded = extractor(noise, padding="max_length", max_length=1500)
    assert padded["input_values"].shape == (1, 1, 1500)
    assert padded["padding_mask"].sum() == 1000
    both = extractor([noise, noise[:10]], padding="max_length", truncation=True, max_length=600)
    assert both["input_values"].shape == (2, 1, 600)
    with pytest.raises(ValueError, match=r"Clip 1 has 1000 samples.*truncation=True"):
        extractor([noise[:5], noise], padding="max_length", max_length=100)
    with pytest.raises(ValueError, match="need `max_length`"):
        extractor(noise, truncation=True)


def test_without_padding_clips_keep_their_lengths(extractor, noise):
    ragged = extractor([noise, noise[:10]], padding=False)
    assert [values.shape for values in ragged["input_values"]] == [(1, 1000), (1, 10)]
    with pytest.raises(ValueError, match="different lengths"):
        extractor([noise, noise[:10]], padding=False, return_tensors="pt")
    assert extractor([noise, noise], padding=False, return_tensors="pt")["input_values"].shape == (2, 1, 1000)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(0, np.float32), "Clip 1 is empty"),
        (np.zeros((2, 0), np.float32), "Clip 1 is empty"),
        ([], "Clip 1 is empty"),
        (np.float32([0, np.nan, 1]), "Clip 1 holds NaN or infinity, first at sample 1"),
        (np.float32([0, 1, -np.inf]), "Clip 1 holds NaN or infinity, first at sample 2"),
        (np.zeros((2, 2, 2), np.float32), "Clip 1: expected shape"),
        (np.zeros((1000, 2), np.float32), "Clip 1 has shape .*transpose"),
        (np.zeros(3, bool), "Clip 1: expected real numbers, got an array of bool"),
        (np.zeros(3, complex), "Clip 1: expected real numbers"),
        (["a", "b"], "Clip 1: expected a list of numbers"),
        ([[1.0, 2.0], [3.0]], "Clip 1: expected a list of numbers"),
        ({"array": [1.0]}, "Clip 1: expected a path"),
        (None, "Clip 1: expected a path"),
    ],
)
def test_a_bad_clip_is_refused_by_its_index(bad, message, extractor, noise):
    with pytest.raises(ValueError, match=message):
        extractor([noise, bad])


@pytest.mark.parametrize(
    ("bad", "message"), [(None, "Expected a path"), ([], "empty batch"), (3.0, "Expected a path")]
)
def test_what_is_no_audio_at_all_is_refused(bad, message, extractor):
    with pytest.raises(ValueError, match=message):
        extractor(bad)


def test_files_that_are_no_audio_are_refused_with_the_readable_formats(extractor, tmp_path):
    video = tmp_path / "film.mp4"
    video.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(200))
    with pytest.raises(ValueError, match=r"film\.mp4.*WAV, FLAC, OGG"):
        extractor(video)
    with pytest.raises(FileNotFoundError, match="absent"):
        extractor(tmp_path / "absent.wav")
    with pytest.raises(ValueError, match="got a folder"):
        read_audio(tmp_path)


@pytest.mark.parametrize(("package", "clip"), [("torchaudio", np.zeros(9, np.float32)), ("soundfile", "clip.wav")])
def test_a_missing_package_is_an_error_that_says_how_to_repair_it(package, clip, extractor, tmp_path, monkeypatch):
    (tmp_path / "clip.wav").write_bytes(b"RIFF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.functional", None)
    with pytest.raises(ImportError, match=rf"{package}.* is needed for .*pip install --force-reinstall .*{package}"):
        extractor(clip, sampling_rate=16000, resample=True)


def test_nothing_rests_on_the_padding_of_the_library(extractor, noise, monkeypatch):
    """transformers is to replace its feature extractors by audio processors, which pad otherwise."""
    monkeypatch.delattr(transformers.SequenceFeatureExtractor, "pad")
    monkeypatch.delattr(transformers.SequenceFeatureExtractor, "_pad")
    monkeypatch.delattr(transformers.SequenceFeatureExtractor, "_truncate")
    batch = extractor([noise, noise[:10]], truncation=True, max_length=500)
    assert batch["padding_mask"].sum(axis=-1).tolist() == [500, 10]


def test_left_padding_is_refused_at_construction_and_at_call(extractor, noise):
    with pytest.raises(ValueError, match="right only"):
        WavTokenizerFeatureExtractor(padding_side="left")
    extractor.padding_side = "left"
    with pytest.raises(ValueError, match="right only"):
        extractor(noise)


def test_the_number_of_codes_is_rounded_up(extractor):
    assert [extractor.get_num_audio_codes(n) for n in (0, 1, 600, 601, 24000)] == [0, 1, 1, 2, 40]
    with pytest.raises(ValueError, match="0 or more"):
        extractor.get_num_audio_codes(-1)


def test_the_file_holds_what_the_port_writes_and_our_field_only_where_it_is_set(tmp_path):
    WavTokenizerFeatureExtractor(hop_length=320).save_pretrained(tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "preprocessor_config.json").read_text())
    assert plain == {
        "feature_extractor_type": "WavTokenizerFeatureExtractor",
        "feature_size": 1,
        "hop_length": 320,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 24000,
    }
    WavTokenizerFeatureExtractor(hop_length=320, peak_db=-1.0).save_pretrained(tmp_path / "peak")
    peak = json.loads((tmp_path / "peak" / "preprocessor_config.json").read_text())
    assert peak == plain | {"normalize_audio": True, "target_peak_dB_FS": -1.0}
    assert WavTokenizerFeatureExtractor.from_pretrained(tmp_path / "peak").peak_db == -1.0
    assert WavTokenizerFeatureExtractor.from_pretrained(tmp_path / "plain").peak_db is None


def test_a_level_that_the_port_has_set_is_kept():
    """Apertus 1.5 brings every clip to -3 dB, under the port's own names for it."""
    assert WavTokenizerFeatureExtractor(normalize_audio=True).peak_db == -3.0
    assert WavTokenizerFeatureExtractor(normalize_audio=True, target_peak_dB_FS=-6.0).peak_db == -6.0
    assert WavTokenizerFeatureExtractor(normalize_audio=False, target_peak_dB_FS=-6.0).peak_db is None
    again = WavTokenizerFeatureExtractor(normalize_audio=True, target_peak_dB_FS=-6.0).to_dict()
    assert (again["normalize_audio"], again["target_peak_dB_FS"]) == (True, -6.0)


@pytest.mark.skipif(not hasattr(transformers, "WavTokenizerFeatureExtractor"), reason="transformers has no port")
@pytest.mark.parametrize("peak_db", [None, -6.0])
def test_the_feature_extractor_of_transformers_makes_the_same_of_a_file_of_ours(tmp_path, peak_db):
    ours = WavTokenizerFeatureExtractor(hop_length=320, peak_db=peak_db)
    ours.save_pretrained(tmp_path)
    theirs = transformers.WavTokenizerFeatureExtractor.from_pretrained(tmp_path)
    clip = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    expected = theirs(clip, sampling_rate=24000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ours(clip, return_tensors="np")["input_values"], expected, rtol=1e-6)


def test_a_stereo_feature_size_is_refused():
    with pytest.raises(ValueError, match="mono codec"):
        WavTokenizerFeatureExtractor(feature_size=2)
