"""Loading and saving: key layouts, halves of a codec, and what is reported."""

import json
import logging
import os
import shutil
import stat

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioTokenization

from tests.tiny import tiny_model
from wavtokenizer_hf import WavTokenizerDecoderModel, WavTokenizerEncoderModel, WavTokenizerModel

MODEL_CLASSES = [WavTokenizerModel, WavTokenizerEncoderModel, WavTokenizerDecoderModel]
LAYOUTS = ["current", "without prefix", "weight_g", "without prefix, weight_g"]


@pytest.fixture
def folder(tiny_folder):
    """A whole codec, as `save_pretrained` writes it."""
    return tiny_folder


@pytest.fixture
def reports():
    """Messages of transformers at warning level and above."""
    messages = []

    class Collector(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler = Collector(level=logging.WARNING)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def rewrite(folder, destination, change):
    """Copies a folder; `change` maps its state dict to another."""
    shutil.copytree(folder, destination)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, destination / "model.safetensors", metadata={"format": "pt"})
    return destination


def in_layout(layout):
    def rename(tensors):
        renamed = {}
        for key, tensor in tensors.items():
            if "without prefix" in layout:
                key = key.removeprefix("encoder_model.")
            if "weight_g" in layout:
                key = key.replace("parametrizations.weight.original0", "weight_g")
                key = key.replace("parametrizations.weight.original1", "weight_v")
            renamed[key] = tensor
        return renamed

    return rename


def expected_state(model_class, folder):
    """The tensors of a whole codec's file that a class holds, by the names that the class gives them."""
    tensors = load_file(folder / "model.safetensors")
    if model_class is WavTokenizerModel:
        return tensors
    tensors = {key.removeprefix("encoder_model."): tensor for key, tensor in tensors.items()}
    absent = ("backbone.", "head.") if model_class is WavTokenizerEncoderModel else ("encoder.",)
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(absent)}


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_silently_and_is_saved_in_the_current_one(folder, tmp_path, reports, layout, model_class):
    source = rewrite(folder, tmp_path / "source", in_layout(layout))
    model, info = model_class.from_pretrained(source, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert reports == []
    assert not model.training
    expected = expected_state(model_class, folder)
    assert_same_tensors(model.state_dict(), expected)

    model.save_pretrained(tmp_path / "saved")
    assert_same_tensors(load_file(tmp_path / "saved" / "model.safetensors"), expected)
    again, info = model_class.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert reports == []
    assert_same_tensors(again.state_dict(), expected)


def test_a_saved_codec_has_the_keys_of_the_interchange_format(folder):
    keys = load_file(folder / "model.safetensors").keys()
    assert "encoder_model.encoder.layers.0.conv.parametrizations.weight.original0" in keys
    assert {key.split(".")[0] for key in keys} == {"encoder_model", "backbone", "head"}
    assert not any("weight_g" in key or "weight_v" in key or "window" in key for key in keys)


@pytest.fixture
def read_keys(monkeypatch):
    """Keys whose values are read from safetensors files while transformers loads."""
    read = []
    original = transformers.modeling_utils.safe_open

    class Slice:
        def __init__(self, key, actual):
            self._key, self._actual = key, actual

        def __getitem__(self, index):
            read.append(self._key)
            return self._actual[index]

        def __getattr__(self, name):
            return getattr(self._actual, name)

    class File:
        def __init__(self, *args, **kwargs):
            self._actual = original(*args, **kwargs)

        def get_slice(self, key):
            return Slice(key, self._actual.get_slice(key))

        def get_tensor(self, key):
            read.append(key)
            return self._actual.get_tensor(key)

        def __enter__(self):
            self._actual.__enter__()
            return self

        def __exit__(self, *exception):
            return self._actual.__exit__(*exception)

        def __getattr__(self, name):
            return getattr(self._actual, name)

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", File)
    return read


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "sharded"])
@pytest.mark.parametrize(
    ("model_class", "other_half"),
    [
        (WavTokenizerEncoderModel, ("backbone.", "head.")),
        (WavTokenizerDecoderModel, ("encoder_model.encoder.",)),
        (WavTokenizerModel, ()),
    ],
)
def test_a_half_reads_nothing_of_the_other_half(folder, tmp_path, read_keys, model_class, other_half, sharded):
    if sharded:
        WavTokenizerModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="100KB")
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 2
        all_keys, source = set(index["weight_map"]), tmp_path
    else:
        all_keys, source = set(load_file(folder / "model.safetensors")), folder
    read_keys.clear()
    model = model_class.from_pretrained(source)
    assert set(read_keys) == {key for key in all_keys if not key.startswith(other_half)}
    assert len(read_keys) == len(model.state_dict())
    assert_same_tensors(model.state_dict(), expected_state(model_class, folder))


