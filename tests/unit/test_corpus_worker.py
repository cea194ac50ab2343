"""From shards of clips to shards of codes."""

import os

import numpy as np
import pytest
import soundfile
import torch

from tests.tiny import tiny_model
from tests.tiny_corpus import FEATURE_EXTRACTOR, codes_alone, noise, plan_for, tiny_codec, write_recordings
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.corpus import worker as worker_module
from wavtokenizer_hf.corpus.plan import Settings
from wavtokenizer_hf.corpus.reader import Failure
from wavtokenizer_hf.corpus.source import find_source
from wavtokenizer_hf.corpus.worker import EncodedClip, Resources, Worker, batch_samples, encode_together

# At 4 filters of 4 bytes and 4 values for each: 64 bytes a sample.
BYTES_PER_SAMPLE = 64


def memory_for(num_samples: int) -> float:
    return num_samples * BYTES_PER_SAMPLE / 1e9


def encode(folder, out, memory_gb: float | None = None, **settings):
    """Results of all shards, and what the worker told of on the way."""
    source = find_source(folder)
    plan = plan_for(out, source, **settings)
    told = []
    worker = Worker(
        tiny_codec(),
        source,
        Settings(**settings),
        Resources(memory_gb=memory_gb),
        on_clips=lambda *numbers: told.append(numbers),
    )
    return list(worker.encode(plan.shard(index) for index in range(plan.num_shards))), told


@pytest.mark.parametrize("memory_gb", [None, memory_for(10_000), memory_for(3_000), memory_for(1)])
def test_each_clip_gets_the_codes_that_it_gets_alone_whatever_the_budget(tmp_path, memory_gb):
    write_recordings(tmp_path / "in", 9)
    soundfile.write(tmp_path / "in" / "one_sample.wav", np.array([0.5]), 24000)
    results, _ = encode(tmp_path / "in", tmp_path / "out", memory_gb, shard_clips=4)
    assert [len(result.outcomes) for result in results] == [4, 4, 2]
    for result in results:
        for clip, outcome in zip(result.shard.clips, result.outcomes, strict=True):
            assert outcome.codes.tolist() == codes_alone(clip.path)
            assert outcome.num_samples == FEATURE_EXTRACTOR(clip.path, resample=True)["input_values"].shape[-1]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_whatever_is_under_way_at_once_changes_nothing_and_leaves_all_as_it_was(tmp_path, num_threads):
    write_recordings(tmp_path / "in", 9)
    source, model = find_source(tmp_path / "in"), tiny_model()
    plan = plan_for(tmp_path / "out", source, model, shard_clips=4)
    weights, environment, before = model.state_dict(), dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        resources = Resources(memory_gb=memory_for(3000))
        worker = Worker(tiny_codec(model), source, Settings(shard_clips=4), resources)
        results = list(worker.encode(plan.shard(index) for index in range(plan.num_shards)))
        worker.close()
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    for result in results:
        for clip, outcome in zip(result.shard.clips, result.outcomes, strict=True):
            assert outcome.codes.tolist() == codes_alone(clip.path)
    assert not model.is_fused
    assert model.state_dict().keys() == weights.keys()
    assert dict(os.environ) == environment
    model.save_pretrained(tmp_path / "saved")


def test_failures_stand_at_their_places_and_are_told(tmp_path):
    (tmp_path / "in").mkdir()
    for index, name in enumerate("abcd"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", noise(800, seed=index), 24000)
    (tmp_path / "in" / "b.wav").write_text("broken")
    soundfile.write(tmp_path / "in" / "c.wav", np.zeros(800), 24000)
    (result,), told = encode(tmp_path / "in", tmp_path / "out")
    kinds = [outcome.kind if isinstance(outcome, Failure) else None for outcome in result.outcomes]
    assert kinds == [None, "unreadable", "silent", None]
    assert [sum(numbers) for numbers in zip(*told, strict=True)] == [4, 1600, 2]


def test_a_batch_holds_no_more_samples_than_its_budget(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for index, length in enumerate([900, 1000, 100, 950, 120, 80, 60, 2001]):
        soundfile.write(tmp_path / "in" / f"{index}.wav", noise(length, seed=index), 24000)
    sizes = []
    monkeypatch.setattr(
        worker_module,
        "encode_together",
        lambda codec, clips: sizes.append([len(clip) for clip in clips]) or encode_together(codec, clips),
    )
    encode(tmp_path / "in", tmp_path / "out", memory_for(2000))
    assert sizes == [[1000, 950], [900, 120], [100, 80, 60]]  # and the longest one by itself, in pieces


def test_where_memory_is_short_a_batch_is_halved(tmp_path, monkeypatch):
    write_recordings(tmp_path / "in", 9)

    def needs_memory(codec, clips):
        if len(clips) > 2 or len(clips[0]) > 9000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_together(codec, clips)

    monkeypatch.setattr(worker_module, "encode_together", needs_memory)
    (result,), _ = encode(tmp_path / "in", tmp_path / "out")
    assert sum(isinstance(outcome, Failure) for outcome in result.outcomes) == 1
    for clip, outcome in zip(result.shard.clips, result.outcomes, strict=True):
        alone = codes_alone(clip.path)
        if len(alone) > 9000 / 80:
            assert outcome == Failure("out of memory", "there was not enough memory to encode it")
        else:
            assert outcome.codes.tolist() == alone


def test_clips_of_one_length_are_encoded_without_a_mask():
    model = tiny_model()
    masks = []
    encode_with = model.encode
    model.encode = lambda values, mask=None: masks.append(mask) or encode_with(values, mask)
    clips = [noise(length, seed=length)[:, 0].astype(np.float32) for length in (400, 400, 300)]
    encode_together(tiny_codec(model), clips[:2])
    encoded = encode_together(tiny_codec(model), clips[1:])
    assert masks[0] is None
    assert masks[1].sum(dim=-1).tolist() == [400, 300]
    assert [(len(clip.codes), clip.num_samples) for clip in encoded] == [(5, 400), (4, 300)]


def test_the_budget_follows_filters_number_format_and_device():
    model = tiny_model()
    assert batch_samples(tiny_codec(model), memory_for(1234)) == 1234
    assert batch_samples(codec_of(model.to(torch.bfloat16)), memory_for(1234)) == 2468
    assert batch_samples(tiny_codec(), None) == int(0.5e9 / BYTES_PER_SAMPLE)
    assert batch_samples(codec_of(tiny_model().to("meta")), None) == int(4e9 / BYTES_PER_SAMPLE)
    assert batch_samples(tiny_codec(tiny_model(num_filters=8)), memory_for(1234)) == 617


def test_an_encoded_clip_does_not_hold_its_whole_batch():
    clips = [noise(length)[:, 0].astype(np.float32) for length in (4000, 80)]
    short = encode_together(tiny_codec(), clips)[1]
    assert isinstance(short, EncodedClip)
    assert short.codes.base is None
