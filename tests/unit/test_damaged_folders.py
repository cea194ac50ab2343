"""A model's folder that holds anything: one reason in words, and nothing computed."""

import json
import shutil

import pytest
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_causal_config, tiny_config, tiny_model
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor
from wavtokenizer_hf.cli.codec import open_codec
from wavtokenizer_hf.codec_files import check_same_codec
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.hub.export import export_to_hub_folder
from wavtokenizer_hf.training.checkpoint import load_codec as load_for_training

INTEGERS = [
    name for name, kind in WavTokenizerConfig.__annotations__.items() if kind is int and name != "audio_channels"
]


@pytest.mark.parametrize("make", [tiny_config, tiny_causal_config])
@pytest.mark.parametrize("value", [2**31 + 1, 2**63 + 1, -1])
@pytest.mark.parametrize("name", INTEGERS)
def test_a_size_that_no_machine_has_is_refused_with_the_field_s_name(make, name, value):
    changes = {name: value} | ({"codebook_dim": value} if name == "hidden_size" else {})
    with pytest.raises(StrictDataclassError, match=name):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"norm_eps": float("inf")}, "norm_eps"),
        ({"upsampling_ratios": [2] * 1000}, "upsampling_ratios"),
        ({"upsampling_ratios": [2**20, 2]}, "upsampling_ratios"),
        ({"num_filters": 2048, "upsampling_ratios": [2] * 10}, "num_filters"),
        ({"dilation_growth_rate": 64, "num_residual_layers": 64}, "dilation_growth_rate"),
    ],
)
def test_settings_that_are_absurd_together_are_refused_with_a_field_s_name(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": "24000"}, "`sampling_rate` must be an integer"),
        ({"sampling_rate": float("nan")}, "`sampling_rate` must be an integer"),
        ({"hop_length": 10**30}, "`hop_length` must be an integer"),
        ({"hop_length": 0}, "`hop_length` must be an integer"),
        ({"padding_value": float("nan")}, "`padding_value` must be a finite number"),
        ({"normalize_audio": True, "target_peak_dB_FS": float("nan")}, "`peak_db` must be a number"),
        ({"normalize_audio": True, "target_peak_dB_FS": 1e9}, "`peak_db` must be a number"),
        ({"normalize_audio": True, "target_peak_dB_FS": "loud"}, "`peak_db` must be a number"),
    ],
)
def test_a_feature_extractor_refuses_settings_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        WavTokenizerFeatureExtractor(**changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    model = tiny_model()
    model.save_pretrained(folder)
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(folder)
    return folder


def change_json(name, **changes):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def into_folder(name):
    def change(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def misshapen(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor[:1].contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (write("config.json", b"[]"), "config.json must hold a JSON object, got list"),
        (write("config.json", b"null"), "config.json must hold a JSON object, got NoneType"),
        (write("config.json", b'{"a":' * 100_000), "config.json holds no JSON"),
        (write("config.json", b'{"hidden_size": ' + b"9" * 5000 + b"}"), "config.json holds no JSON"),
        (change_json("config.json", kernel_size="16"), "kernel_size"),
        (change_json("config.json", codebook_size=2**63), "codebook_size"),
        (change_json("config.json", dtype="os.system"), "os.system"),
        (write("preprocessor_config.json", b"[1]"), "preprocessor_config.json must hold a JSON object"),
        (change_json("preprocessor_config.json", sampling_rate=16000), "sampling_rate = 16000, and the model 24000"),
        (change_json("preprocessor_config.json", hop_length=1), "hop_length = 1, and the model 80"),
        (write("model.safetensors", b""), "eader"),
        (write("model.safetensors", b"\xff" * 300), "header"),
        (into_folder("model.safetensors"), "model.safetensors"),
        (misshapen, "does not load"),
        (pickled, "model.safetensors"),
    ],
)
def test_a_damaged_folder_is_one_error_with_the_reason(whole, tmp_path, damage, reason):
    folder = shutil.copytree(whole, tmp_path / "torn")
    damage(folder)
    with pytest.raises((ValueError, OSError, RuntimeError)) as raised:
        open_codec(str(folder), "encoder")
    assert reason in " ".join(str(raised.value).split())
    assert "torn" in str(raised.value)


def test_training_starts_from_no_damaged_codec(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "torn")
    (folder / "model.safetensors").write_bytes(b"\xff" * 300)
    with pytest.raises(ValueError, match=r"torn does not load.*header"):
        load_for_training(str(folder))


@pytest.mark.parametrize("extractor", [{"hop_length": 600}, {"hop_length": 80, "sampling_rate": 16000}])
@pytest.mark.parametrize(
    "use",
    [
        lambda model, extractor, place: check_same_codec(extractor, model.config),
        lambda model, extractor, place: export_to_hub_folder(model, extractor, place / "out"),
        lambda model, extractor, place: codec_of(model, extractor),
    ],
)
def test_the_feature_extractor_of_another_codec_is_refused(tmp_path, extractor, use):
    with pytest.raises(ValueError, match=r"its codes would mean nothing"):
        use(tiny_model(), WavTokenizerFeatureExtractor(**extractor), tmp_path)
    assert not list(tmp_path.iterdir())