@pytest.mark.parametrize(
    ("model_class", "key"),
    [
        (WavTokenizerModel, "backbone.surplus"),
        (WavTokenizerModel, "head.surplus"),
        (WavTokenizerModel, "encoder_model.encoder.surplus"),
        (WavTokenizerModel, "encoder.surplus"),
        (WavTokenizerModel, "encoder_model.quantizer.surplus"),
        (WavTokenizerModel, "encoder_model.backbone.surplus"),
        (WavTokenizerModel, "surplus"),
        (WavTokenizerEncoderModel, "encoder_model.encoder.surplus"),
        (WavTokenizerEncoderModel, "quantizer.surplus"),
        (WavTokenizerEncoderModel, "surplus"),
        (WavTokenizerDecoderModel, "backbone.surplus"),
        (WavTokenizerDecoderModel, "head.surplus"),
        (WavTokenizerDecoderModel, "encoder_model.quantizer.surplus"),
        (WavTokenizerDecoderModel, "surplus"),
    ],
)
def test_a_wrong_key_is_reported(folder, tmp_path, reports, model_class, key):
    # Loading twice: what loading a half declares ignorable must not stay behind.
    for other_class in MODEL_CLASSES:
        other_class.from_pretrained(folder)
    source = rewrite(folder, tmp_path / "source", lambda tensors: tensors | {key: torch.zeros(1)})
    _, info = model_class.from_pretrained(source, output_loading_info=True)
    assert {name.removeprefix("encoder_model.") for name in info["unexpected_keys"]} == {
        key.removeprefix("encoder_model.")
    }
    assert any("surplus" in report and "UNEXPECTED" in report for report in reports)


@pytest.mark.parametrize(
    ("model_class", "key"),
    [
        (WavTokenizerModel, "encoder_model.encoder.layers.0.conv.bias"),
        (WavTokenizerModel, "encoder_model.quantizer.codebook.embed"),
        (WavTokenizerModel, "backbone.convnext.0.gamma"),
        (WavTokenizerModel, "head.linear.weight"),
        (WavTokenizerEncoderModel, "encoder_model.encoder.layers.0.conv.bias"),
        (WavTokenizerEncoderModel, "encoder_model.quantizer.codebook.cluster_size"),
        (WavTokenizerDecoderModel, "encoder_model.quantizer.codebook.embed"),
        (WavTokenizerDecoderModel, "backbone.norm.scale.weight"),
    ],
)
def test_a_missing_or_misshaped_key_is_reported(folder, tmp_path, reports, model_class, key):
    own_key = key if model_class is WavTokenizerModel else key.removeprefix("encoder_model.")

    def without(tensors):
        del tensors[key]
        return tensors

    source = rewrite(folder, tmp_path / "missing", without)
    _, info = model_class.from_pretrained(source, output_loading_info=True)
    assert info["missing_keys"] == {own_key}
    assert any(own_key in report and "MISSING" in report for report in reports)

    reports.clear()
    source = rewrite(folder, tmp_path / "misshaped", lambda tensors: tensors | {key: torch.zeros(3, 2)})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        model_class.from_pretrained(source)
    assert any(own_key in report and "MISMATCH" in report for report in reports)


