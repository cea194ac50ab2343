"""The exported folder, loaded where the package cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import wavtokenizer_hf
from tests.tiny import noise, tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerEncoderModel, WavTokenizerFeatureExtractor
from wavtokenizer_hf.cli import main
from wavtokenizer_hf.hub.export import export_to_hub_folder

PACKAGE = Path(wavtokenizer_hf.__file__).parent
CODE_FILES = (
    "arithmetic_wavtokenizer.py",
    "audio_input.py",
    "audio_preparation.py",
    "checks_wavtokenizer.py",
    "codec_files.py",
    "configuration_wavtokenizer.py",
    "feature_extraction_wavtokenizer.py",
    "modeling_wavtokenizer.py",
    "nearest_wavtokenizer.py",
)
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", *CODE_FILES}

AUTO_MAP = {
    "AutoConfig": "configuration_wavtokenizer.WavTokenizerConfig",
    "AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor",
    "AutoModel": "modeling_wavtokenizer.WavTokenizerModel",
    "AutoModelForAudioTokenization": "modeling_wavtokenizer.WavTokenizerModel",
}

# Loads a folder through every Auto class, runs it on a clip, saves it again, and leaves what came out. What one Auto
# class has loaded, the next one finds without the folder's help, so the order is an argument.
FOREIGN_PROCESS = """
import sys

sys.modules["wavtokenizer_hf"] = None
folder, clip, copy, results, *order = sys.argv[1:]

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoFeatureExtractor

config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
feature_extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
inputs = feature_extractor(np.load(clip), return_tensors="pt")
found = {}
for name in order:
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        audio_codes = model.encode(**inputs).audio_codes
        audio_values = model.decode(audio_codes).audio_values
    found[f"{name}/codes"] = audio_codes.numpy()
    found[f"{name}/audio"] = audio_values.numpy()
assert type(model.config) is type(config), (type(model.config), type(config))
for thing in (config, feature_extractor, model):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
model.save_pretrained(copy)
feature_extractor.save_pretrained(copy)
np.savez(results, **found)
"""


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def feature_extractor():
    return WavTokenizerFeatureExtractor(hop_length=80)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def load_elsewhere(folder: Path, clip: Path, copy: Path, results: Path, order) -> dict[str, np.ndarray]:
    """Runs `FOREIGN_PROCESS` with a module cache of its own, away from the package's folder and without a network."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_MODULES_CACHE": str(results.with_suffix(".cache")), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", FOREIGN_PROCESS, *map(str, (folder, clip, copy, results)), *order]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent, check=False)
    assert ran.returncode == 0, ran.stderr
    with np.load(results) as found:
        return dict(found)


def test_an_export_loads_runs_and_saves_itself_without_the_package(tmp_path, model, feature_extractor):
    clip = noise(5000, seed=3).numpy()
    np.save(tmp_path / "clip.npy", clip)
    with torch.no_grad():
        codes = model.encode(torch.from_numpy(clip)[None, None]).audio_codes
        audio_values = model.decode(codes).audio_values
    assert len(codes.unique()) > 5

    exported = export_to_hub_folder(model, feature_extractor, tmp_path / "exported")
    again, thrice = tmp_path / "again", tmp_path / "thrice"
    order = ["AutoModelForAudioTokenization", "AutoModel"]
    for source, copy in ((exported, again), (again, thrice)):
        found = load_elsewhere(source, tmp_path / "clip.npy", copy, tmp_path / f"{copy.name}.npz", order)
        assert set(found) == {f"{name}/{what}" for name in order for what in ("codes", "audio")}
        order.reverse()
        for key, value in found.items():
            if key.endswith("codes"):
                np.testing.assert_array_equal(value, codes.numpy())
            else:
                np.testing.assert_allclose(value, audio_values.numpy(), atol=1e-6)
        assert names_in(copy) - {"README.md"} == FILES - {"README.md"}
        assert json.loads((copy / "config.json").read_text())["auto_map"] == AUTO_MAP
        for name in (*CODE_FILES, "model.safetensors"):
            assert (copy / name).read_bytes() == (exported / name).read_bytes(), name


def test_an_export_of_a_causal_codec_loads_runs_and_saves_itself_without_the_package(tmp_path, feature_extractor):
    model, clip = tiny_causal_model(), noise(5000, seed=3).numpy()
    np.save(tmp_path / "clip.npy", clip)
    with torch.no_grad():
        codes = model.encode(torch.from_numpy(clip)[None, None]).audio_codes
        audio_values = model.decode(codes).audio_values
    exported = export_to_hub_folder(model, feature_extractor, tmp_path / "exported")
    found = load_elsewhere(exported, tmp_path / "clip.npy", tmp_path / "copy", tmp_path / "found.npz", ["AutoModel"])
    np.testing.assert_array_equal(found["AutoModel/codes"], codes.numpy())
    np.testing.assert_allclose(found["AutoModel/audio"], audio_values.numpy(), atol=1e-6)
    for folder in (exported, tmp_path / "copy"):
        config = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == "wavtokenizer_causal"
    assert config["auto_map"]["AutoConfig"] == "configuration_wavtokenizer.WavTokenizerCausalConfig"
    assert config["auto_map"]["AutoModel"] == "modeling_wavtokenizer.WavTokenizerCausalModel"


