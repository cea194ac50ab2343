"""The causal codec: its configuration, loading, training, and the cost of its attention.

What it computes is in test_modules.py, that nothing looks ahead in tests/property/test_causality.py.
"""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

from tests.tiny import noise, tiny_causal_config, tiny_causal_model, tiny_model
from tests.unit.test_attention import LargestTensor, random_codes
from wavtokenizer_hf import (
    WavTokenizerCausalConfig,
    WavTokenizerCausalModel,
    WavTokenizerConfig,
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    fingerprint,
)
from wavtokenizer_hf.training.losses import mel_loss

HALVES = (WavTokenizerEncoderModel, WavTokenizerDecoderModel)


# ------------------------------------------------------------------------------------------------------- configuration


def test_the_causal_configuration_differs_in_few_fields_and_in_its_type():
    causal, other = WavTokenizerCausalConfig(), WavTokenizerConfig()
    differing = {key for key in causal.to_dict() if causal.to_dict()[key] != other.to_dict().get(key)}
    assert differing == {"model_type", "use_causal_conv", "pad_mode", "attention_window"}
    assert causal.model_type == "wavtokenizer_causal"
    assert (causal.use_causal_conv, causal.pad_mode, causal.attention_window) == (True, "constant", 256)
    assert (causal.is_causal, other.is_causal) == (True, False)
    # Causal convolutions in the encoder alone are a setting of the other codec, as in the original.
    assert not WavTokenizerConfig(use_causal_conv=True, pad_mode="constant").is_causal


def test_the_weights_have_the_names_and_shapes_of_the_other_codec():
    with torch.device("meta"):
        causal = WavTokenizerModel(WavTokenizerCausalConfig()).state_dict()
        other = WavTokenizerModel(WavTokenizerConfig()).state_dict()
    assert {key: value.shape for key, value in causal.items()} == {key: value.shape for key, value in other.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pad_mode": "reflect"},
            "must have `use_causal_conv=True` and `pad_mode='constant'`, got True and 'reflect'",
        ),
        ({"use_causal_conv": False}, "got False and 'constant'"),
        ({"attention_window": 0}, "`attention_window` must be at least 1 frame or None, got 0"),
        ({"decoder_attention_num_groups": 16}, "must be less than `decoder_hidden_size`, got 16 for both"),
        ({"num_filters": 0}, "`num_filters` must be at least 1"),
    ],
)
def test_settings_that_would_look_ahead_or_make_no_sense_are_refused(changes, message):
    with pytest.raises(StrictDataclassError) as caught:
        tiny_causal_config(**changes)
    assert message in str(caught.value.__cause__ or caught.value)


def test_the_configuration_survives_a_save_and_a_load(tmp_path):
    for config in (tiny_causal_config(), tiny_causal_config(attention_window=None, bandwidth_id=2)):
        config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


# ----------------------------------------------------------------------------------------------------------- loading


@pytest.fixture
def model() -> WavTokenizerModel:
    return tiny_causal_model()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_every_auto_class_and_every_model_class_loads_a_causal_folder(model, folder):
    clip = noise(1, 1, 2000)
    expected = model(clip)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "wavtokenizer_causal"
    assert type(AutoConfig.from_pretrained(folder)) is WavTokenizerCausalConfig
    assert type(WavTokenizerConfig.from_pretrained(folder)) is WavTokenizerCausalConfig
    assert type(WavTokenizerCausalConfig.from_pretrained(folder)) is WavTokenizerCausalConfig
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is WavTokenizerFeatureExtractor
    for auto_class in (AutoModel, AutoModelForAudioTokenization):
        assert type(auto_class.from_config(tiny_causal_config())) is WavTokenizerCausalModel
        assert type(auto_class.from_pretrained(folder)) is WavTokenizerCausalModel
    for load in (AutoModel, WavTokenizerModel, WavTokenizerCausalModel):
        loaded = load.from_pretrained(folder)
        assert loaded.config.to_dict() == AutoConfig.from_pretrained(folder).to_dict()
        output = loaded(clip)
        assert torch.equal(output.audio_codes, expected.audio_codes)
        assert torch.equal(output.audio_values, expected.audio_values)
    encoder, decoder = (half.from_pretrained(folder) for half in HALVES)
    assert torch.equal(encoder.encode(clip).audio_codes, expected.audio_codes)
    assert torch.equal(decoder.decode(expected.audio_codes).audio_values, model.decode(expected.audio_codes)[0])


