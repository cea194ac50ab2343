"""Folders go from here to the codec that transformers has of its own, since 5.24, and back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoFeatureExtractor, AutoModel

from tests.tiny import noise, tiny_causal_config, tiny_config, tiny_model
from tests.tiny_language import tiny_tokenizer
from wavtokenizer_hf import (
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    WavTokenizerProcessor,
)

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "WavTokenizerModel"), reason="this transformers has no codec of the name"
)

# Loads a folder as one does who has transformers alone, and saves it again.
IN_TRANSFORMERS = """
import sys
from pathlib import Path
import torch
from transformers import AutoFeatureExtractor, AutoModel, WavTokenizerEncoderModel
source, saved = map(Path, sys.argv[1:])
model, report = AutoModel.from_pretrained(source, output_loading_info=True)
assert not any(report.values()), report
with torch.no_grad():
    output = model.eval()(torch.load(source / "clip.pt"))
model.save_pretrained(saved)
AutoFeatureExtractor.from_pretrained(source).save_pretrained(saved)
WavTokenizerEncoderModel.from_pretrained(source).save_pretrained(saved / "encoder")
torch.save((type(model).__module__, output.audio_codes, output.audio_values), saved / "output.pt")
"""


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return noise(1, 1, 2000)


@pytest.fixture(scope="module")
def model() -> WavTokenizerModel:
    return tiny_model()


@pytest.fixture(scope="module")
def saved_there(model, clip, tmp_path_factory) -> Path:
    """What transformers made of a folder of ours, saved by it."""
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    model.save_pretrained(ours)
    WavTokenizerFeatureExtractor(hop_length=80, peak_db=-6.0).save_pretrained(ours)
    torch.save(clip, ours / "clip.pt")
    command = [sys.executable, "-c", IN_TRANSFORMERS, str(ours), str(theirs)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (theirs / "config_here.json").write_text((ours / "config.json").read_text())
    return theirs


def check(output, expected) -> None:
    assert torch.equal(output.audio_codes, expected.audio_codes)
    torch.testing.assert_close(output.audio_values, expected.audio_values, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_folder_saved_here_gives_the_same_there(model, clip, saved_there):
    module, audio_codes, audio_values = torch.load(saved_there / "output.pt")
    assert module.startswith("transformers.")
    check(transformers.utils.ModelOutput(audio_codes=audio_codes, audio_values=audio_values), model(clip))


@torch.no_grad()
def test_a_folder_saved_there_gives_the_same_here(model, clip, saved_there):
    loaded = AutoModel.from_pretrained(saved_there)
    assert type(loaded) is WavTokenizerModel
    expected = model(clip)
    check(loaded(clip), expected)
    assert AutoFeatureExtractor.from_pretrained(saved_there).peak_db == -6.0
    assert torch.equal(
        WavTokenizerEncoderModel.from_pretrained(saved_there).encode(clip).audio_codes, expected.audio_codes
    )
    decoded = WavTokenizerDecoderModel.from_pretrained(saved_there).decode(expected.audio_codes)
    torch.testing.assert_close(decoded.audio_values[..., :2000], expected.audio_values)


@torch.no_grad()
def test_an_encoder_saved_there_gives_the_same_here(model, clip, saved_there):
    """Its `model_type` is another one there, `wavtokenizer_encoder`."""
    loaded = WavTokenizerEncoderModel.from_pretrained(saved_there / "encoder")
    assert torch.equal(loaded.encode(clip).audio_codes, model(clip).audio_codes)


def test_both_write_the_same_configuration(saved_there):
    """But for what depends on who wrote it."""
    here, there = (json.loads((saved_there / name).read_text()) for name in ("config_here.json", "config.json"))
    assert here == there


def test_its_configuration_builds_our_models_and_ours_builds_its(model, clip):
    values = model.config.to_dict()
    del values["model_type"]
    theirs = transformers.WavTokenizerConfig(**values)
    for model_class, config in (
        (WavTokenizerModel, theirs),
        (WavTokenizerDecoderModel, theirs),
        (WavTokenizerEncoderModel, theirs.encoder_config),
    ):
        assert model_class(config).config.to_dict() == model.config.to_dict()
    built = transformers.WavTokenizerModel(tiny_config())
    built.load_state_dict(model.state_dict())
    check(built.eval()(clip), model(clip))


def test_what_its_model_cannot_compute_is_refused_with_words():
    with pytest.raises(ValueError, match="computes no causal codec"):
        transformers.WavTokenizerModel(tiny_causal_config())
    with pytest.raises(TypeError, match="Expected the configuration of a WavTokenizer, got one of type 'bert'"):
        WavTokenizerModel(transformers.BertConfig())


def test_its_model_in_our_processor_is_refused_with_the_class_to_take(model):
    theirs = transformers.WavTokenizerModel(tiny_config())
    with pytest.raises(TypeError, match=r"of transformers[.].*other codes than alone.*wavtokenizer_hf[.]WavTokenizer"):
        WavTokenizerProcessor(WavTokenizerFeatureExtractor(hop_length=80), tiny_tokenizer("qwen"), theirs)


@torch.no_grad()
def test_both_quantizers_have_the_same_calls(model, clip):
    theirs = transformers.WavTokenizerModel(tiny_config())
    theirs.load_state_dict(model.state_dict())
    encoded = model.encode(clip, output_latents=True)
    ours, other = model.encoder_model.quantizer, theirs.encoder_model.quantizer
    assert torch.equal(ours.encode(encoded.encoder_latents), other.encode(encoded.encoder_latents))
    assert torch.equal(ours.decode(encoded.audio_codes[:, 0]), other.decode(encoded.audio_codes[:, 0]))
