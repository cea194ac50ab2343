"""The checkpoint that comes with the package, and how one gets there."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel

from tests.tiny import tiny_model
from wavtokenizer_hf import WavTokenizerModel, bundled_checkpoint, fingerprint
from wavtokenizer_hf.checkpoints.pack import pack
from wavtokenizer_hf.evaluation.signal import log_mel_l1

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "conversion" / "LJ001-0002.flac"


@pytest.fixture(scope="module")
def codec():
    return AutoModel.from_pretrained(bundled_checkpoint()).eval()


def test_it_is_small_and_computes_in_single_precision(codec):
    weights = Path(bundled_checkpoint(), "model.safetensors")
    assert weights.stat().st_size <= 25e6
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.float32}


def test_it_has_the_geometry_of_75_codes_a_second(codec):
    config = codec.config
    assert (config.sampling_rate, config.hop_length, config.frame_rate) == (24000, 320, 75.0)
    assert config.num_quantizers == 1
    assert codec.encoder_model.quantizer.codebook.inited.item() == 1


@torch.no_grad()
def test_it_was_trained(codec):
    feature_extractor = AutoFeatureExtractor.from_pretrained(bundled_checkpoint())
    inputs = feature_extractor(str(RECORDING), resample=True, return_tensors="pt")
    output = codec(**inputs)
    original, copy = inputs["input_values"][0, 0], output.audio_values[0, 0]
    assert log_mel_l1(original, copy, sampling_rate=24000) < 0.8  # an untrained codec reads 4
    assert output.audio_codes.unique().numel() > 70
    # Every bandwidth id was trained.
    for bandwidth_id in range(codec.config.adanorm_num_embeddings):
        copy = codec.decode(output.audio_codes, bandwidth_id=bandwidth_id).audio_values[0, 0]
        assert log_mel_l1(original, copy, sampling_rate=24000) < 0.8


def test_its_card_is_among_the_model_cards():
    card = ROOT / "model_cards" / "nano-75.md"
    assert card.is_symlink()
    assert not card.readlink().is_absolute()
    assert card.resolve() == Path(bundled_checkpoint(), "README.md").resolve()


def test_a_name_that_it_has_not_is_refused():
    with pytest.raises(ValueError, match=r"no checkpoint 'nano-40' comes with the package; there is nano-75"):
        bundled_checkpoint("nano-40")


def test_packing_halves_the_weights_and_keeps_the_codebook(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "trained")
    pack(tmp_path / "trained", tmp_path / "packed")
    with safe_open(tmp_path / "packed" / "model.safetensors", framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert {name for name, dtype in dtypes.items() if dtype == "F32"} == {
        f"encoder_model.quantizer.codebook.{name}" for name in ("inited", "cluster_size", "embed", "embed_avg")
    }
    packed = WavTokenizerModel.from_pretrained(tmp_path / "packed")
    for (name, ours), theirs in zip(model.state_dict().items(), packed.state_dict().values(), strict=True):
        expected = ours if "codebook" in name else ours.half().float()
        assert torch.equal(theirs, expected), name
    packed.save_pretrained(tmp_path / "again")
    assert fingerprint(WavTokenizerModel.from_pretrained(tmp_path / "again")) == fingerprint(packed)


def test_weights_beyond_half_precision_are_not_packed(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.linear.bias[0] = 1e6
    model.save_pretrained(tmp_path / "trained")
    with pytest.raises(ValueError, match=r"head.linear.bias holds values beyond half precision"):
        pack(tmp_path / "trained", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
