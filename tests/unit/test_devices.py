"""Precision, devices, meta initialisation, fusing and copying."""

import copy
import math
import pickle

import pytest
import torch

from tests.tiny import noise, tiny_config
from wavtokenizer_hf import (
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    fingerprint,
)
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerLSTM

HALVES = [torch.bfloat16, torch.float16]


def padded_batch():
    """Two clips, the second of which ends in padding."""
    padding_mask = torch.ones(2, 1000, dtype=torch.int64)
    padding_mask[1, 610:] = 0
    return noise(2, 1, 1000), padding_mask


@torch.no_grad()
def everything(model) -> list[torch.Tensor]:
    """What each call of a whole codec gives, with and without padding."""
    input_values, padding_mask = padded_batch()
    results = []
    for mask in (None, padding_mask):
        encoded = model.encode(input_values, mask, output_latents=True)
        decoded = model.decode(
            encoded.audio_codes, audio_codes_mask=None if mask is None else encoded.audio_codes_mask
        )
        output = model(input_values, mask)
        results += [encoded.audio_codes, encoded.encoder_latents, encoded.quantized_latents, decoded.audio_values]
        results += [output.audio_codes, output.audio_values, model.codes_to_latents(encoded.audio_codes)]
    return results


def assert_identical(actual, expected):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def assert_buffers_float32(model):
    buffers = dict(model.named_buffers())
    assert {name.rpartition(".")[2] for name in buffers} == {
        "cluster_size",
        "embed",
        "embed_avg",
        "inited",
        "window",
    }
    for name, buffer in buffers.items():
        assert buffer.dtype == torch.float32, name


