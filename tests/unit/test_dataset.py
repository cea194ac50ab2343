"""Crops: what is in them, that they repeat, and what becomes of files that cannot be read."""

import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from wavtokenizer_hf.training.clips import Clip, find_clips
from wavtokenizer_hf.training.dataset import CropDataset, collate, crop_length, failure_report
from wavtokenizer_hf.training.sampler import Draw, EpochSampler

RATE = 8000
CROP = 4000


def write(path, seconds: float, rate: int = RATE, num_channels: int = 1, level: float = 0.1) -> Clip:
    generator = np.random.default_rng(abs(hash((round(seconds * 1000), rate))) % 2**32)
    samples = generator.uniform(-level, level, (int(seconds * rate), num_channels))
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return Clip(path.name, path)


def crops(clips, **options) -> CropDataset:
    return CropDataset(clips, **{"sampling_rate": RATE, "crop_samples": CROP, "seed": 3, "max_clip_s": 1.0} | options)


def samples_of(dataset: CropDataset, draw) -> np.ndarray:
    item = dataset[draw]
    assert item["input_values"].dtype == torch.float32
    assert item["input_values"].shape == (1, CROP)
    return item["input_values"][0].numpy()


def peak_db(samples: np.ndarray) -> float:
    return 20 * np.log10(np.abs(samples).max())


def write_ramp(path, seconds: float) -> Clip:
    """A recording whose samples rise evenly from 0, so that a crop tells where it was cut whatever its gain."""
    soundfile.write(path, np.linspace(0, 1, int(seconds * RATE)), RATE, subtype="FLOAT")
    return Clip(path.name, path)


def place_in_ramp(crop: np.ndarray) -> int:
    crop = crop.astype(np.float64)
    return round(crop[0] / (crop[-1] - crop[0]) * (len(crop) - 1))


@pytest.fixture
def clips(tmp_path):
    """Four recordings that are longer than a section, than a crop, and shorter than a crop."""
    return [write(tmp_path / f"{seconds}.wav", seconds) for seconds in (1.75, 0.8, 0.3, 0.6)]


def test_validation_takes_the_start_of_every_clip_with_its_section_at_minus_three_decibels(clips):
    dataset = crops(clips, is_training=False)
    for index, clip in enumerate(clips[:2]):
        (recording,), _ = clip.read()
        section = recording[:RATE]
        expected = section[:CROP] * (10 ** (-3 / 20) / np.abs(section).max())
        np.testing.assert_allclose(samples_of(dataset, index), expected, rtol=1e-5)
        np.testing.assert_array_equal(samples_of(dataset, Draw(5, index, 2)), samples_of(dataset, index))


def test_a_clip_that_is_shorter_than_a_crop_is_repeated_to_fill_it(clips):
    samples = samples_of(crops(clips), 2)
    length = int(0.3 * RATE)
    (recording,), _ = clips[2].read()
    np.testing.assert_allclose(samples[:length] / samples[0], recording / recording[0], rtol=1e-4)
    np.testing.assert_array_equal(samples, np.concatenate([samples[:length]] * 2)[:CROP])


def test_crops_of_training_lie_everywhere_in_a_clip(tmp_path):
    dataset = crops([write_ramp(tmp_path / "a.wav", 1.75)])
    places = [place_in_ramp(samples_of(dataset, (epoch, 0))) for epoch in range(60)]
    last = int(1.75 * RATE) - CROP
    assert 0 <= min(places) < 0.15 * last
    assert 0.85 * last < max(places) <= last
    assert len(set(places)) == 60


def test_the_peak_of_the_section_is_random_between_its_bounds(tmp_path):
    # As long as a crop, so that the peak of the section is that of the crop.
    dataset = crops([write(tmp_path / "a.wav", CROP / RATE)])
    peaks = [peak_db(samples_of(dataset, (epoch, 0))) for epoch in range(60)]
    assert -6.0 <= min(peaks) < -5.5
    assert -1.5 < max(peaks) <= -1.0


def test_the_level_is_set_by_the_loudest_sample_of_the_section_even_outside_the_crop(tmp_path):
    samples = np.full(RATE, 0.01)
    samples[-1] = 0.5
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    quiet = samples_of(crops([Clip("a", tmp_path / "a.wav")], is_training=False), 0)
    np.testing.assert_allclose(quiet, 0.01 / 0.5 * 10 ** (-3 / 20), rtol=1e-5)


