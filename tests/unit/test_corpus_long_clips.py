"""Clips that are too long for a batch."""

import contextlib
import multiprocessing
import os
import signal

import numpy as np
import pytest
import soundfile
import torch

from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, HOP, codes_alone, noise, tiny_codec
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.corpus import long_clips, prefetch
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.long_clips import encode_long_clip
from wavtokenizer_hf.corpus.plan import Settings, Shard
from wavtokenizer_hf.corpus.reader import SILENCE, ClipReader, Failure, LongClip
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.corpus.worker import Resources, Worker

# Processes are forked here, because starting them anew takes seconds each.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def encode(path, bounds: dict[str, float] | None = None, block_s: float = 10.0, **options):
    reader = ClipReader(find_source(path), FEATURE_EXTRACTOR, long_samples=100, **options)
    (clip,) = reader.source.clips()
    clip = PlannedClip(**vars(clip) | (bounds or {}))
    found = reader.read(clip)
    assert isinstance(found, LongClip)
    return encode_long_clip(tiny_codec(), reader, clip, found, reader.read_blocks(clip, block_s))


@pytest.mark.parametrize(
    ("suffix", "rate", "num_channels"), [("wav", 24000, 1), ("flac", 16000, 2), ("ogg", 44100, 2), ("mp3", 22050, 1)]
)
def test_a_long_clip_gets_the_codes_that_it_gets_in_one_piece(tmp_path, suffix, rate, num_channels):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(int(0.9 * rate), num_channels), rate)
    codes, num_samples = encode(path, block_s=0.07)
    assert codes.tolist() == codes_alone(path)
    assert num_samples == FEATURE_EXTRACTOR(path, resample=True)["input_values"].shape[-1]


def test_a_long_part_is_what_lies_between_its_bounds(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    codes, num_samples = encode(tmp_path / "a.wav", {"start_s": 0.1, "end_s": 0.7})
    part = soundfile.read(tmp_path / "a.wav", dtype="float32")[0][1600:11200]
    assert codes.tolist() == codes_alone(part, sampling_rate=16000)
    assert num_samples == 0.6 * 24000


def test_a_long_clip_that_turns_out_to_be_damaged_is_a_failure(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(2 * 24000), 24000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    half = len(content) // 2
    content[half : half + 50] = bytes(50)
    (tmp_path / "a.flac").write_bytes(content)
    failure = encode(tmp_path / "a.flac")
    assert failure.kind == "unreadable"
    assert "a.flac is cut short or damaged: it cannot be decoded" in failure.reason


def test_a_long_clip_that_is_not_a_number_is_a_failure(tmp_path):
    samples = noise(24000)
    samples[20000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 24000, subtype="FLOAT")
    failure = encode(tmp_path / "a.wav")
    assert failure.kind == "unreadable"
    assert "NaN" in failure.reason


def test_long_silence_is_a_failure_unless_it_is_wanted(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((24000, 2)), 24000)
    assert encode(tmp_path / "a.wav") == SILENCE
    codes, _ = encode(tmp_path / "a.wav", keep_silent=True)
    assert codes.tolist() == codes_alone(tmp_path / "a.wav")


def test_a_lack_of_memory_is_the_clips_failure_and_a_broken_model_is_the_runs(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(24000), 24000)

    def fails(error):
        def encode_long(*arguments, **options):
            raise error

        return encode_long

    monkeypatch.setattr(long_clips, "encode_long", fails(torch.OutOfMemoryError("CUDA out of memory")))
    assert encode(tmp_path / "a.wav").kind == "out of memory"
    monkeypatch.setattr(long_clips, "encode_long", fails(RuntimeError("CUDA error: unspecified launch failure")))
    with pytest.raises(RuntimeError, match="launch failure"):
        encode(tmp_path / "a.wav")


def test_a_long_clip_that_its_reading_process_is_lost_to_is_a_failure_and_the_next_is_read(tmp_path, monkeypatch):
    """As an error in a decoder would do it, of which a long clip must not be able to end the run."""
    read_blocks = ClipReader.read_blocks

    def fatal(reader, clip, block_s):
        if clip.id == "b.wav":
            os.kill(os.getpid(), signal.SIGKILL)
        return read_blocks(reader, clip, block_s)

    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise(24000), 24000)
    monkeypatch.setattr(ClipReader, "read_blocks", fatal)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(prefetch.multiprocessing, "get_context", lambda method: fork)
    source = find_source(tmp_path)
    with contextlib.closing(
        Worker(tiny_codec(), source, Settings(), Resources(num_workers=1, memory_gb=1e-6))
    ) as worker:
        (result,) = worker.encode([Shard(0, list(source.clips()))])
    first, fatal_one, last = result.outcomes
    assert fatal_one == Failure("crashed", "the process that read it died")
    assert first.codes.tolist() == last.codes.tolist() == codes_alone(tmp_path / "a.wav")


def test_a_feature_extractor_that_sets_the_level_reads_every_clip_as_a_whole(tmp_path):
    """The level must be known before the first code."""
    soundfile.write(tmp_path / "a.wav", noise(24000), 24000)
    extractor = WavTokenizerFeatureExtractor(hop_length=HOP, peak_db=-3.0)
    source = find_source(tmp_path)
    worker = Worker(codec_of(tiny_model(), extractor), source, Settings(), Resources(memory_gb=1e-6))
    (clip,) = source.clips()
    (result,) = worker.encode([Shard(0, [clip])])
    inputs = extractor(clip.path, return_tensors="pt")
    with torch.inference_mode():
        expected = tiny_model().encode(inputs["input_values"]).audio_codes[0, 0]
    assert result.outcomes[0].codes.tolist() == expected.tolist()