# ------------------------------------------------------------------------------------------------------------- dtype


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("way", ["dtype argument", "to", "half or bfloat16"])
def test_in_half_precision_codebook_and_window_keep_their_values(tiny_folder, tiny_model, dtype, way):
    if way == "dtype argument":
        model = WavTokenizerModel.from_pretrained(tiny_folder, dtype=dtype)
    elif way == "to":
        model = copy.deepcopy(tiny_model).to(dtype)
    else:
        model = copy.deepcopy(tiny_model)
        model = model.half() if dtype == torch.float16 else model.bfloat16()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.dtype == dtype
    assert_buffers_float32(model)
    for (name, buffer), expected in zip(model.named_buffers(), tiny_model.buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("dtype", HALVES)
def test_in_half_precision_only_the_network_is_rounded(tiny_model, dtype):
    model = copy.deepcopy(tiny_model).to(dtype)
    input_values, padding_mask = padded_batch()
    with torch.no_grad():
        encoded = model.encode(input_values, padding_mask, output_latents=True)
        exact = tiny_model.encode(input_values, padding_mask)
    assert encoded.encoder_latents.dtype == dtype
    # The search is that of float32 over these latents, and the entries found are unrounded.
    vectors = encoded.encoder_latents.double().transpose(1, 2)
    embed = tiny_model.encoder_model.quantizer.codebook.embed.double()
    nearest = torch.cdist(vectors, embed).argmin(dim=-1)[:, None]
    valid = encoded.audio_codes_mask.bool()
    assert torch.equal(encoded.audio_codes[valid], nearest[valid])
    assert encoded.quantized_latents.dtype == torch.float32
    assert torch.equal(encoded.quantized_latents[0].T, embed.float()[encoded.audio_codes[0, 0]])
    assert (encoded.audio_codes == exact.audio_codes)[valid].float().mean() > 0.8

    with torch.no_grad():
        audio_values = model.decode(exact.audio_codes).audio_values
        expected = tiny_model.decode(exact.audio_codes).audio_values
    assert audio_values.dtype == torch.float32
    assert (audio_values - expected).norm() < (0.05 if dtype == torch.bfloat16 else 0.01) * expected.norm()


def test_auto_takes_the_dtype_of_the_file(tiny_folder, tmp_path):
    WavTokenizerModel.from_pretrained(tiny_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for model in (
        WavTokenizerModel.from_pretrained(tmp_path, dtype="auto"),
        WavTokenizerModel.from_pretrained(tmp_path),
    ):
        assert model.dtype == torch.bfloat16
        assert_buffers_float32(model)
    assert WavTokenizerModel.from_pretrained(tiny_folder, dtype="auto").dtype == torch.float32


def test_float64_computes_in_float64_and_returns_float32_audio(tiny_folder, tiny_model):
    model = WavTokenizerModel.from_pretrained(tiny_folder, dtype=torch.float64)
    input_values, padding_mask = padded_batch()
    with torch.no_grad():
        encoded = model.encode(input_values, padding_mask, output_latents=True)
        exact = tiny_model.encode(input_values, padding_mask, output_latents=True)
        audio_values = model.decode(encoded.audio_codes).audio_values
        expected = tiny_model.decode(encoded.audio_codes).audio_values
    assert encoded.encoder_latents.dtype == torch.float64
    torch.testing.assert_close(encoded.encoder_latents.float(), exact.encoder_latents, rtol=1e-5, atol=1e-5)
    assert torch.equal(encoded.audio_codes, exact.audio_codes)
    assert audio_values.dtype == torch.float32
    torch.testing.assert_close(audio_values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_leaves_search_and_inverse_stft_in_float32(tiny_model, dtype):
    input_values, padding_mask = padded_batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        encoded = tiny_model.encode(input_values, padding_mask, output_latents=True)
        audio_values = tiny_model.decode(encoded.audio_codes).audio_values
    assert encoded.encoder_latents.dtype == dtype
    vectors = encoded.encoder_latents.double().transpose(1, 2)
    nearest = torch.cdist(vectors, tiny_model.encoder_model.quantizer.codebook.embed.double()).argmin(dim=-1)
    valid = encoded.audio_codes_mask.bool()
    assert torch.equal(encoded.audio_codes[valid], nearest[:, None][valid])
    with torch.no_grad():
        expected = tiny_model.decode(encoded.audio_codes).audio_values
    assert audio_values.dtype == torch.float32
    assert (audio_values - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_input_of_any_float_dtype_is_cast_to_the_models(tiny_model, dtype):
    input_values, _ = padded_batch()
    with torch.no_grad():
        given = tiny_model.encode(input_values.to(dtype)).audio_codes
        expected = tiny_model.encode(input_values.to(dtype).float()).audio_codes
    assert torch.equal(given, expected)


# ----------------------------------------------------------------------------------------------------------- devices


def split_layers(model, on_disk) -> dict[str, str]:
    """A map of the encoder's layers one by one."""
    layers = model.encoder_model.encoder.layers
    device_map = {
        f"encoder_model.encoder.layers.{i}": "disk" if on_disk(i, layer) else "cpu" for i, layer in enumerate(layers)
    }
    return device_map | {"encoder_model.quantizer": "cpu", "backbone": "cpu", "head": "cpu"}


DEVICE_MAPS = {
    "auto": lambda model: "auto",
    "cpu": lambda model: {"": "cpu"},
    # Not {"": "disk"}: transformers 5.4 prepares a model for the disk only beside a second device.
    "all parameters on disk": lambda model: {
        "encoder_model.encoder": "disk",
        "encoder_model.quantizer": "cpu",
        "backbone": "disk",
        "head": "disk",
    },
    "encoder on disk": lambda model: {"encoder_model": "disk", "backbone": "cpu", "head": "cpu"},
    "quantizer on disk": lambda model: {
        "encoder_model.encoder": "cpu",
        "encoder_model.quantizer": "disk",
        "backbone": "cpu",
        "head": "cpu",
    },
    "backbone on disk": lambda model: {"encoder_model": "cpu", "backbone": "disk", "head": "cpu"},
    "decoder on disk": lambda model: {"encoder_model": "cpu", "backbone": "disk", "head": "disk"},
    "part of the encoder on disk": lambda model: split_layers(model, lambda i, layer: i % 2),
    "LSTM on disk": lambda model: split_layers(model, lambda i, layer: isinstance(layer, WavTokenizerLSTM)),
    "part of the backbone on disk": lambda model: {
        "encoder_model": "cpu",
        "head": "cpu",
        "backbone.embed": "disk",
        "backbone.pos_net": "cpu",
        "backbone.norm": "disk",
        "backbone.convnext.0": "cpu",
        "backbone.convnext.1": "disk",
        "backbone.final_layer_norm": "cpu",
    },
}


@pytest.mark.parametrize("name", DEVICE_MAPS)
def test_a_device_map_changes_no_result(tiny_folder, tiny_model, tmp_path, name):
    device_map = DEVICE_MAPS[name](tiny_model)
    model = WavTokenizerModel.from_pretrained(tiny_folder, device_map=device_map, offload_folder=tmp_path)
    uses_disk = isinstance(device_map, dict) and "disk" in device_map.values()
    assert any(parameter.is_meta for parameter in model.parameters()) == (uses_disk and name != "quantizer on disk")
    assert_identical(everything(model), everything(tiny_model))


@pytest.mark.parametrize("device_map", ["auto", {"encoder": "disk", "quantizer": "cpu"}], ids=str)
def test_the_encoder_alone_takes_a_device_map(tiny_folder, tiny_model, tmp_path, device_map):
    model = WavTokenizerEncoderModel.from_pretrained(tiny_folder, device_map=device_map, offload_folder=tmp_path)
    input_values, padding_mask = padded_batch()
    with torch.no_grad():
        expected = tiny_model.encode(input_values, padding_mask).audio_codes
        assert torch.equal(model.encode(input_values, padding_mask).audio_codes, expected)
        assert torch.equal(model(input_values, padding_mask).audio_codes, expected)


@pytest.mark.parametrize(
    "device_map",
    [
        "auto",
        {"quantizer": "cpu", "backbone": "disk", "head": "cpu"},
        {"quantizer": "cpu", "backbone": "disk", "head": "disk"},
    ],
    ids=str,
)
def test_the_decoder_alone_takes_a_device_map(tiny_folder, tiny_model, tmp_path, device_map):
    model = WavTokenizerDecoderModel.from_pretrained(tiny_folder, device_map=device_map, offload_folder=tmp_path)
    audio_codes = torch.arange(13)[None, None] * 5 % 64
    with torch.no_grad():
        expected = tiny_model.decode(audio_codes).audio_values
        assert torch.equal(model.decode(audio_codes).audio_values, expected)
        assert torch.equal(model(audio_codes).audio_values, expected)


def test_a_model_on_disk_is_saved_whole(tiny_folder, tiny_model, tmp_path):
    model = WavTokenizerModel.from_pretrained(
        tiny_folder,
        device_map={"encoder_model": "disk", "backbone": "cpu", "head": "disk"},
        offload_folder=tmp_path / "offload",
    )
    with pytest.warns(UserWarning, match="offloaded modules"):
        model.save_pretrained(tmp_path / "saved")
    again = WavTokenizerModel.from_pretrained(tmp_path / "saved")
    for (name, ours), theirs in zip(again.state_dict().items(), tiny_model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_fingerprint_of_weights_on_disk_is_refused(tiny_folder, tmp_path):
    model = WavTokenizerModel.from_pretrained(tiny_folder, device_map={"": "disk"}, offload_folder=tmp_path)
    with pytest.raises(ValueError, match="in memory"):
        fingerprint(model)
    with pytest.raises(ValueError, match="in memory"):
        model.fuse()
    assert not model.is_fused


# -------------------------------------------------------------------------------------------------------------- meta


def test_a_model_made_on_the_meta_device_gets_all_its_buffers(tiny_model):
    with torch.device("meta"):
        model = WavTokenizerModel(tiny_config())
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan"))
    model.init_weights()

    assert_buffers_float32(model)
    assert torch.equal(model.head.window, torch.hann_window(model.config.n_fft))
    codebook = model.encoder_model.quantizer.codebook
    assert (codebook.inited == 0).all()
    assert (codebook.cluster_size == 1).all()
    assert torch.equal(codebook.embed, codebook.embed_avg)
    bound = math.sqrt(6 / codebook.embed.shape[1])
    assert codebook.embed.abs().max() <= bound
    assert codebook.embed.std() > bound / 3
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name

    model.load_state_dict(tiny_model.state_dict())
    assert_identical(everything(model.eval()), everything(tiny_model))


def test_a_loaded_model_has_its_window_though_no_file_holds_it(tiny_folder):
    for model_class in (WavTokenizerModel, WavTokenizerDecoderModel):
        garbage = [torch.full((320,), float("nan")) for _ in range(256)]
        del garbage
        model = model_class.from_pretrained(tiny_folder)
        assert torch.equal(model.head.window, torch.hann_window(model.config.n_fft))


def test_weights_of_a_new_model_follow_the_original():
    """The original draws the first and the ConvNeXt layers of the backbone itself, and leaves all else to torch."""
    model = WavTokenizerModel(tiny_config(decoder_hidden_size=64, decoder_intermediate_size=256))
    backbone, encoder = model.backbone, model.encoder_model.encoder
    for module in (backbone.embed, backbone.convnext[0].dwconv, backbone.convnext[1].pwconv1):
        assert 0.015 < module.weight.std() < 0.025
        assert (module.bias == 0).all()
    assert (backbone.norm.scale.weight == 1).all()
    assert (backbone.norm.shift.weight == 0).all()
    assert (backbone.convnext[0].gamma == 0.5).all()
    for weight, bias in (
        (encoder.layers[3].conv.weight, encoder.layers[3].conv.bias),
        (backbone.pos_net[0].conv1.weight, backbone.pos_net[0].conv1.bias),
        (model.head.linear.weight, model.head.linear.bias),
    ):
        bound = weight[0].numel() ** -0.5
        for tensor in (weight, bias):
            assert tensor.abs().max() <= bound * 1.0001
            assert tensor.abs().max() > bound / 2
    norms = encoder.layers[3].conv.parametrizations.weight
    torch.testing.assert_close(norms.original0[:, 0, 0], norms.original1.flatten(1).norm(dim=1))


# ------------------------------------------------------------------------------------------------------ fuse and copy


def test_fusing_changes_no_bit_and_no_fingerprint(tiny_model):
    expected, identity = everything(tiny_model), fingerprint(tiny_model)
    assert not tiny_model.is_fused
    assert tiny_model.fuse() is tiny_model
    assert tiny_model.is_fused
    assert tiny_model.encoder_model.is_fused
    assert not any("parametrizations" in name for name in tiny_model.state_dict())
    assert_identical(everything(tiny_model), expected)
    assert fingerprint(tiny_model) == identity
    assert fingerprint(tiny_model.fuse()) == identity
    # Rounding changes the weights, also of a fused model and also for good.
    assert fingerprint(tiny_model.half()) != identity
    assert fingerprint(tiny_model.float()) != identity


def test_the_encoder_alone_fuses_to_the_same_fingerprint(tiny_folder, tiny_model):
    encoder_model = WavTokenizerEncoderModel.from_pretrained(tiny_folder).fuse()
    assert fingerprint(encoder_model) == fingerprint(tiny_model)
    input_values, padding_mask = padded_batch()
    with torch.no_grad():
        expected = tiny_model.encode(input_values, padding_mask).audio_codes
        assert torch.equal(encoder_model.encode(input_values, padding_mask).audio_codes, expected)


def test_fusing_a_copy_leaves_the_model_as_it_is(tiny_model):
    clip = noise(1, 1, 1000)
    expected = tiny_model.encode(clip, output_latents=True).encoder_latents
    fused = copy.deepcopy(tiny_model).fuse()
    torch.testing.assert_close(fused.encode(clip, output_latents=True).encoder_latents, expected, rtol=0, atol=0)
    torch.testing.assert_close(tiny_model.encode(clip, output_latents=True).encoder_latents, expected, rtol=0, atol=0)
    assert fused.is_fused
    assert not tiny_model.is_fused


def test_a_model_fused_in_inference_mode_can_still_be_differentiated(tiny_model):
    with torch.inference_mode():
        tiny_model.fuse()
    tiny_model.encode(noise(1, 1, 1000), output_latents=True).encoder_latents.sum().backward()
    assert tiny_model.encoder_model.encoder.layers[0].conv.weight.grad.abs().sum() > 0


def test_a_fused_model_refuses_to_be_saved_and_leaves_nothing_behind(tiny_model, tmp_path):
    tiny_model.fuse()
    for model in (tiny_model, tiny_model.encoder_model):
        with pytest.raises(RuntimeError, match="fused model cannot be saved"):
            model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_decoder_has_nothing_to_fuse_and_can_still_be_saved(tiny_folder, tmp_path):
    decoder = WavTokenizerDecoderModel.from_pretrained(tiny_folder).fuse()
    assert not decoder.is_fused
    decoder.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_a_deep_copy_is_equal_and_independent(tiny_model):
    expected = everything(tiny_model)
    other = copy.deepcopy(tiny_model)
    assert_identical(everything(other), expected)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(1)
    assert_identical(everything(tiny_model), expected)


def test_a_model_can_be_pickled_before_and_after_fusing(tiny_model):
    expected, identity = everything(tiny_model), fingerprint(tiny_model)
    for model in (tiny_model, tiny_model.fuse()):
        other = pickle.loads(pickle.dumps(model))
        assert_identical(everything(other), expected)
        assert fingerprint(other) == identity


def test_configuration_and_feature_extractor_can_be_pickled():
    config = tiny_config(bandwidth_id=1)
    assert pickle.loads(pickle.dumps(config)) == config
    extractor = WavTokenizerFeatureExtractor(hop_length=320, peak_db=-1.0)
    assert pickle.loads(pickle.dumps(extractor)).to_dict() == extractor.to_dict()
