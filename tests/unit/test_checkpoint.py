"""Folders of a run's checkpoints: whole or not there, and read back as they were written."""

import dataclasses

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from tests.tiny import tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerCausalModel, WavTokenizerModel
from wavtokenizer_hf.training import checkpoint
from wavtokenizer_hf.training.checkpoint import (
    checkpoint_path,
    checkpoints,
    load_codec,
    load_discriminators,
    rotate,
    save_codec,
    save_discriminators,
    step_of,
)
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators

SMALL = DiscriminatorConfig(width=0.03125, periods=(2,), resolutions=(512,), use_multi_band=False)


def make(run, step):
    path = checkpoint_path(run, step)
    path.mkdir(parents=True)
    (path / "weights").write_text(str(step))
    return path


def test_checkpoints_are_listed_by_step_and_nothing_else_is(tmp_path):
    assert checkpoints(tmp_path) == []
    made = [make(tmp_path, step) for step in (2000, 5, 10)]
    for name in (".partial-step-00000020", "step-7", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoints(tmp_path) == [made[1], made[2], made[0]]
    assert [step_of(path) for path in checkpoints(tmp_path)] == [5, 10, 2000]
    with pytest.raises(ValueError, match="is not a run's checkpoint; those are named step-00001000"):
        step_of(tmp_path / "best")


def test_rotation_leaves_the_newest(tmp_path):
    made = [make(tmp_path, step) for step in (5, 10, 15)]
    rotate(tmp_path, 2)
    rotate(tmp_path, 5)
    assert sorted((tmp_path / "checkpoints").iterdir()) == made[1:]


def test_a_saved_codec_is_a_folder_for_the_auto_classes_and_comes_back_in_float32(tmp_path):
    model = tiny_model(sampling_rate=16000)
    save_codec(tmp_path, model)
    assert type(AutoModel.from_pretrained(tmp_path)) is WavTokenizerModel
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.sampling_rate, extractor.hop_length) == (16000, 80)
    save_codec(tmp_path / "half", tiny_model().to(torch.float16))
    assert {parameter.dtype for parameter in load_codec(str(tmp_path / "half")).parameters()} == {torch.float32}


def test_a_causal_codec_comes_back_as_one(tmp_path):
    save_codec(tmp_path, WavTokenizerCausalModel(tiny_causal_model().config))
    assert type(load_codec(str(tmp_path))) is WavTokenizerCausalModel


def test_discriminators_come_back_with_their_settings_and_weights(tmp_path):
    written = Discriminators(SMALL)
    save_discriminators(tmp_path, written)
    read = load_discriminators(tmp_path)
    assert read is not None
    assert dataclasses.asdict(read.config) == dataclasses.asdict(SMALL)
    assert written.state_dict().keys() == read.state_dict().keys()
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in written.state_dict().items())


def test_discriminators_that_the_conversion_kept_are_read_as_the_originals(tmp_path, monkeypatch):
    assert load_discriminators(tmp_path) is None
    path = tmp_path / checkpoint.DISCRIMINATORS
    checkpoint.save_file({"multiperioddisc.discriminators.0.convs.0.bias": torch.zeros(2)}, path)
    monkeypatch.setattr(checkpoint, "load_original_discriminators", lambda source: f"originals of {source}")
    assert load_discriminators(tmp_path) == f"originals of {path}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.ckpt", r"is a file.*wavtokenizer convert model\.ckpt FOLDER --keep-discriminators"),
        ("simvq-4k", r"simvq-4k is no codec's folder here.*wavtokenizer convert simvq-4k .* --keep-discriminators"),
        ("nano-57", r"nano-57 is no folder here, no owner/name on the Hub .* did you mean nano-75\?"),
        ("a/b/c", r"a/b/c is no codec's folder"),
        ("empty", r"empty is no codec's folder"),
        ("run", r"run is a run; name its 'best', or one of its checkpoints, as run/checkpoints/step-00000005"),
        ("other", "other holds a model of type 'encodec', expected a WavTokenizer"),
    ],
)
def test_what_is_no_codec_is_refused_with_the_way_out(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").touch()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "run", 5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "encodec"}')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_codec(name)