@pytest.mark.parametrize("half_class", HALVES)
def test_a_half_of_a_causal_codec_saves_and_loads(folder, tmp_path, half_class):
    half = half_class.from_pretrained(folder)
    half.save_pretrained(tmp_path / "half")
    again = half_class.from_pretrained(tmp_path / "half")
    assert type(again.config) is WavTokenizerCausalConfig
    state = again.state_dict()
    assert all(torch.equal(state[key], value) for key, value in half.state_dict().items())
    with pytest.raises(ValueError, match=rf"Load it with {half_class.__name__}\.from_pretrained"):
        AutoModel.from_pretrained(tmp_path / "half")


def test_a_configuration_read_with_changes_has_them(folder):
    config = WavTokenizerConfig.from_pretrained(folder, attention_window=3)
    assert (type(config), config.attention_window) == (WavTokenizerCausalConfig, 3)
    assert WavTokenizerModel.from_pretrained(folder, attention_window=None).config.attention_window is None


def test_a_folder_of_the_other_codec_is_refused_as_a_causal_one(tiny_folder):
    with pytest.raises(StrictDataclassError) as caught:
        WavTokenizerCausalModel.from_pretrained(tiny_folder)
    assert "take a WavTokenizerConfig" in str(caught.value.__cause__ or caught.value)


@torch.no_grad()
def test_a_model_of_equal_weights_that_is_not_causal_has_another_fingerprint(model):
    other = tiny_model()
    other.load_state_dict(model.state_dict())
    assert fingerprint(model) != fingerprint(other)
    assert fingerprint(model) == fingerprint(model.encoder_model)
    # The decoder has no say in what the codes of a clip are.
    wider = WavTokenizerModel(tiny_causal_config(attention_window=None))
    wider.load_state_dict(model.state_dict())
    assert fingerprint(wider) == fingerprint(model)
    before, codes = fingerprint(model), model.encode(noise(1, 1, 2000)).audio_codes
    model.fuse()
    assert fingerprint(model) == before
    assert torch.equal(model.encode(noise(1, 1, 2000)).audio_codes, codes)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("window", [None, 8])
def test_a_reconstruction_has_gradients_in_every_parameter(window):
    model = tiny_causal_model(attention_window=window).train()
    mask = torch.arange(2000) < torch.tensor([[2000], [700]])
    model(noise(2, 1, 2000), mask).audio_values.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_few_steps_of_training_lower_the_mel_distance():
    model = tiny_causal_model().train()
    clip = noise(2, 1, 4000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = mel_loss(clip[:, 0], model(clip).audio_values[:, 0], model.config.sampling_rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# ------------------------------------------------------------------------------------------------ cost, number formats


@pytest.mark.parametrize("window", [None, 8])
@torch.no_grad()
def test_attention_needs_no_matrix_of_frames_by_frames(window):
    model, num_frames = tiny_causal_model(attention_window=window), 3000
    with LargestTensor() as mode:
        model.decode(random_codes(1, num_frames))
    assert mode.largest < num_frames * (4 * 80 + 2) * 1.1  # the frames of the inverse STFT
    model.set_attn_implementation("eager")
    with LargestTensor() as mode:
        model.decode(random_codes(1, num_frames))
    assert mode.largest >= num_frames**2


@torch.no_grad()
def test_half_precision_keeps_the_causal_codec_working():
    model = tiny_causal_model().to(torch.bfloat16)
    output = model(noise(2, 1, 2000))
    assert output.audio_values.dtype == torch.float32
    expected = tiny_causal_model().decode(output.audio_codes).audio_values[..., :2000]
    assert (output.audio_values - expected).square().mean() < 0.01 * expected.square().mean()
