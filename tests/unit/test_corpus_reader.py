"""Reading a planned clip, or telling why that cannot be done."""

import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny_corpus import FEATURE_EXTRACTOR, noise, write_recordings
from wavtokenizer_hf.audio_input import RecordingWarning
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, LongClip, ReadClip
from wavtokenizer_hf.corpus.source import find_source

RATE = 24000


def planned(folder: Path, name: str, **bounds: float) -> PlannedClip:
    (clip,) = (clip for clip in find_source(folder).clips() if clip.id == name)
    return PlannedClip(**vars(clip) | bounds)


def read(folder: Path, name: str, bounds: dict[str, float] | None = None, **options):
    return ClipReader(find_source(folder), FEATURE_EXTRACTOR, **options).read(planned(folder, name, **bounds or {}))


def write_wav(path: Path, samples: np.ndarray, subtype: str = "PCM_16", rate: int = RATE) -> None:
    soundfile.write(path, samples, rate, subtype=subtype)


def test_every_format_and_rate_is_read_as_the_feature_extractor_reads_it_alone(tmp_path):
    paths = write_recordings(tmp_path, 5)
    reader = ClipReader(find_source(tmp_path), FEATURE_EXTRACTOR)
    clips = list(reader.source.clips())
    assert len(clips) == len(paths) == 5
    for clip in clips:
        outcome = reader.read(clip)
        assert isinstance(outcome, ReadClip)
        alone = FEATURE_EXTRACTOR(clip.path, resample=True)["input_values"][0, 0]
        np.testing.assert_array_equal(outcome.samples, alone)


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.02), (0.01, 0.05), (0.03, None), (0.05, 0.15)])
def test_a_part_is_what_the_recording_holds_between_its_bounds(tmp_path, start_s, end_s):
    samples = noise(16000 // 10)[:, 0]
    write_wav(tmp_path / "a.wav", samples, rate=16000)
    outcome = read(tmp_path, "a.wav", {"start_s": start_s, "end_s": end_s})
    stored = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    part = stored[round(start_s * 16000) : None if end_s is None else round(end_s * 16000)]
    expected = FEATURE_EXTRACTOR(part, sampling_rate=16000, resample=True)["input_values"][0, 0]
    np.testing.assert_array_equal(outcome.samples, expected)


def broken(folder: Path, name: str) -> None:
    """Writes one of the things that go wrong."""
    path, content = folder / name, noise(24000)
    soundfile.write(folder / "whole.flac", content, RATE)
    soundfile.write(folder / "whole.mp3", content, RATE)
    if name == "nothing.wav":
        path.touch()
    elif name == "text.wav":
        path.write_text("a letter")
    elif name == "cut.flac":
        path.write_bytes((folder / "whole.flac").read_bytes()[:20000])
    elif name == "cut.mp3":
        path.write_bytes((folder / "whole.mp3").read_bytes()[:3000])
    elif name == "no_samples.wav":
        write_wav(path, np.zeros(0))
    elif name == "silent.wav":
        write_wav(path, np.array([0, 1, -1] * 100, dtype=np.int16))
    elif name == "not_a_number.wav":
        write_wav(path, np.full(100, np.nan), "FLOAT")
    elif name == "pipe.wav":
        os.mkfifo(path)
    elif name == "device.wav":
        path.symlink_to("/dev/zero")
    elif name == "gone.wav":
        path.symlink_to(folder / "nowhere")
    elif name == "long.wav":
        write_wav(path, np.ones(8000 * 2), rate=8000)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("nothing.wav", "empty", "holds nothing"),
        ("text.wav", "unreadable", "Cannot read text.wav as audio"),
        ("cut.flac", "unreadable", "cut.flac is cut short or damaged: it ends after 0."),
        ("cut.mp3", "unreadable", "cut.mp3 is cut short or damaged: it ends after 0."),
        ("no_samples.wav", "empty", "no sample"),
        ("silent.wav", "silent", "one step of 16 bits"),
        ("not_a_number.wav", "unreadable", "NaN or infinity"),
        ("pipe.wav", "not a file", "may never end"),
        ("device.wav", "not a file", "may never end"),
        ("gone.wav", "missing", "no such file: gone.wav"),
        ("long.wav", "too long", "lasts 0.000556 hours"),
    ],
)
def test_what_cannot_be_tokenised_is_a_failure_of_some_kind_with_a_reason(tmp_path, name, kind, reason):
    broken(tmp_path, name)
    failure = read(tmp_path, name, max_hours=1.9 / 3600)
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert reason in failure.reason
    assert str(tmp_path) not in failure.reason


def test_channels_that_cancel_each_other_out_are_not_called_silent(tmp_path):
    tone = noise(2400)
    write_wav(tmp_path / "a.wav", np.concatenate([tone, -tone], axis=1))
    with pytest.warns(RecordingWarning, match="a.wav: its channels cancel"):
        failure = read(tmp_path, "a.wav")
    assert failure.kind == "cancelled"
    assert "channels" in failure.reason


def test_what_breaks_off_is_taken_where_it_is_wanted(tmp_path):
    broken(tmp_path, "cut.mp3")
    with pytest.warns(RecordingWarning, match="cut.mp3 is cut short"):
        assert 0 < len(read(tmp_path, "cut.mp3", allow_incomplete=True).samples) < 24000


def test_silence_is_read_where_it_is_wanted(tmp_path):
    broken(tmp_path, "silent.wav")
    assert len(read(tmp_path, "silent.wav", keep_silent=True).samples) == 300


