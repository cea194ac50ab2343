"""What sources of clips hold, and which samples of a recording a clip is."""

import json
import sys

import numpy as np
import pytest
import soundfile

from wavtokenizer_hf.training.clips import Clip, clip_weights, find_clips

RATE = 8000


def ramp(num_samples: int) -> np.ndarray:
    """Samples that tell their own place."""
    return np.arange(num_samples, dtype=np.float32) / 32768


@pytest.fixture
def recording(tmp_path):
    """Two seconds whose sample n is n / 32768."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, ramp(2 * RATE), RATE, subtype="PCM_16")
    return path


def places(clip: Clip, *args) -> tuple[int, int]:
    """The first and the last sample of the recording that are read."""
    samples, rate = clip.read(*args)
    assert (samples.shape[0], samples.dtype, rate) == (1, np.float32, RATE)
    steps = samples[0] * 32768
    np.testing.assert_array_equal(np.diff(steps), 1)
    return int(steps[0]), int(steps[-1])


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [(0.0, None, (0, 15999)), (0.5, 1.25, (4000, 9999)), (1.5, None, (12000, 15999)), (1.5, 9.0, (12000, 15999))],
)
def test_a_clip_is_the_part_between_its_bounds_or_up_to_the_end(recording, start_s, end_s, expected):
    assert places(Clip("ramp", recording, start_s, end_s)) == expected


@pytest.mark.parametrize(
    ("position", "expected"), [(0.0, (4000, 5999)), (0.5, (6000, 7999)), (np.nextafter(1, 0), (8000, 9999))]
)
def test_a_section_lies_in_its_clip_from_the_start_to_the_end(recording, position, expected):
    assert places(Clip("ramp", recording, 0.5, 1.25), 0.25, position) == expected


def test_a_clip_that_is_not_longer_than_the_section_is_read_whole(recording):
    assert places(Clip("ramp", recording), 2.0, 0.9) == (0, 15999)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
def test_a_section_of_a_compressed_file_is_that_of_the_whole(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).normal(0, 0.1, (60_000, 2))
    soundfile.write(path, noise, 24000)
    whole, _ = Clip("a", path).read()
    section, _ = Clip("a", path, 0.5, 2.0).read(0.5, 0.5)
    assert section.shape == (2, 12_000)
    np.testing.assert_allclose(section, whole[:, 24_000:36_000], atol=1e-6)


def test_a_clip_that_begins_after_its_recording_is_an_error(recording):
    with pytest.raises(ValueError, match=r"ends at 2 s"):
        Clip("ramp", recording, 2.0).read()


def test_a_folder_gives_its_files_with_the_topmost_folder_that_they_lie_in(recording):
    for name in ("speech/deep/b.wav", "music/a.wav"):
        target = recording.parent / name
        target.parent.mkdir(parents=True)
        target.write_bytes(recording.read_bytes())
    clips = find_clips(recording.parent)
    found = {str(clip.source.relative_to(recording.parent)): clip.columns["folder"] for clip in clips}
    assert found == {"ramp.wav": "", "music/a.wav": "music", "speech/deep/b.wav": "speech"}


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
def test_a_manifest_gives_bounds_rates_weights_and_its_other_columns(form, tmp_path):
    rows = [
        {"path": "a/x.wav", "start": 0.5, "end": 1.5, "orig_sr": 16000, "weight": 0.25, "kind": "speech"},
        {"path": "y.wav", "start": "", "end": "", "orig_sr": "", "weight": "", "kind": "music"},
    ]
    manifest = tmp_path / f"list.{form}"
    if form == "tsv":
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    manifest.write_text("\n".join(lines))
    first, second = find_clips(manifest)
    assert (first.source, second.source) == (tmp_path / "a/x.wav", tmp_path / "y.wav")
    assert (first.start_s, first.end_s, first.origin_rate, first.weight) == (0.5, 1.5, 16000, 0.25)
    assert (second.start_s, second.end_s, second.origin_rate, second.weight) == (0.0, None, None, 1.0)
    assert [clip.columns["kind"] for clip in (first, second)] == ["speech", "music"]


@pytest.mark.parametrize(("column", "value"), [("orig_sr", "16k"), ("weight", "-1"), ("origin_rate", "nan")])
def test_a_column_of_numbers_with_something_else_is_an_error_that_names_the_clip(column, value, tmp_path):
    (tmp_path / "list.tsv").write_text(f"path\t{column}\nx.wav\t{value}\n")
    with pytest.raises(ValueError, match=rf"x\.wav: {column} must be a number.*{value}"):
        find_clips(tmp_path / "list.tsv")


def test_a_manifest_without_a_column_of_files_is_an_error_with_the_columns_that_it_has(tmp_path):
    (tmp_path / "list.tsv").write_text("wave\tkind\nx.wav\tspeech\n")
    with pytest.raises(ValueError, match=r"list\.tsv: line 2: .*file or path or audio_filepath, found wave, kind"):
        find_clips(tmp_path / "list.tsv")


def test_several_sources_come_one_after_the_other(recording, tmp_path):
    manifest = tmp_path / "list.tsv"
    manifest.write_text("path\nelsewhere.wav\n")
    clips = find_clips([manifest, str(recording)])
    assert [clip.source.name for clip in clips] == ["elsewhere.wav", "ramp.wav"]


def test_no_sources_are_an_error():
    with pytest.raises(ValueError, match="hold no clip"):
        find_clips([])


def test_weights_multiply_the_clips_own_by_factors_of_columns():
    clips = [
        Clip("a", "a", weight=2.0, columns={"kind": "speech", "orig_sr": "16000"}),
        Clip("b", "b", columns={"kind": "speech", "orig_sr": "24000"}),
        Clip("c", "c", columns={"kind": "music"}),
    ]
    assert clip_weights(clips).tolist() == [2, 1, 1]
    assert clip_weights(clips, {"kind": {"speech": 3}, "orig_sr": {16000: 0.5}}).tolist() == [3, 3, 1]


@pytest.mark.parametrize(
    ("by_column", "message"),
    [
        ({"kind": {"sound": 2.0}}, "no clip has kind = sound; found music, speech"),
        ({"colour": {"red": 2.0}}, "no clip has colour = red; found no such column"),
        ({"kind": {"speech": 0, "music": 0}}, "above 0"),
        ({"kind": {"speech": -1}}, "0 or more"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(by_column, message):
    clips = [Clip("a", "a", columns={"kind": "speech"}), Clip("b", "b", columns={"kind": "music"})]
    with pytest.raises(ValueError, match=message):
        clip_weights(clips, by_column)


@pytest.fixture
def hub_dataset(recording):
    """Two rows as the Hub has them: one with its bytes, one with a path."""
    datasets = pytest.importorskip("datasets")
    audio = [{"bytes": recording.read_bytes(), "path": None}, {"bytes": None, "path": str(recording)}]
    columns = {"audio": audio, "kind": ["speech", None], "orig_sr": [16000, 48000], "words": [["a"], ["b"]]}
    return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(sampling_rate=16000))


def test_a_hugging_face_dataset_gives_undecoded_rows_with_their_plain_columns(hub_dataset):
    clips = find_clips(hub_dataset.with_format("numpy"))
    assert [places(clip, 0.5, 0.0) for clip in clips] == [(0, 3999), (0, 3999)]
    assert [clip.name for clip in clips] == ["Dataset[0]", "Dataset[1]"]
    assert [clip.origin_rate for clip in clips] == [16000, 48000]
    assert clips[0].columns == {"kind": "speech", "orig_sr": "16000"}
    assert clips[1].columns == {"orig_sr": "48000"}


def test_a_saved_dataset_is_a_source_and_one_of_several_splits_is_asked_for(hub_dataset, tmp_path):
    import datasets

    datasets.DatasetDict({"train": hub_dataset}).save_to_disk(tmp_path / "saved")
    clips = find_clips(tmp_path / "saved" / "train")
    assert [places(clip) for clip in clips] == [(0, 15999), (0, 15999)]
    with pytest.raises(ValueError, match="name the folder of one of them"):
        find_clips(tmp_path / "saved")


def test_what_is_no_dataset_for_this_is_refused(hub_dataset):
    with pytest.raises(ValueError, match="map-style Hugging Face dataset, got IterableDataset"):
        find_clips(hub_dataset.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"one column of the type Audio, found 0 among \['kind'"):
        find_clips(hub_dataset.remove_columns("audio"))
    with pytest.raises(ValueError, match="expected a path"):
        find_clips([7])


def test_a_dataset_without_its_package_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"wavtokenizer-hf\[train\]"):
        find_clips(tmp_path)