def test_an_export_holds_weights_configs_code_and_card(tmp_path, model, feature_extractor):
    folder = export_to_hub_folder(model, feature_extractor, tmp_path / "my-codec")
    assert folder == tmp_path / "my-codec"
    assert names_in(folder) == FILES
    assert names_in(tmp_path) == {"my-codec"}
    for name in CODE_FILES:
        assert (folder / name).read_bytes() == (PACKAGE / name).read_bytes()
    assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["auto_map"] == {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# my-codec\n" in card
    assert "trust_remote_code=True" in card


def test_every_flat_file_of_a_codec_travels():
    # The processor's, which no codec needs, goes with processors. Another that the others import would be missing.
    flat = {path.name for path in PACKAGE.glob("*.py") if "sparse_event_codec" not in path.name}
    flat -= {"__init__.py", "__main__.py"}
    assert flat == {*CODE_FILES, "processing_wavtokenizer.py"}


def test_an_export_changes_neither_model_nor_feature_extractor(tmp_path, model, feature_extractor):
    before = model.config.to_dict(), feature_extractor.to_dict()
    export_to_hub_folder(model, feature_extractor, tmp_path / "exported")
    after = model.config.to_dict(), feature_extractor.to_dict()
    for earlier, later in zip(before, after, strict=True):
        # What saving a model always notes in its config.
        noted = {"architectures", "dtype", "transformers_version"}
        assert {key: later[key] for key in later.keys() - noted} == {
            key: earlier[key] for key in earlier.keys() - noted
        }


def test_a_given_card_is_kept_but_for_how_to_load_the_folder(tmp_path, model, feature_extractor):
    card = "---\nlicense: mit\n---\n# My codec\n\n## Use\n\nimport wavtokenizer_hf\n\n## Origin\n\nA cellar.\n"
    folder = export_to_hub_folder(model, feature_extractor, tmp_path / "exported", card=card)
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert written.startswith("---\nlicense: mit\n---\n# My codec\n\n## Use\n")
    assert written.endswith("## Origin\n\nA cellar.\n")
    assert "trust_remote_code=True" in written
    assert "import wavtokenizer_hf" not in written


def test_a_fused_model_is_refused_and_nothing_is_written(tmp_path, model, feature_extractor):
    with pytest.raises(RuntimeError, match=r"fused model cannot be exported.*before fuse"):
        export_to_hub_folder(model.fuse(), feature_extractor, tmp_path / "exported")
    assert names_in(tmp_path) == set()


def test_an_encoder_alone_is_refused(tmp_path, model, feature_extractor):
    encoder = WavTokenizerEncoderModel(model.config)
    with pytest.raises(TypeError, match="expected a WavTokenizerModel, got WavTokenizerEncoderModel"):
        export_to_hub_folder(encoder, feature_extractor, tmp_path / "exported")
    assert names_in(tmp_path) == set()


def test_the_model_in_a_folder_is_replaced_only_when_told_so_and_other_files_stay(tmp_path, model, feature_extractor):
    folder = tmp_path / "exported"
    folder.mkdir()
    export_to_hub_folder(model, feature_extractor, folder)
    with pytest.raises(FileExistsError, match="is not empty"):
        export_to_hub_folder(model, feature_extractor, folder)
    (folder / "model-00001-of-00002.safetensors").touch()
    export_to_hub_folder(model, feature_extractor, folder, overwrite=True)
    assert names_in(folder) == FILES
    (folder / ".git").mkdir()
    export_to_hub_folder(model, feature_extractor, folder, overwrite=True)
    assert names_in(folder) == FILES | {".git"}
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        export_to_hub_folder(model, feature_extractor, tmp_path / "file", overwrite=True)
    assert names_in(tmp_path) == {"exported", "file"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_the_earlier_one_whole_and_nothing_else(
    tmp_path, model, feature_extractor, monkeypatch, error
):
    folder = export_to_hub_folder(model, feature_extractor, tmp_path / "exported")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupted(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("wavtokenizer_hf.hub.export.render_model_card", interrupted)
        with pytest.raises(error):
            export_to_hub_folder(tiny_model(seed=1), feature_extractor, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert names_in(tmp_path) == {"exported"}


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_command_exports_a_saved_model_in_its_own_precision(tmp_path, model, feature_extractor, capsys):
    source = tmp_path / "source"
    model.to(torch.bfloat16).save_pretrained(source)
    feature_extractor.save_pretrained(source)
    (source / "README.md").write_text("# From a cellar\n\n## Use\n\nAs you like.\n")
    capsys.readouterr()
    status, out, err = run(capsys, "export-hub", source, tmp_path / "exported")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'exported'}: 13 files, ")
    assert names_in(tmp_path / "exported") == FILES
    assert (tmp_path / "exported" / "README.md").read_text(encoding="utf-8").startswith("# From a cellar\n")
    status, out, _ = run(capsys, "info", tmp_path / "exported", "--json")
    facts = json.loads(out)
    assert (facts["dtype"], facts["auto_map"]) == ("bfloat16", AUTO_MAP)

    status, _, err = run(capsys, "export-hub", source, tmp_path / "exported")
    assert status == 2
    assert "not empty" in err
    assert run(capsys, "export-hub", source, tmp_path / "exported", "--overwrite")[0] == 0


def test_exporting_a_folder_onto_itself_makes_it_self_contained(tmp_path, model, feature_extractor, capsys):
    model.save_pretrained(tmp_path / "codec")
    feature_extractor.save_pretrained(tmp_path / "codec")
    weights = (tmp_path / "codec" / "model.safetensors").read_bytes()
    assert run(capsys, "export-hub", tmp_path / "codec", tmp_path / "codec", "--overwrite")[0] == 0
    assert names_in(tmp_path / "codec") == FILES
    assert (tmp_path / "codec" / "model.safetensors").read_bytes() == weights
