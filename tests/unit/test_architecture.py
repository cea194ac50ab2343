import json
from pathlib import Path

import pytest
from conversion.architecture import build_config, check_yaml, expected_shapes, infer_settings
from conversion.errors import ConversionError, UsageError
from conversion.key_map import check_against, map_keys, to_original

from tests.original_checkpoint import original_shapes
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel

GOLDEN = Path(__file__).parent.parent / "golden"
ENCODER = "feature_extractor.encodec.encoder.model."


def infer(shapes, sampling_rate=None):
    return build_config(infer_settings(shapes, sampling_rate))


@pytest.mark.parametrize(("architecture", "ratios"), [("hop320", (8, 5, 4, 2)), ("hop600", (6, 5, 5, 4))])
def test_the_released_shapes_give_the_released_configuration(architecture, ratios):
    tensors = json.loads((GOLDEN / f"manifest_{architecture}.json").read_text())["tensors"]
    config = infer({name: tuple(spec["shape"]) for name, spec in tensors.items()})
    assert config.to_dict() == WavTokenizerConfig(upsampling_ratios=ratios).to_dict()


def test_every_size_is_read_off_the_shapes():
    shapes = original_shapes(ratios=(3, 4, 7), filters=6, latent=20, width=64, layers=5)
    assert infer_settings(shapes, 16000) == {
        "sampling_rate": 16000,
        "audio_channels": 1,
        "num_filters": 6,
        "upsampling_ratios": [3, 4, 7],
        "kernel_size": 7,
        "last_kernel_size": 7,
        "residual_kernel_size": 3,
        "num_residual_layers": 1,
        "compress": 2,
        "use_conv_shortcut": True,
        "num_lstm_layers": 2,
        "hidden_size": 20,
        "codebook_size": 64,
        "codebook_dim": 20,
        "decoder_hidden_size": 64,
        "decoder_intermediate_size": 48,
        "decoder_num_layers": 5,
        "adanorm_num_embeddings": 4,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"compress": 4, "residual_kernel_size": 5, "kernel_size": 3, "last_kernel_size": 5},
        {"use_conv_shortcut": False, "num_residual_layers": 3},
        {"num_lstm_layers": 1, "adanorm_num_embeddings": 2, "upsampling_ratios": [2]},
    ],
)
def test_shapes_of_any_model_of_ours_give_its_configuration_back(tiny_config, changes):
    config = WavTokenizerConfig(
        **{**tiny_config.to_dict(), "decoder_hidden_size": 32, "decoder_attention_num_groups": 32, **changes}
    )
    shapes = expected_shapes(config)
    assert shapes == {name: tuple(value.shape) for name, value in WavTokenizerModel(config).state_dict().items()}
    found = infer({to_original(name): shape for name, shape in shapes.items()})
    assert found.to_dict() == {**config.to_dict(), "transformers_version": found.to_dict()["transformers_version"]}


@pytest.mark.parametrize("sampling_rate", [None, "24000", 0, -1, True, 1.5, object()])
def test_a_sampling_rate_that_is_no_whole_number_means_the_default(sampling_rate):
    assert infer_settings(original_shapes(), sampling_rate)["sampling_rate"] == 24000


def check(shapes):
    check_against(map_keys(shapes), shapes, expected_shapes(infer(shapes)))


@pytest.mark.parametrize("name", [name for name in original_shapes() if name != "head.istft.window"])
def test_any_missing_key_is_named(name):
    shapes = original_shapes()
    check(shapes)
    del shapes[name]
    with pytest.raises(ConversionError) as caught:
        check(shapes)
    assert f"missing keys: {name}" in str(caught.value) or f"the architecture is not known: {name}" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "name", ["backbone.embed.weight_g", f"{ENCODER}13.lstm.weight_hr_l0", "backbone.pos_net.6.bias"]
)
def test_any_key_too_many_is_named(name):
    with pytest.raises(ConversionError, match="leftover keys") as caught:
        check(original_shapes() | {name: (1,)})
    assert name in str(caught.value)


def test_a_layer_s_number_of_thousands_of_digits_is_refused():
    with pytest.raises(ConversionError, match="layers of numbers with more than 9 digits"):
        check(original_shapes() | {"backbone.convnext." + "9" * 5000 + ".gamma": (1,)})


@pytest.mark.parametrize("name", [f"{ENCODER}4.block.3.conv.conv.weight_g", "backbone.convnext.1.gamma"])
def test_a_shape_that_no_other_tensor_fits_is_named(name):
    with pytest.raises(ConversionError, match="shapes that do not fit") as caught:
        check(original_shapes() | {name: (5,)})
    assert f"{name} is [5] instead of" in str(caught.value)


