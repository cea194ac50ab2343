"""The reader of recordings: parts are parts of the whole, ends are where sound ends, and reasons are true."""

import io
import os
import struct
import sys

import numpy as np
import pytest
import soundfile

from tests.recordings import FFMPEG_FORMATS, RATE, SOUNDFILE_FORMATS, cut, encoded, sound, suffix_of, without_info
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.audio_input import RecordingWarning, open_audio, read_audio, read_blocks, versions

FORMATS = [*SOUNDFILE_FORMATS, "bare_mp3", *FFMPEG_FORMATS]


def wav(samples: np.ndarray, rate: int = RATE, size: int | None = None, tail: bytes = b"") -> bytes:
    data = (samples * 32767).astype("<i2").tobytes()
    head = b"WAVEfmt " + struct.pack("<IHHIIHHH"[:-1], 16, 1, 1, rate, 2 * rate, 2, 16)
    body = head + b"data" + struct.pack("<I", len(data) if size is None else size) + data + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def read(content: bytes, **options) -> np.ndarray:
    return read_audio(io.BytesIO(content), name="a.x", **options)[0]


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("form", FORMATS)
def test_blocks_and_parts_are_those_of_the_whole_to_the_bit(form, num_channels):
    if form in FFMPEG_FORMATS:
        pytest.importorskip("av")
    if form in ("gsm", "g721") and num_channels > 1:
        pytest.skip("the format is mono")
    content = encoded(form, 6.0, num_channels)
    with open_audio(io.BytesIO(content)) as recording:
        whole = recording.read()
        num_samples = recording.num_samples
        assert whole.shape == (num_channels, num_samples)
        for size in (777, 1152, 50_000):
            np.testing.assert_array_equal(np.concatenate(list(recording.blocks(size)), axis=1), whole)
        for start in (1, 1151, 16_383, num_samples // 3, num_samples // 2 + 1, num_samples - 3000, num_samples - 1):
            np.testing.assert_array_equal(recording.read(start, start + 2000), whole[:, start : start + 2000])


@pytest.mark.parametrize("form", sorted(SOUNDFILE_FORMATS))
def test_the_whole_is_what_libsndfile_decodes(form):
    content = encoded(form, 2.0)
    expected = np.zeros(1, np.float32)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        expected = file.read(file.frames, dtype="float32", always_2d=True).T
    np.testing.assert_array_equal(read(content), expected)


@pytest.mark.parametrize("form", ["pcm16", "flac", "vorbis", "opus", "mp3", "slow_mp3"])
def test_a_part_of_a_long_recording_does_not_decode_the_rest(form, monkeypatch):
    content = encoded(form, 90.0)
    num_decoded = 0
    decode = soundfile.SoundFile.read

    def counted(self, *args, **options):
        nonlocal num_decoded
        samples = decode(self, *args, **options)
        num_decoded += len(samples)
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    samples, rate = read_audio(io.BytesIO(content), 80.0, 80.5)
    assert samples.shape[1] == rate // 2
    assert num_decoded < 6 * rate


@pytest.mark.parametrize("form", ["pcm16", "flac", "vorbis", "opus", "mp3", "bare_mp3"])
def test_files_that_were_put_behind_one_another_are_read_to_the_last(form):
    first, second = encoded(form, 1.0, seed=1), encoded(form, 0.7, seed=2)
    together = np.concatenate([read(first), read(second)], axis=1)
    if form == "bare_mp3":  # one stream, in which the second's first frames hear the first
        assert read(first + second).shape == together.shape
        return
    np.testing.assert_array_equal(read(first + second), together)
    with open_audio(io.BytesIO(first + second)) as recording:
        np.testing.assert_array_equal(recording.read(1000, recording.num_samples - 1000), together[:, 1000:-1000])


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "W64", "RF64", "NIST", "VOC", "IRCAM", "m4a"])
def test_files_behind_one_another_in_formats_that_end_with_the_first_are_refused(form):
    first = encoded(form, 0.5) if form == "m4a" else written(sound(0.5), RATE, form)
    assert read(first).shape[1] >= 12000
    with pytest.raises(ValueError, match=r"a\.x (begins anew in its middle|as audio)"):
        read(first + first)


def test_files_of_different_rates_behind_one_another_are_refused():
    with pytest.raises(ValueError, match=r"a\.x holds recordings of different kinds.*22050 Hz.*16000 Hz"):
        read(encoded("flac", 0.5) + written(sound(0.5, 16000), 16000, "FLAC"))


