"""Finding and writing audio files. Reading is the feature extractor's, and tested with it."""

import sys
import wave

import numpy as np
import pytest
import soundfile

from wavtokenizer_hf.audio.files import find_files, read_audio, write_audio, write_audio_blocks

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000)


def tone(num_channels: int, sampling_rate: int, num_samples: int = 2000) -> np.ndarray:
    """A tone of another pitch in each channel, (C, T)."""
    seconds = np.arange(num_samples) / sampling_rate
    pitches = 220.0 * np.arange(1, num_channels + 1)
    return 0.5 * np.sin(2 * np.pi * pitches[:, None] * seconds).astype(np.float32)


def files_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("a.wav", None, 16),
        ("a.wav", "PCM_24", 24),
        ("a.flac", None, 16),
        ("a.flac", "PCM_24", 24),
        ("a.wav", "PCM_U8", 8),
    ],
)
def test_pcm_read_and_written_at_its_depth_is_bit_identical(tmp_path, name, subtype, bits):
    limit = 2 ** (bits - 1)
    steps = np.random.default_rng(0).integers(-limit, limit, (2, 5000))
    samples = np.concatenate([steps, [[-limit, limit - 1]] * 2], axis=1).astype(np.float32) / np.float32(limit)
    assert write_audio(tmp_path / name, samples, 24000, subtype=subtype) == 0
    restored, sampling_rate = read_audio(tmp_path / name)
    assert sampling_rate == 24000
    np.testing.assert_array_equal(restored, samples)


@pytest.mark.parametrize(("subtype", "dtype"), [("FLOAT", np.float32), ("DOUBLE", np.float64)])
def test_float_subtypes_keep_every_bit_and_values_beyond_full_scale(tmp_path, subtype, dtype):
    samples = np.random.default_rng(0).normal(0, 2, 1000).astype(dtype)
    assert write_audio(tmp_path / "a.wav", samples, 24000, subtype=subtype) == 0
    restored, _ = soundfile.read(tmp_path / "a.wav", dtype=str(np.dtype(dtype)))
    np.testing.assert_array_equal(restored, samples)


def test_wav_holds_the_nearest_16_bit_values_and_clips_what_is_beyond_full_scale(tmp_path):
    samples = np.array([0, 0.25, -0.25, 1.4 / 32768, 1.6 / 32768, 1.0, -1.0, 1.5, -7.0])
    assert write_audio(tmp_path / "a.wav", samples, 24000) == 2
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24000)
        stored = np.frombuffer(file.readframes(100), "<i2")
    assert stored.tolist() == [0, 8192, -8192, 1, 2, 32767, -32768, 32767, -32768]


@pytest.mark.parametrize(("name", "bound"), [("a.ogg", 0.05), ("a.mp3", 0.1)])
def test_lossy_formats_give_back_the_same_sound_of_the_same_length(tmp_path, name, bound):
    # Longer than the block in which samples are handed over, so that a seam would show.
    samples = tone(2, 24000, num_samples=150_000)
    write_audio(tmp_path / name, samples, 24000)
    restored, sampling_rate = read_audio(tmp_path / name)
    assert sampling_rate == 24000
    assert restored.shape == samples.shape
    error = np.linalg.norm(restored - samples) / np.linalg.norm(samples)
    assert error < bound


@pytest.mark.parametrize("num_channels", [1, 2, 6])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_every_rate_and_channel_count_comes_back(tmp_path, name, num_channels):
    for sampling_rate in RATES:
        samples = tone(num_channels, sampling_rate)
        write_audio(tmp_path / name, samples, sampling_rate)
        restored, rate = read_audio(tmp_path / name)
        assert rate == sampling_rate
        assert restored.shape == samples.shape
        assert restored.dtype == np.float32


def test_one_dimension_is_one_channel(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1, 24000)[0], 24000)
    assert read_audio(tmp_path / "a.wav")[0].shape == (1, 2000)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_blocks_make_the_file_that_the_whole_clip_makes(tmp_path, name):
    samples = tone(2, 24000, 70_000)
    samples[:, 40_000:40_100] = 1.5
    (tmp_path / "whole").mkdir()
    num_clipped = write_audio(tmp_path / "whole" / name, samples, 24000)
    blocks = np.split(samples, [0, 1, 39_999, 40_050], axis=1)
    assert write_audio_blocks(tmp_path / name, iter(blocks), 24000, num_channels=2) == num_clipped == 200
    np.testing.assert_array_equal(read_audio(tmp_path / name)[0], read_audio(tmp_path / "whole" / name)[0])