def test_one_step_more_than_silence_is_sound(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0, 2, 0], dtype=np.int16))
    assert isinstance(read(tmp_path, "a.wav"), ReadClip)


def test_one_sample_is_enough(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0.5]))
    assert read(tmp_path, "a.wav").samples.tolist() == [0.5]


def test_a_part_that_begins_after_the_end_is_empty(tmp_path):
    write_wav(tmp_path / "a.wav", noise(2400))
    failure = read(tmp_path, "a.wav", {"start_s": 0.2})
    assert (failure.kind, failure.reason) == ("empty", "a.wav ends at 0.1 s, and the part begins at 0.2 s")


def test_a_part_that_ends_past_the_end_is_a_failure_that_says_both(tmp_path):
    write_wav(tmp_path / "a.wav", noise(2400))
    failure = read(tmp_path, "a.wav", {"start_s": 0.05, "end_s": 0.3})
    assert failure == Failure("past the end", "the part ends at 0.3 s, and the recording at 0.1 s")


def test_a_header_that_promises_what_is_not_there_takes_no_memory(tmp_path):
    header = (
        b"RIFF\xff\xff\xff\xffWAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
        + b"data\xf0\xff\xff\xff"
    )
    (tmp_path / "a.wav").write_bytes(header + b"\x01\x02" * 100)
    with pytest.warns(RecordingWarning, match="header was never finished"):
        assert len(read(tmp_path, "a.wav").samples) == 100 * 24000 // 8000


def test_a_long_clip_is_left_to_be_read_in_pieces(tmp_path):
    write_wav(tmp_path / "a.wav", noise(1600), rate=16000)
    assert isinstance(read(tmp_path, "a.wav", long_samples=2400), ReadClip)
    assert read(tmp_path, "a.wav", long_samples=2399) == LongClip(16000, 1600)
    assert isinstance(read(tmp_path, "a.wav", {"end_s": 0.05}, long_samples=2399), ReadClip)
    assert read(tmp_path, "a.wav", long_samples=2399, max_hours=0.05 / 3600).kind == "too long"


def test_a_file_that_was_changed_since_it_was_planned_is_a_failure(tmp_path):
    write_wav(tmp_path / "a.wav", noise(100))
    clip = planned(tmp_path, "a.wav")
    os.utime(tmp_path / "a.wav", ns=(0, 0))
    assert ClipReader(find_source(tmp_path), FEATURE_EXTRACTOR).read(clip).kind == "changed"


@pytest.mark.parametrize("name", ["a.wav", "a.tar"])
def test_a_file_with_its_old_time_and_another_size_was_changed_too(tmp_path, name):
    write_wav(tmp_path / "a.wav", noise(100))
    if name == "a.tar":
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "a.wav", "a.wav")
    source = find_source(tmp_path / name)
    (clip,) = source.clips()
    assert isinstance(ClipReader(source, FEATURE_EXTRACTOR).read(clip), ReadClip)
    seen = os.stat(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + bytes(10))
    os.utime(tmp_path / name, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert ClipReader(source, FEATURE_EXTRACTOR).read(clip).kind == "changed"


def test_a_folder_that_is_gone_ends_the_run_instead_of_failing_every_clip(tmp_path):
    write_recordings(tmp_path / "disk", 1)
    reader = ClipReader(find_source(tmp_path / "disk"), FEATURE_EXTRACTOR)
    (clip,) = reader.source.clips()
    (tmp_path / "disk" / "first" / "00.wav").unlink()
    assert reader.read(clip).kind == "missing"
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"first is gone, and first/00.wav was there at the start"):
        reader.read(clip)


def test_a_problem_that_the_list_names_is_the_reason(tmp_path):
    reader = ClipReader(find_source(tmp_path), FEATURE_EXTRACTOR)
    assert reader.read(PlannedClip("a", "a", problem="torn")) == Failure("unreadable", "torn")


class Raising:
    """A source whose recordings fail to open."""

    name, identity = "raising", ""

    def __init__(self, error: BaseException):
        self.error = error

    def open(self, clip):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (TypeError("odd"), "unreadable", "TypeError: odd"),
        (OSError("disk\n error"), "unreadable", "disk error"),
        (ValueError("no <_io.BytesIO object at 0x7f1bc0>"), "unreadable", "no a"),
        (ValueError("a \ud800"), "unreadable", "a \\ud800"),
        (MemoryError(), "out of memory", "there was not enough memory to read it"),
    ],
)
def test_whatever_a_decoder_raises_is_the_clips_failure(error, kind, reason):
    reader = ClipReader(Raising(error), FEATURE_EXTRACTOR)
    assert reader.read(PlannedClip("a", "a")) == Failure(kind, reason)


@pytest.mark.parametrize("name", ["a\\u.wav", "\\g<9>.wav", "\\1.wav", os.fsdecode(b"\xff.wav")])
def test_a_broken_recording_of_any_name_is_its_own_failure_alone(tmp_path, name):
    (tmp_path / name).write_text("no audio\n")
    (clip,) = find_source(tmp_path).clips()
    outcome = ClipReader(find_source(tmp_path), FEATURE_EXTRACTOR).read(clip)
    assert outcome.kind == "unreadable"
    assert clip.source in outcome.reason


def test_a_missing_package_ends_the_run(tmp_path, monkeypatch):
    write_recordings(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="soundfile"):
        read(tmp_path, "first/00.wav")
