"""Checkpoints of SimVQ: told by their keys, with their averages, their folded codebook and their causality."""

import json

import pytest
import torch
from conversion.convert import convert
from conversion.errors import ConversionError, UsageError
from conversion.parity import verify
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conversion.__main__ import app
from tests.original_checkpoint import simvq_state, write_checkpoint
from wavtokenizer_hf import WavTokenizerModel

YAML = """
model:
  init_args:
    ddconfig:
      causal: true
      dimension: 16
    quantconfig:
      params:
        n_e: 64
        e_dim: 16
    sample_rate: 24000
    audio_normalize: false
    segment: None
"""
LAYERS = "encoder_model.encoder.layers."
CODEBOOK = "encoder_model.quantizer.codebook."


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "simvq.ckpt", simvq_state(), hyper_parameters={})


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.split()), result.stderr


@pytest.mark.parametrize("averages", [True, False])
def test_tensors_are_the_moving_averages_where_there_are_any_and_the_codebook_is_folded(tmp_path, averages):
    state = simvq_state(averages)
    source = write_checkpoint(tmp_path / "a.ckpt", state)
    done = convert(str(source), tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")

    def value(name):
        return state[f"model_ema.{name.replace('.', '')}" if averages else name]

    for ours, name in {
        f"{LAYERS}0.conv.parametrizations.weight.original1": "encoder.model.0.conv.conv.weight_v",
        f"{LAYERS}13.lstm.bias_hh_l1": "encoder.model.13.lstm.bias_hh_l1",
        "backbone.pos_net.2.norm.weight": "backbone.pos_net.2.norm.weight",
        "backbone.convnext.1.dwconv.bias": "backbone.convnext.1.dwconv.bias",
        "head.linear.bias": "head.out.bias",
    }.items():
        assert torch.equal(stored[ours], value(name)), ours
    for norm in ("backbone.norm.", "backbone.convnext.1.norm."):
        assert torch.equal(stored[f"{norm}scale.weight"], value(f"{norm}weight")[None])
        assert torch.equal(stored[f"{norm}shift.weight"], value(f"{norm}bias")[None])
    weight, bias = (value(f"quantize.embedding_proj.{name}").double() for name in ("weight", "bias"))
    entries = (torch.einsum("kd,ed->ke", state["quantize.embedding.weight"].double(), weight) + bias).float()
    torch.testing.assert_close(stored[CODEBOOK + "embed"], entries, rtol=1e-6, atol=0)
    assert torch.equal(stored[CODEBOOK + "embed_avg"], stored[CODEBOOK + "embed"])
    assert stored[CODEBOOK + "cluster_size"].tolist() == [1.0] * 64
    assert stored[CODEBOOK + "inited"].tolist() == [1.0]
    assert done.config.adanorm_num_embeddings == 1
    assert verify(tmp_path / "out", str(source)).differences == []


@pytest.mark.parametrize(
    ("options", "is_causal", "is_assumed"),
    [((), True, True), (("--causal",), True, False), (("--no-causal",), False, False)],
)
def test_causality_is_what_the_caller_says_or_assumed_with_a_line(
    checkpoint, tmp_path, options, is_causal, is_assumed
):
    status, out, _ = run("convert", checkpoint, tmp_path / "out", *options)
    assert status == 0
    assert ("It was taken to be, as SimVQ published it" in out) == is_assumed
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["use_causal_conv"], config["pad_mode"]) == (
        "wavtokenizer",
        is_causal,
        "reflect",
    )
    card = (tmp_path / "out/README.md").read_text()
    assert ("| Encoder | causal" if is_causal else "| Encoder | not causal") in card
    assert "zhu2024addressing" in card
    assert "moving average" in card
    model = WavTokenizerModel.from_pretrained(tmp_path / "out")
    first = torch.randn(1, 1, 1600)
    other = torch.cat([first[..., :800], torch.randn(1, 1, 800)], dim=-1)
    latents, changed = (model.encode(clip, output_latents=True).encoder_latents[..., :10] for clip in (first, other))
    assert torch.allclose(latents, changed, atol=1e-6) == is_causal


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_yaml_says_whether_the_encoder_is_causal_and_is_checked(checkpoint, tmp_path, is_causal):
    path = tmp_path / "config.yaml"
    path.write_text(YAML.replace("causal: true", f"causal: {str(is_causal).lower()}"))
    status, out, _ = run("convert", checkpoint, tmp_path / "out", "--yaml", path)
    assert status == 0
    assert "The YAML agrees in 5 settings." in out
    assert "It was taken to be" not in out
    assert json.loads((tmp_path / "out/config.json").read_text())["use_causal_conv"] == is_causal
    against = "--no-causal" if is_causal else "--causal"
    status, _, error = run("convert", checkpoint, tmp_path / "out2", "--yaml", path, against)
    assert status == 2
    assert f"{against} contradicts" in error
    path.write_text(YAML.replace("n_e: 64", "n_e: 1024"))
    status, _, error = run("convert", checkpoint, tmp_path / "out2", "--yaml", path)
    assert status == 1
    assert "quantconfig.params.n_e is 1024 in the YAML, 64 in the tensors" in error
    assert not (tmp_path / "out2").exists()