def test_blocks_that_fail_leave_the_earlier_file_whole_and_nothing_else(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1, 24000), 24000)
    before = (tmp_path / "a.wav").read_bytes()

    def blocks():
        yield tone(1, 24000)
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        write_audio_blocks(tmp_path / "a.wav", blocks(), 24000)
    with pytest.raises(ValueError, match=r"samples for .*a\.wav hold NaN or infinity"):
        write_audio_blocks(tmp_path / "a.wav", [tone(1, 24000), np.full((1, 3), np.nan)], 24000)
    assert files_in(tmp_path) == {"a.wav"}
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("name", ["a.m4a", "a", "a.mp4", "a.npz"])
def test_unknown_suffix_names_the_formats(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg, \.mp3"):
        write_audio(tmp_path / name, tone(1, 24000), 24000)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "floats"),
        (np.zeros((1, 1, 5), np.float32), "floats"),
        (np.zeros(5, np.int16), "int16"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, np.inf]), "infinity"),
    ],
)
def test_samples_that_are_no_sound_are_refused(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / "a.wav", samples, 24000)
    assert files_in(tmp_path) == set()


def test_a_subtype_that_the_format_lacks_is_refused_with_those_that_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"FLAC has no subtype 'FLOAT'.*PCM_16.*PCM_24"):
        write_audio(tmp_path / "a.flac", tone(1, 24000), 24000, subtype="FLOAT")


def test_a_rate_that_the_format_cannot_hold_is_an_error_that_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="MP3 cannot hold 1 channels at 96000 Hz"):
        write_audio(tmp_path / "a.mp3", tone(1, 96000), 96000)
    assert files_in(tmp_path) == set()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist"):
        write_audio(tmp_path / "nowhere" / "a.wav", tone(1, 24000), 24000)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_earlier_file_whole_and_nothing_else(tmp_path, monkeypatch, error):
    write_audio(tmp_path / "a.wav", tone(1, 24000), 24000)
    before = (tmp_path / "a.wav").read_bytes()

    def interrupted(self, data):
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "write", interrupted)
    with pytest.raises(error):
        write_audio(tmp_path / "a.wav", tone(2, 24000), 24000)
    assert files_in(tmp_path) == {"a.wav"}
    assert (tmp_path / "a.wav").read_bytes() == before


def test_missing_soundfile_says_how_to_repair_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="pip install --force-reinstall soundfile"):
        write_audio(tmp_path / "a.wav", tone(1, 24000), 24000)


@pytest.mark.parametrize("header", [b"\0\0\0\x20ftypisom" + bytes(100), b"\x1aE\xdf\xa3" + bytes(100), b"RIFF"])
def test_a_video_or_unknown_file_gets_an_error_that_names_the_formats(tmp_path, header):
    (tmp_path / "a.mp4").write_bytes(header)
    with pytest.raises(ValueError, match=r"a\.mp4.*WAV, FLAC, OGG.*MP3"):
        read_audio(tmp_path / "a.mp4")


@pytest.fixture
def collection(tmp_path):
    """Audio at three depths, with what a folder of recordings also holds."""
    for name in ("b.wav", "A.FLAC", "one/c.mp3", "one/two/d.ogg", "one/notes.txt", "._b.wav", ".git/e.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def relatives(found) -> list[str]:
    return [file.relative.as_posix() for file in found]


def test_a_folder_is_walked_to_the_bottom_without_hidden_and_foreign_files(collection):
    found = find_files([collection])
    assert relatives(found) == ["A.FLAC", "b.wav", "one/c.mp3", "one/two/d.ogg"]
    assert [file.path for file in found] == [collection / file.relative for file in found]


def test_a_pattern_is_laid_out_from_its_first_wildcard(collection):
    assert relatives(find_files([f"{collection}/*.wav"])) == ["b.wav"]
    assert relatives(find_files([f"{collection}/**/*.ogg"])) == ["one/two/d.ogg"]
    assert relatives(find_files([f"{collection}/one/t?o/*"])) == ["two/d.ogg"]


def test_a_relative_pattern_without_a_folder_works(collection, monkeypatch):
    monkeypatch.chdir(collection)
    assert relatives(find_files(["*.wav"])) == ["b.wav"]


def test_a_name_that_exists_is_no_pattern(tmp_path):
    (tmp_path / "take [1].wav").touch()
    (tmp_path / "take 1.wav").touch()
    assert relatives(find_files([tmp_path / "take [1].wav"])) == ["take [1].wav"]


def test_a_file_is_taken_whatever_it_is_called_and_whether_it_exists(tmp_path):
    assert relatives(find_files([tmp_path / "song.xyz", tmp_path / "gone.wav"])) == ["song.xyz", "gone.wav"]


def test_a_folder_or_pattern_without_audio_is_an_error(collection):
    with pytest.raises(FileNotFoundError, match=r"holds no file that ends in \.npz"):
        find_files([collection], (".npz",))
    with pytest.raises(FileNotFoundError, match=r"\*\.m4a holds no file that ends in \.wav"):
        find_files([f"{collection}/*.m4a"])