@pytest.mark.parametrize("load", [AutoModel, AutoModelForAudioTokenization, WavTokenizerModel])
@pytest.mark.parametrize(
    ("half_class", "absent"),
    [(WavTokenizerEncoderModel, "decoder"), (WavTokenizerDecoderModel, "encoder")],
)
def test_a_folder_of_one_half_is_refused_as_a_whole_codec(folder, tmp_path, half_class, absent, load):
    half_class.from_pretrained(folder).save_pretrained(tmp_path)
    message = rf"no weights of the {absent}, which WavTokenizerModel needs.*{half_class.__name__}\.from_pretrained"
    with pytest.raises(ValueError, match=message):
        load.from_pretrained(tmp_path)
    assert_same_tensors(half_class.from_pretrained(tmp_path).state_dict(), expected_state(half_class, folder))


@pytest.mark.parametrize(
    ("half_class", "other_class"),
    [
        (WavTokenizerEncoderModel, WavTokenizerDecoderModel),
        (WavTokenizerDecoderModel, WavTokenizerEncoderModel),
    ],
)
def test_a_folder_of_one_half_is_refused_as_the_other_half(folder, tmp_path, half_class, other_class):
    half_class.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{other_class.__name__} needs.*{half_class.__name__}\.from_pretrained"):
        other_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("absent", [("original0",), ("original1",), ("original0", "original1")])
def test_missing_weight_norm_tensors_are_drawn_anew(folder, tmp_path, absent):
    prefix = "encoder_model.encoder.layers.3.conv.parametrizations.weight."
    kept = {}

    def without(tensors):
        for name in absent:
            del tensors[prefix + name]
        kept.update(tensors)
        return tensors

    source = rewrite(folder, tmp_path / "source", without)
    # Freshly freed memory full of NaN is what an uninitialised tensor would show.
    garbage = [torch.full((2**14,), float("nan")) for _ in range(64)]
    del garbage
    model, info = WavTokenizerModel.from_pretrained(source, output_loading_info=True)
    assert info["missing_keys"] == {prefix + name for name in absent}
    state = model.state_dict()
    magnitude, direction = state[prefix + "original0"], state[prefix + "original1"]
    norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    if "original1" in absent:
        bound = direction[0].numel() ** -0.5
        assert direction.abs().max() <= bound
        assert direction.std() > bound / 3
    else:
        assert torch.equal(direction, kept[prefix + "original1"])
    if "original0" in absent:
        torch.testing.assert_close(magnitude, norm)
    else:
        assert torch.equal(magnitude, kept[prefix + "original0"])


def test_missing_adaptive_norms_and_layer_scales_start_as_the_identity(folder, tmp_path):
    absent = ("backbone.norm.scale.weight", "backbone.convnext.1.norm.shift.weight", "backbone.convnext.1.gamma")
    source = rewrite(
        folder,
        tmp_path / "source",
        lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in absent},
    )
    model = WavTokenizerModel.from_pretrained(source)
    assert (model.backbone.norm.scale.weight == 1).all()
    assert (model.backbone.convnext[1].norm.shift.weight == 0).all()
    assert (model.backbone.convnext[1].gamma == 1 / model.config.decoder_num_layers).all()


def test_sharded_saves_load_again(folder, tmp_path, reports):
    model = WavTokenizerModel.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 4
    assert_same_tensors(WavTokenizerModel.from_pretrained(tmp_path).state_dict(), model.state_dict())
    assert reports == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["head.linear.weight", "encoder_model.quantizer.codebook.embed"])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, tmp_path, key, value):
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors[key][-1, -1] = value
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"broken holds NaN or infinity in {key.replace('.', '[.]')}"):
        WavTokenizerModel.from_pretrained(broken)


def test_saved_weights_have_the_modes_of_the_files_beside_them(tmp_path):
    before = os.umask(0o027)
    try:
        tiny_model().save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
def test_the_window_is_that_of_float32_whatever_the_default_dtype(folder, default):
    expected = WavTokenizerModel.from_pretrained(folder).head.window
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        built = WavTokenizerModel(WavTokenizerModel.from_pretrained(folder).config).head.window
    finally:
        torch.set_default_dtype(before)
    for window in (built, WavTokenizerModel.from_pretrained(folder, dtype=default).head.window):
        assert window.dtype == torch.float32
        assert torch.equal(window, expected)