def test_silence_stays_silent_and_noise_of_the_last_bit_quiet(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    write(tmp_path / "bit.wav", 1.0, level=1 / 32768)
    dataset = crops(find_clips(tmp_path))
    assert np.abs(samples_of(dataset, 1)).max() == 0
    assert 0 < np.abs(samples_of(dataset, 0)).max() < 0.01


@pytest.mark.parametrize(("rate", "num_channels"), [(RATE, 2), (16000, 1), (44100, 2)])
def test_channels_are_averaged_and_other_rates_resampled(rate, num_channels, tmp_path):
    seconds = np.arange(rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, 0.5 * tone][:num_channels], axis=1), rate)
    samples = samples_of(crops([Clip("a", tmp_path / "a.wav")], is_training=False), 0)
    expected = 10 ** (-3 / 20) * np.sin(2 * np.pi * 440 * np.arange(CROP) / RATE)
    np.testing.assert_allclose(samples[100:-100], expected[100:-100], atol=5e-3)


@pytest.mark.parametrize(
    ("file_rate", "origin_rate", "expected"),
    [(RATE, None, 4000), (6000, None, 3000), (16000, None, 4000), (RATE, 5000, 2500), (6000, 48000, 3000)],
)
def test_the_cutoff_is_half_the_lowest_rate_that_the_recording_went_through(
    file_rate, origin_rate, expected, tmp_path
):
    write(tmp_path / "a.wav", 1.0, file_rate)
    dataset = crops([Clip("a", tmp_path / "a.wav", origin_rate=origin_rate)], cache_mb=1)
    assert [dataset[0]["cutoff_hz"], dataset[0]["cutoff_hz"]] == [expected, expected]


def test_an_item_depends_on_seed_epoch_index_and_take_and_on_nothing_else(clips):
    draw = Draw(2, 0, 1)
    first = samples_of(crops(clips), draw)
    used = crops(clips)
    for index in range(4):
        samples_of(used, index)
    np.testing.assert_array_equal(samples_of(used, draw), first)
    others = [samples_of(crops(clips), other) for other in (Draw(3, 0, 1), Draw(2, 0, 0), Draw(2, 1, 1))]
    others.append(samples_of(crops(clips, seed=4), draw))
    assert all(not np.array_equal(other, first) for other in others)


@pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:.*will create 2 worker processes:UserWarning"
)
def test_persistent_workers_make_what_one_process_makes_in_every_epoch(clips):
    def batches(**options) -> list[torch.Tensor]:
        sampler = EpochSampler(4, 2, seed=3)
        loader = DataLoader(crops(clips), batch_sampler=sampler, collate_fn=collate, **options)
        made = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            made += [batch["input_values"] for batch in loader]
        return made

    alone = batches()
    shared = batches(num_workers=2, persistent_workers=True)
    assert len(alone) == 4
    assert torch.equal(torch.stack(alone), torch.stack(shared))
    assert not torch.equal(torch.stack(alone[:2]), torch.stack(alone[2:]))


def test_kept_clips_give_the_crops_of_the_first_reading_without_their_files(clips):
    dataset = crops(clips, cache_mb=1)
    draws = [Draw(epoch, index) for epoch in range(3) for index in range(4)]
    read = [samples_of(dataset, draw) for draw in draws]
    for clip in clips:
        clip.source.unlink()
    kept = [samples_of(dataset, draw) for draw in draws]
    np.testing.assert_array_equal(kept, read)


def test_16_bit_clips_at_the_right_rate_are_kept_without_loss(tmp_path):
    steps = np.random.default_rng(0).integers(-32768, 32767, RATE, dtype=np.int16, endpoint=True)
    steps[[5, 7]] = -32768, 32767
    soundfile.write(tmp_path / "a.wav", steps, RATE)
    exact, kept = (samples_of(crops(find_clips(tmp_path), cache_mb=size), Draw(1, 0)) for size in (0, 1))
    np.testing.assert_array_equal(kept, exact)