def test_an_encoder_without_strided_convolutions_is_refused():
    shapes = {name: shape for name, shape in original_shapes().items() if not name.startswith(ENCODER)}
    with pytest.raises(ConversionError, match="a first, a strided and a last convolution"):
        infer(shapes)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (f"{ENCODER}3.conv.conv.weight_v", (8, 4, 5), "is 5 wide; a strided convolution is twice"),
        (f"{ENCODER}3.conv.conv.weight_v", (8, 4), "expected 3 axes"),
        (f"{ENCODER}3.conv.conv.weight_v", (8, 4, 6), "322 rows; the encoder's strides"),
        (f"{ENCODER}0.conv.conv.weight_v", (4, 2, 7), "mono codec"),
        (f"{ENCODER}0.conv.conv.weight_v", (0, 1, 7), "none of them empty"),
        (f"{ENCODER}1.block.1.conv.conv.weight_v", (3, 4, 3), "does not divide"),
        ("backbone.embed.weight", (32, 16), "expected 3 axes"),
        ("backbone.embed.weight", (33, 16, 7), "`decoder_attention_num_groups` must divide"),
        ("head.out.weight", (100, 32), "head.out.weight has 100 rows"),
        ("feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed", (64, 8), "`codebook_dim` must equal"),
    ],
)
def test_shapes_that_make_no_codec_are_refused_with_the_reason(name, shape, reason):
    with pytest.raises(ConversionError) as caught:
        infer(original_shapes() | {name: shape})
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------------------------------------------------- YAML

YAML = """
seed_everything: 3407
data:
  class_path: decoder.dataset.VocosDataModule
model:
  class_path: decoder.experiment.WavTokenizer
  init_args:
    sample_rate: 24000
    initial_learning_rate: 2e-4
    feature_extractor:
      class_path: decoder.feature_extractors.EncodecFeatures
      init_args:
        dowmsamples: [8, 5, 4, 2]
        vq_bins: 4096
        num_quantizers: 1
    backbone:
      class_path: decoder.models.VocosBackbone
      init_args:
        input_channels: 512
        dim: 768
        intermediate_dim: 2304
        num_layers: 12
        adanorm_num_embeddings: 4
    head:
      class_path: decoder.heads.ISTFTHead
      init_args:
        dim: 768
        n_fft: 1280
        hop_length: 320
        padding: same
"""


@pytest.fixture
def hop320():
    return WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2])


def test_a_yaml_that_agrees_is_accepted_with_the_settings_it_states(tmp_path, hop320):
    (tmp_path / "a.yaml").write_text(YAML)
    assert len(check_yaml(tmp_path / "a.yaml", hop320)) == 13


@pytest.mark.parametrize(
    ("stated", "instead", "setting"),
    [
        ("[8, 5, 4, 2]", "[2, 4, 5, 8]", "dowmsamples"),
        ("vq_bins: 4096", "vq_bins: 16384", "vq_bins"),
        ("sample_rate: 24000", "sample_rate: 16000", "sample_rate"),
        ("num_quantizers: 1", "num_quantizers: 8", "num_quantizers"),
        ("input_channels: 512", "input_channels: 128", "input_channels"),
        ("dim: 768\n        intermediate", "dim: 512\n        intermediate", "backbone.init_args.dim"),
        ("intermediate_dim: 2304", "intermediate_dim: 2000", "intermediate_dim"),
        ("num_layers: 12", "num_layers: 8", "num_layers"),
        ("adanorm_num_embeddings: 4", "adanorm_num_embeddings: 1", "adanorm_num_embeddings"),
        ("dim: 768\n        n_fft", "dim: 512\n        n_fft", "head.init_args.dim"),
        ("n_fft: 1280", "n_fft: 2400", "n_fft"),
        ("hop_length: 320", "hop_length: 600", "hop_length"),
        ("padding: same", "padding: center", "padding"),
    ],
)
def test_a_yaml_that_disagrees_is_refused_by_setting(tmp_path, hop320, stated, instead, setting):
    assert stated in YAML
    (tmp_path / "a.yaml").write_text(YAML.replace(stated, instead))
    with pytest.raises(ConversionError, match="describes another model") as caught:
        check_yaml(tmp_path / "a.yaml", hop320)
    assert f"{setting} is " in str(caught.value)
    assert str(caught.value).count(" in the YAML") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("just: this", "not a YAML of WavTokenizer"),
        ("- a\n- list", "not a YAML of WavTokenizer"),
        ("", "not a YAML of WavTokenizer"),
        ("a: [1", "not a YAML file"),
        ("model: !!python/object/apply:os.system ['true']", "not a YAML file"),
        ("\x00", "not a YAML file"),
    ],
)
def test_what_is_no_yaml_of_the_original_is_refused(tmp_path, hop320, text, reason):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConversionError, match=reason) as caught:
        check_yaml(tmp_path / "a.yaml", hop320)
    assert str(caught.value).isprintable()


def test_a_yaml_that_is_not_there_is_wrong_use(tmp_path, hop320):
    with pytest.raises(UsageError, match="cannot read"):
        check_yaml(tmp_path / "a.yaml", hop320)