def written(samples: np.ndarray, rate: int, form: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=form, subtype=subtype)
    return content.getvalue()


def damaged_recordings() -> dict[str, bytes]:
    """What a whole reads through, and a decoder that jumps need not."""
    alac, flac = written(sound(1.0), RATE, "CAF", "ALAC_16"), encoded("flac", 1.0)
    middle = len(alac) // 2
    dump = written(sound(1.0), RATE, "SDS", "PCM_16")
    return {
        "ALAC with a hole of zeros": alac[:middle] + bytes(200) + alac[middle + 200 :],
        "ALAC with more in it": alac[:middle] + b"\x5a" * 30 + alac[middle:],
        "FLAC with a tail": flac + np.random.default_rng(0).bytes(5000),
        "a sample dump with a hole": dump[: len(dump) // 2] + bytes(512) + dump[len(dump) // 2 + 512 :],
    }


@pytest.mark.filterwarnings("ignore::wavtokenizer_hf.audio_input.RecordingWarning")
@pytest.mark.parametrize("name", damaged_recordings())
def test_a_part_of_what_is_damaged_is_that_of_the_whole_too(name):
    content = damaged_recordings()[name]
    with open_audio(io.BytesIO(content), allow_incomplete=True) as recording:
        whole = recording.read()
        for start in range(0, recording.num_samples, 3000):
            np.testing.assert_array_equal(recording.read(start, start + 3000), whole[:, start : start + 3000])


@pytest.mark.parametrize("form", ["vorbis", "opus", "flac", "mp3", "pcm16", "au"])
def test_a_recording_cut_in_its_first_bytes_is_an_error_that_names_it(form):
    content = encoded(form, 0.2)
    for length in range(1, 64):
        with pytest.raises(ValueError, match=r"a\.x"):
            read(content[:length])


def test_nothing_that_is_left_of_a_part_is_an_error():
    flac = encoded("flac", 1.0)
    with pytest.warns(RecordingWarning), pytest.raises(ValueError, match="no sample in this part"):
        read_audio(io.BytesIO(flac[:5000] + bytes(len(flac) - 7000) + flac[-2000:]), 0.5, 0.6, allow_incomplete=True)


def test_an_mp3_that_does_not_say_how_long_it_is_is_read_to_its_end():
    content = encoded("mp3", 8.0)
    expected = read(content)
    bare = read(without_info(content))
    # Nothing says how much silence its encoder put in front.
    np.testing.assert_array_equal(bare[:, 1105 : 1105 + expected.shape[1] - 2000], expected[:, :-2000])


@pytest.mark.parametrize("form", ["pcm16", "adpcm", "gsm", "flac", "vorbis", "mp3", "aiff", "au"])
def test_what_breaks_off_is_an_error_with_how_much_there_is_or_taken_with_a_warning(form):
    content = cut(encoded(form, 2.0))
    with pytest.raises(ValueError, match=r"a\.x is cut short or damaged: it .* after [01]\.\d+ (of 2\b|s\b)"):
        read(content)
    with pytest.warns(RecordingWarning, match=r"a\.x is cut short.*what is there is taken"):
        taken = read(content, allow_incomplete=True)
    whole = read(encoded(form, 2.0))
    assert 0.2 * whole.shape[1] < taken.shape[1] < 0.75 * whole.shape[1]
    np.testing.assert_array_equal(taken, whole[:, : taken.shape[1]])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_header_that_was_never_finished_is_read_to_the_end_with_a_warning(size):
    with pytest.warns(RecordingWarning, match=r"a\.x: its header was never finished"):
        samples = read(wav(sound(0.5)[:, 0], size=size))
    assert samples.shape == (1, 12000)


def test_what_lies_behind_the_end_is_said_unless_a_header_explains_it():
    tone = sound(0.5)[:, 0]
    with pytest.warns(RecordingWarning, match=r"a\.x: 5,000 bytes lie behind its end"):
        assert read(wav(tone, tail=b"\xf3\x01" * 2500)).shape == (1, 12000)
    chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert read(wav(tone, tail=chunk)).shape == (1, 12000)
    for form in ("mp3", "flac"):
        content = encoded(form, 0.5)
        np.testing.assert_array_equal(read(content + bytes(3000) + b"TAG" + bytes(125)), read(content))
        np.testing.assert_array_equal(read(b"ID3\x04\0\0\0\0\x08\0" + bytes(1024) + content), read(content))


def test_a_flac_that_goes_on_behind_what_its_header_names_is_read_on():
    content = bytearray(encoded("flac", 1.0))
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed - 11000).to_bytes(8, "big")
    with pytest.warns(RecordingWarning, match="goes on behind the 0.5"):
        np.testing.assert_array_equal(read(bytes(content)), read(encoded("flac", 1.0)))