@pytest.mark.parametrize("level", [1.0, 3.0])
def test_other_clips_are_kept_to_16_bits_of_their_peak(level, tmp_path):
    samples = np.random.default_rng(0).uniform(-level, level, RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    clips = [Clip("a", tmp_path / "a.wav")]
    exact, kept = (samples_of(crops(clips, is_training=False, cache_mb=size), 0) for size in (0, 1))
    assert 0 < np.abs(kept - exact).max() <= 1.01 / 32768


def test_what_finds_no_room_is_read_again_and_gives_the_same(clips):
    full, roomy = crops(clips, cache_mb=0.01), crops(clips, cache_mb=1)  # room for one of the shorter clips
    for _ in range(2):
        for index in (3, 1, 0):
            np.testing.assert_array_equal(samples_of(full, index), samples_of(roomy, index))
    for clip in clips:
        clip.source.unlink()
    assert full[3]["failures"] == []
    assert len(full[1]["failures"]) >= 1


def test_a_recording_of_more_than_a_minute_is_read_by_sections_and_not_kept(tmp_path):
    clip = write_ramp(tmp_path / "a.wav", 90.0)
    dataset = crops([clip], cache_mb=10)
    places = [place_in_ramp(samples_of(dataset, (epoch, 0))) for epoch in range(20)]
    assert min(places) < 20 * RATE
    assert max(places) > 70 * RATE
    clip.source.unlink()
    with pytest.raises(RuntimeError, match="100 clips in a row"):
        dataset[0]


@pytest.fixture
def broken(tmp_path, clips):
    """The clips that work, and one of each kind that does not."""
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "headless.raw").write_bytes(bytes(100))
    (tmp_path / "cut.flac").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "odd.wav", np.zeros(100003), 100003)
    names = ("absent.wav", "text.wav", "headless.raw", "cut.flac", "empty.wav", "nan.wav", "odd.wav")
    late = Clip("late.wav", clips[0].source, start_s=100.0)
    return [*clips, *(Clip(name, tmp_path / name) for name in names), late]


@pytest.mark.parametrize("is_training", [True, False])
def test_a_clip_that_cannot_be_read_is_named_and_replaced_the_same_way_each_time(broken, is_training):
    for index in range(4, len(broken)):
        items = [crops(broken, is_training=is_training)[1, index] for _ in range(2)]
        assert broken[index].name in items[0]["failures"][0]
        assert items[0]["index"] < 4
        assert items[0]["failures"] == items[1]["failures"]
        assert torch.equal(items[0]["input_values"], items[1]["input_values"])


def test_a_replacement_is_drawn_by_weight(broken):
    weights = np.zeros(len(broken))
    weights[2] = 0.5
    dataset = crops(broken, weights=weights)
    assert {dataset[epoch, 5]["index"] for epoch in range(20)} == {2}


def test_nothing_but_failures_is_an_error_that_names_some(tmp_path):
    absent = [Clip(f"{name}.wav", tmp_path / f"{name}.wav") for name in "ab"]
    with pytest.raises(RuntimeError, match=r"100 clips in a row(?s:.*)No such audio file.*a\.wav"):
        crops(absent)[0]


def test_a_missing_package_is_no_broken_file(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="soundfile"):
        crops(clips)[0]


def test_a_batch_holds_the_crops_the_cutoffs_and_the_failures_of_all(broken):
    dataset = crops(broken)
    items = [dataset[0], dataset[4], dataset[5]]
    batch = collate(items)
    assert batch["input_values"].shape == (3, 1, CROP)
    assert torch.equal(batch["input_values"][1], items[1]["input_values"])
    assert batch["cutoff_hz"].tolist() == [4000.0] * 3
    assert batch["failures"] == [*items[1]["failures"], *items[2]["failures"]]
    assert len(batch["failures"]) >= 2


def test_the_report_of_failures_counts_the_most_frequent_first_and_stops_at_a_limit():
    report = failure_report(Counter({"a: bad": 2, "b: bad": 5, "c: bad": 1}), limit=2)
    assert report.splitlines()[1:] == ["  5x b: bad", "  2x a: bad", "  and 1 more"]
    assert report.startswith("3 clips could not be read")
    assert failure_report({}) == "every clip could be read"


@pytest.mark.parametrize(
    ("crop_s", "rate", "hop_length", "expected"),
    [(3.0, 24000, 320, 72000), (3.0, 24000, 600, 72000), (3.0, 22050, 256, 258 * 256), (0.001, 24000, 320, 320)],
)
def test_a_crop_is_a_whole_number_of_hops(crop_s, rate, hop_length, expected):
    assert crop_length(crop_s, rate, hop_length) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crop_samples": 0}, "from 1 to 8000"), ({"crop_samples": 8001}, "from 1 to 8000"), ({"clips": []}, "one clip")],
)
def test_what_makes_no_crops_is_refused(options, message, clips):
    with pytest.raises(ValueError, match=message):
        crops(**{"clips": clips} | options)
    with pytest.raises(ValueError, match="longer than 0 s"):
        crop_length(0.0, 24000, 320)