def test_a_codec_that_takes_the_level_out_of_its_input_is_refused(checkpoint, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML.replace("audio_normalize: false", "audio_normalize: true"))
    with pytest.raises(ConversionError, match=r"audio_normalize: true\. Such a codec divides each clip by its level"):
        convert(str(checkpoint), tmp_path / "out", yaml=tmp_path / "config.yaml")
    assert not (tmp_path / "out").exists()


def test_a_yaml_of_wavtokenizer_is_none_of_simvq(checkpoint, tmp_path):
    (tmp_path / "a.yaml").write_text("model: {init_args: {feature_extractor: {init_args: {vq_bins: 64}}}}")
    with pytest.raises(ConversionError, match="is not a YAML of SimVQ"):
        convert(str(checkpoint), tmp_path / "out", yaml=tmp_path / "a.yaml")


def test_a_checkpoint_of_wavtokenizer_is_never_causal(tmp_path):
    source = write_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="--causal is for checkpoints of SimVQ"):
        convert(str(source), tmp_path / "out", causal=True)
    assert not convert(str(source), tmp_path / "out", causal=False).config.use_causal_conv


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantize.embedding_proj.bias": None}, "missing keys: quantize.embedding_proj.bias"),
        ({"quantize.embedding.weight": None}, "missing keys: quantize.embedding.weight"),
        ({"model_ema.headoutbias": None}, "missing keys: model_ema.headoutbias"),
        ({"model_ema.quantizeembedding_projweight": None}, "missing keys: model_ema.quantizeembedding_projweight"),
        ({"backbone.norm.bias": None, "model_ema.backbonenormbias": None}, "missing keys: backbone.norm.bias"),
        ({"encoder.model.13.lstm.bias_ih_l0": None}, "missing keys: encoder.model.13.lstm.bias_ih_l0"),
        ({"quantize.codebook_usage": torch.ones(2)}, "for which the map has no row: quantize.codebook_usage"),
        ({"backbone.norm.scale.weight": torch.ones(1, 32)}, "has no row: backbone.norm.scale.weight"),
        ({"model_ema.quantizeembedding_projbias": torch.ones(3)}, "quantize.embedding_proj.bias [3] make no codebook"),
        ({"quantize.embedding.weight": torch.ones(64, 8)}, "quantize.embedding.weight [64, 8], quantize.embedding_pr"),
        ({"model_ema.backbonenormweight": torch.ones(4, 32)}, "backbone.norm.weight has shape [1, 4, 32]"),
    ],
)
def test_a_file_that_lacks_something_or_does_not_fit_is_refused_in_its_own_names(tmp_path, change, reason):
    state = simvq_state() | change
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    status, _, error = run("convert", write_checkpoint(tmp_path / "a.ckpt", state), tmp_path / "out")
    assert status == 1
    assert reason in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_verify_names_an_entry_that_is_not_the_folded_one_and_a_value_that_is_no_average(checkpoint, tmp_path):
    convert(str(checkpoint), tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    tensors = load_file(path)
    tensors[CODEBOOK + "embed"][5, 3] += 1e-3
    tensors["head.linear.bias"] = simvq_state()["head.out.bias"]
    save_file(tensors, path, {"format": "pt"})
    assert verify(tmp_path / "out", str(checkpoint)).differences == [
        "head.linear.bias: differs from head.out.bias of the checkpoint",
        f"{CODEBOOK}embed: differs from quantize.embed of the checkpoint",
    ]


def test_halves_are_folded_in_double_precision_and_stay_halves(tmp_path):
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in simvq_state(False).items()
    }
    source = write_checkpoint(tmp_path / "a.ckpt", state)
    convert(str(source), tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    table, weight, bias = (
        state[f"quantize.{name}"].double()
        for name in ("embedding.weight", "embedding_proj.weight", "embedding_proj.bias")
    )
    assert torch.equal(stored[CODEBOOK + "embed"], (table @ weight.T + bias).half())
    assert verify(tmp_path / "out", str(source)).differences == []


def test_discriminators_of_simvq_are_not_those_that_training_goes_on_with(checkpoint, tmp_path):
    with pytest.raises(ConversionError, match="no discriminators of WavTokenizer to keep"):
        convert(str(checkpoint), tmp_path / "out", keep_discriminators=True)