def test_a_header_that_promises_more_than_bytes_can_hold_is_refused_before_memory_is_asked_for():
    content = bytearray(encoded("flac", 0.5))
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed | (1 << 36) - 1).to_bytes(8, "big")
    with pytest.raises(ValueError, match=r"68,719,476,735 samples, for which"):
        read(bytes(content))


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_rates_that_nobody_hears_are_refused(rate):
    with pytest.raises(ValueError, match=rf"a\.x: a sampling rate must.*got {rate}"):
        read(wav(sound(0.1)[:, 0], rate=rate))
    with pytest.raises(ValueError, match=f"got {rate}"):
        WavTokenizerFeatureExtractor()(np.zeros(60000, np.float32), sampling_rate=rate, resample=True)


def test_floats_far_above_full_scale_warn_wherever_they_come_from():
    loud = (20_000 * sound(0.1)[:, 0]).astype(np.float32)
    content = io.BytesIO()
    soundfile.write(content, loud, RATE, subtype="FLOAT", format="WAV")
    with pytest.warns(RecordingWarning, match=r"a\.x: samples reach [\d,]+ times full scale"):
        read(content.getvalue())
    with pytest.warns(RecordingWarning, match=r"Clip 0: samples reach [\d,]+ times full scale"):
        WavTokenizerFeatureExtractor()(loud)


def test_channels_that_cancel_each_other_out_warn():
    tone = sound(0.1)
    content = io.BytesIO()
    soundfile.write(content, np.concatenate([tone, -tone], axis=1), RATE, format="WAV")
    with pytest.warns(RecordingWarning, match=r"a\.x: its channels cancel each other out"):
        read(content.getvalue())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "got a pipe"),
        (os.mkdir, "got a folder"),
        (lambda path: os.symlink("/dev/zero", path), "got a device"),
        (lambda path: os.symlink(path, path), "a link that leads in a circle"),
        (lambda path: path.touch(), "its file holds nothing"),
        (lambda path: path.write_text("a letter\n" * 99), "Cannot read .*as audio"),
    ],
)
def test_what_is_no_recording_is_an_error_that_names_it_and_waits_for_nothing(make, reason, tmp_path):
    path = tmp_path / "a.wav"
    make(path)
    for call in (read_audio, lambda path: next(read_blocks(path))):
        with pytest.raises(ValueError, match=reason) as error:
            call(path)
        assert "a.wav" in str(error.value)


def test_an_mp3_that_libsndfile_mixes_up_with_a_mac_s_files_names_these(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read(encoded("mp3", 0.2))
    (tmp_path / ".AppleDouble").mkdir()
    with pytest.raises(
        ValueError, match=r"a\.x as audio \(libsndfile mixes it up with .*AppleDouble: work in another"
    ):
        read(encoded("mp3", 0.2))


def test_a_container_without_the_extra_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.x.*MP4.*wavtokenizer-hf\[audio\]"):
        read(b"\x00\x00\x00\x18ftypM4A " + bytes(200))


def test_a_container_without_sound_says_so():
    av = pytest.importorskip("av")
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    with pytest.raises(ValueError, match=r"a\.x holds no sound"):
        read(content.getvalue())


def test_a_part_without_a_sample_is_an_error_that_says_where_the_recording_ends():
    content = encoded("pcm16", 0.5)
    with pytest.raises(ValueError, match=r"a\.x ends at 0\.5 s, and the part begins at 0\.7 s"):
        read(content, start_s=0.7)
    assert read(content, start_s=0.25, end_s=9.0).shape == (1, 6000)


def test_the_versions_of_what_reads_and_resamples_are_named():
    named = versions()
    assert soundfile.__libsndfile_version__ in named["reader"]
    assert named["resampler"].startswith("torchaudio ")
    with open_audio(io.BytesIO(encoded("pcm16", 0.1))) as recording:
        assert recording.decoder in named["reader"]


def test_the_suffix_of_a_file_does_not_matter(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(encoded("mp3", 0.5))
    assert suffix_of("mp3") != path.suffix
    np.testing.assert_array_equal(read_audio(path)[0], read(encoded("mp3", 0.5)))
