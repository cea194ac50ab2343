import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from conversion.checkpoints import RELEASED
from conversion.convert import convert
from conversion.errors import ConversionError
from conversion.key_map import to_ours
from conversion.lightning import OriginalCheckpoint
from conversion.parity import verify
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conversion.__main__ import app
from tests.golden import reference_weights
from tests.original_checkpoint import DISCRIMINATORS, TRAINING_ONLY, original_state, write_checkpoint
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "original.ckpt")


@pytest.fixture
def converted(checkpoint, tmp_path):
    convert(str(checkpoint), tmp_path / "out")
    return tmp_path / "out"


def run(*arguments):
    """Exit status, stdout and stderr of a command line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def differences(folder, checkpoint):
    """What `verify` finds, with a recording of a tenth of a second to be quick."""
    clip = checkpoint.with_suffix(".wav")
    soundfile.write(clip, 0.1 * np.random.randn(2400), 24000)
    found = verify(folder, str(checkpoint), audio=clip)
    clip.unlink()
    return found.differences


def names_in(folder):
    return set(os.listdir(folder))


# ------------------------------------------------------------------------------------------------------------ convert


def test_a_converted_folder_loads_and_holds_the_values_of_the_checkpoint(checkpoint, converted):
    assert names_in(converted) == FILES
    model, loading = WavTokenizerModel.from_pretrained(converted, output_loading_info=True)
    assert not any(loading.values())
    state = original_state()
    found = model.state_dict()
    kept = {name: value for name, value in state.items() if to_ours(name)}
    assert len(kept) == len(found)
    for name, value in kept.items():
        assert torch.equal(found[to_ours(name)], value), name
    feature_extractor = WavTokenizerFeatureExtractor.from_pretrained(converted)
    assert feature_extractor.hop_length == model.config.hop_length == 80
    audio_codes = model.encode(torch.randn(1, 1, 801)).audio_codes
    assert audio_codes.shape == (1, 1, 11)
    assert model.decode(audio_codes).audio_values.shape == (1, 1, 880)


def test_the_folder_is_what_the_library_itself_saves(converted, tmp_path):
    WavTokenizerModel.from_pretrained(converted).save_pretrained(tmp_path / "again")
    assert json.loads((converted / "config.json").read_text()) == json.loads(
        (tmp_path / "again/config.json").read_text()
    )
    with (
        safe_open(converted / "model.safetensors", "pt") as ours,
        safe_open(tmp_path / "again/model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        assert ours.metadata() == theirs.metadata() == {"format": "pt"}


def test_a_checkpoint_of_the_generator_alone_is_enough(tmp_path):
    source = write_checkpoint(tmp_path / "a.ckpt", original_state(training_modules=False))
    done = convert(str(source), tmp_path / "out")
    assert list(done.key_map.dropped) == ["head.istft.window"]
    assert differences(tmp_path / "out", source) == []


def test_discriminators_are_kept_on_request_under_their_own_names(checkpoint, tmp_path):
    convert(str(checkpoint), tmp_path / "out", keep_discriminators=True)
    assert names_in(tmp_path / "out") == FILES | {"discriminators.safetensors"}
    kept = load_file(tmp_path / "out/discriminators.safetensors")
    state = original_state()
    assert set(kept) == set(DISCRIMINATORS)
    assert all(torch.equal(kept[name], state[name]) for name in DISCRIMINATORS)
    assert verify(tmp_path / "out", str(checkpoint)).num_discriminators == len(DISCRIMINATORS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_checkpoint_of_another_dtype_keeps_it(tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in original_state().items()}
    convert(str(write_checkpoint(tmp_path / "a.ckpt", state)), tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert differences(tmp_path / "out", tmp_path / "a.ckpt") == []


def test_mixed_dtypes_become_the_one_that_holds_all_values(tmp_path):
    state = original_state()
    state["head.out.weight"] = state["head.out.weight"].half()
    state["head.out.bias"] = state["head.out.bias"].bfloat16()
    convert(str(write_checkpoint(tmp_path / "a.ckpt", state)), tmp_path / "out")
    assert {value.dtype for value in load_file(tmp_path / "out/model.safetensors").values()} == {torch.float32}
    assert differences(tmp_path / "out", tmp_path / "a.ckpt") == []


def test_odd_layouts_in_memory_are_written_as_their_values(tmp_path):
    state = original_state()
    name, shared = "backbone.pos_net.0.conv1.weight", torch.randn(2, 32)
    state[name] = state[name].transpose(0, 2).contiguous().transpose(0, 2)
    state["backbone.pos_net.5.weight"], state["backbone.pos_net.5.bias"] = shared[0], shared[1]
    state["backbone.convnext.0.gamma"] = torch.full((1,), 0.25).expand(32)
    source = write_checkpoint(tmp_path / "a.ckpt", state)
    convert(str(source), tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    for odd in (name, "backbone.pos_net.5.weight", "backbone.pos_net.5.bias", "backbone.convnext.0.gamma"):
        assert torch.equal(stored[odd], state[odd])


def test_training_only_tensors_are_never_read(checkpoint, tmp_path, monkeypatch):
    read, names = OriginalCheckpoint.read, []
    monkeypatch.setattr(OriginalCheckpoint, "read", lambda self, name: names.append(name) or read(self, name))
    convert(str(checkpoint), tmp_path / "out")
    assert sorted(names) == sorted(name for name in original_state() if to_ours(name))


def test_the_sampling_rate_of_the_hyper_parameters_is_kept(tmp_path):
    source = write_checkpoint(tmp_path / "a.ckpt", hyper_parameters={"sample_rate": 16000})
    convert(str(source), tmp_path / "out")
    assert WavTokenizerFeatureExtractor.from_pretrained(tmp_path / "out").sampling_rate == 16000
    assert WavTokenizerModel.from_pretrained(tmp_path / "out").config.sampling_rate == 16000


def test_unreadable_objects_matter_only_where_a_kept_tensor_should_be(tmp_path):
    state = original_state() | dict.fromkeys(TRAINING_ONLY, Path("no tensor"))
    source = write_checkpoint(tmp_path / "a.ckpt", state, callbacks={"x": Path("y")})
    convert(str(source), tmp_path / "out")
    with pytest.raises(ConversionError, match=r"multiperioddisc.* cannot be read"):
        convert(str(source), tmp_path / "out2", keep_discriminators=True)
    write_checkpoint(source, original_state() | {"head.out.bias": Path("no tensor")})
    with pytest.raises(ConversionError, match=r"head\.out\.bias cannot be read: it is an object made by pathlib"):
        convert(str(source), tmp_path / "out2")
    assert names_in(tmp_path) == {"a.ckpt", "out"}


def bad_sources():
    state = original_state()
    cut = {
        name: value for name, value in state.items() if name not in ("head.out.bias", "backbone.pos_net.4.conv2.bias")
    }
    return {
        "not WavTokenizer": ({"bert.weight": torch.ones(2)}, "not a WavTokenizer checkpoint"),
        "empty": ({}, "not a WavTokenizer checkpoint"),
        "missing": (cut, "missing keys: backbone.pos_net.4.conv2.bias, head.out.bias"),
        "leftover": (state | {"surprise.weight": torch.ones(2)}, "for which the map has no row: surprise.weight"),
        "no place": (state | {"backbone.more": torch.ones(2)}, "for which the model has no place: backbone.more"),
        "shape": (state | {"head.out.bias": torch.ones(2)}, "head.out.bias is [2] instead of [322]"),
        "NaN": (state | {"head.out.bias": torch.full((322,), float("nan"))}, "head.out.bias holds NaN or infinity"),
        "infinity": (
            state | {"backbone.embed.bias": state["backbone.embed.bias"] / 0},
            "backbone.embed.bias holds NaN or infinity",
        ),
        "integers": (
            state | {"head.out.bias": torch.ones(322, dtype=torch.int)},
            "expected tensors of floats, got head.out.",
        ),
    }


@pytest.mark.parametrize("kind", bad_sources())
def test_a_checkpoint_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, kind):
    state, reason = bad_sources()[kind]
    source = write_checkpoint(tmp_path / "a.ckpt", state)
    status, out, error = run("convert", source, tmp_path / "deep" / "out")
    assert status == 1
    assert reason in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in out + error
    assert names_in(tmp_path) == {"a.ckpt"}


def test_a_corrupt_tensor_found_half_way_leaves_nothing(tmp_path):
    source = write_checkpoint(tmp_path / "a.ckpt")
    data = bytearray(source.read_bytes())
    last = original_state()["head.out.weight"].numpy().tobytes()
    data[data.index(last) + 100] ^= 1
    source.write_bytes(data)
    status, _, error = run("convert", source, tmp_path / "out")
    assert status == 1
    assert "checksum of the data of head.out.weight is wrong" in error
    assert names_in(tmp_path) == {"a.ckpt"}


def test_a_yaml_is_checked_against_the_tensors(checkpoint, tmp_path):
    agrees, differs = tmp_path / "agrees.yaml", tmp_path / "differs.yaml"
    text = "model: {init_args: {feature_extractor: {init_args: {dowmsamples: [%s]}}}}"
    agrees.write_text(text % "5, 4, 2, 2")
    differs.write_text(text % "2, 2, 4, 5")
    status, out, _ = run("convert", checkpoint, tmp_path / "out", "--yaml", agrees)
    assert status == 0
    assert "agrees in 1 settings" in out
    status, _, error = run("convert", checkpoint, tmp_path / "out2", "--yaml", differs)
    assert status == 1
    assert "dowmsamples is [2, 2, 4, 5] in the YAML, [5, 4, 2, 2] in the tensors" in error
    assert run("convert", checkpoint, tmp_path / "out2", "--yaml", tmp_path / "none.yaml")[0] == 2
    assert not (tmp_path / "out2").exists()


def test_wrong_use_has_exit_status_2(checkpoint, converted, tmp_path):
    before = {path.name: path.read_bytes() for path in converted.iterdir()}
    for arguments in (
        ("convert", checkpoint, converted),
        ("convert", checkpoint, checkpoint),
        ("convert", tmp_path / "none.ckpt", tmp_path / "new"),
        ("convert", tmp_path, tmp_path / "new"),
        ("convert", "large-unify-75token", tmp_path / "new"),
        ("convert", checkpoint),
        ("convert", checkpoint, tmp_path / "new", "--no-such-option"),
        ("verify", tmp_path / "none", "--against", checkpoint),
        ("verify", converted),
        ("verify", converted, "--against", tmp_path / "none.ckpt"),
        ("verify", converted, "--against", checkpoint, "--audio", tmp_path / "none.wav"),
        ("no-such-command",),
    ):
        assert run(*arguments)[0] == 2, arguments
    assert {path.name: path.read_bytes() for path in converted.iterdir()} == before
    assert names_in(tmp_path) == {"original.ckpt", "out"}


def test_overwriting_replaces_the_model_and_nothing_else(checkpoint, converted, tmp_path):
    (converted / "notes.txt").write_text("mine")
    (converted / "discriminators.safetensors").write_text("stale")
    other = write_checkpoint(tmp_path / "other.ckpt", original_state(seed=1))
    status, out, _ = run("convert", other, converted, "--overwrite")
    assert status == 0
    assert names_in(converted) == FILES | {"notes.txt"}
    assert differences(converted, other) == []
    assert len(differences(converted, checkpoint)) > 50
    assert "converted" in out


def test_a_failed_overwrite_keeps_the_old_model(converted, tmp_path):
    before = {path.name: path.read_bytes() for path in converted.iterdir()}
    bad = write_checkpoint(tmp_path / "bad.ckpt", original_state() | {"surprise": torch.ones(1)})
    assert run("convert", bad, converted, "--overwrite")[0] == 1
    assert {path.name: path.read_bytes() for path in converted.iterdir()} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(checkpoint, tmp_path, monkeypatch, error):
    calls = []

    def stop(what, done, total):
        calls.append(what)
        if what == "writing" and done > total / 2:
            raise error

    with pytest.raises(error):
        convert(str(checkpoint), tmp_path / "out", progress=stop)
    assert "writing" in calls
    assert names_in(tmp_path) == {"original.ckpt"}


def test_a_terminated_process_leaves_nothing(checkpoint, tmp_path):
    """The signal comes while the weights are being written: there, the process waits for it."""
    program = (
        "import sys, time, conversion.convert as c\n"
        "write = c.write_safetensors\n"
        "def waits(*arguments):\n"
        "    write(*arguments); print('written', flush=True); time.sleep(60)\n"
        "c.write_safetensors = waits\n"
        "from conversion.__main__ import main\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "convert", str(checkpoint), str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert len(names_in(tmp_path)) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert names_in(tmp_path) == {"original.ckpt"}


def test_progress_reaches_the_end_of_each_stage(checkpoint, tmp_path):
    seen = []
    done = convert(str(checkpoint), tmp_path / "out", progress=lambda *state: seen.append(state))
    size = checkpoint.stat().st_size
    assert seen[-1] == ("writing", done.num_bytes, done.num_bytes)
    assert ("checking", size, size) in seen
    assert [state[1] for state in seen if state[0] == "writing"] == sorted(s[1] for s in seen if s[0] == "writing")


def test_a_released_checkpoint_is_downloaded_checked_and_described(checkpoint, tmp_path, monkeypatch):
    calls = []

    def download(repo_id, filename, *, revision=None):
        calls.append((repo_id, filename, revision))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert run("convert", "large-speech-75token", tmp_path / "out")[0] == 0
    assert calls == [
        ("novateur/WavTokenizer-large-speech-75token", "wavtokenizer_large_speech_320_24k.ckpt", "1cc9fae")
    ]
    card = (tmp_path / "out/README.md").read_text()
    for part in (
        "# wavtokenizer-large-speech-75token\n",
        "license: mit\n",
        "| Trained on | speech |",
        "`wavtokenizer_large_speech_320_24k.ckpt` of [novateur/WavTokenizer-large-speech-75token]",
        "revision `1cc9fae`",
        f"`{hashlib.sha256(checkpoint.read_bytes()).hexdigest()}`",
        "- Music, singing",
    ):
        assert part in card
    status, _, error = run("convert", "small-speech-75token", tmp_path / "out2")
    assert status == 1
    assert "begins with 721a204f" in error
    assert not (tmp_path / "out2").exists()


def test_of_an_unknown_checkpoint_the_card_says_its_name_and_digest_only(checkpoint, converted):
    card = (converted / "README.md").read_text()
    assert f"| Origin | `{checkpoint.name}` |" in card
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in card
    assert "license:" not in card
    assert "Trained on" not in card


# ------------------------------------------------------------------------------------------------------------- verify


def test_verify_proves_equality_and_tries_real_audio(checkpoint, converted):
    status, out, _ = run("verify", converted, "--against", checkpoint)
    assert status == 0
    assert "differences" in out
    assert "1.90 s" in out
    found = verify(converted, str(checkpoint))
    kept = {name: value for name, value in original_state().items() if to_ours(name)}
    assert (found.num_tensors, found.num_values) == (len(kept), sum(value.numel() for value in kept.values()))
    assert found.differences == []
    assert found.round_trip.num_codes == -(-round(found.round_trip.duration_s * 24000) // 80)
    assert 0 < found.round_trip.rms_in < 1


def change(converted, edit):
    tensors = load_file(converted / "model.safetensors")
    edit(tensors)
    save_file(tensors, converted / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("ours", ["head.linear.bias", "encoder_model.quantizer.codebook.cluster_size"])
def test_verify_names_a_value_that_differs_in_the_last_bit(checkpoint, converted, ours):
    def edit(tensors):
        tensors[ours][3] = torch.nextafter(tensors[ours][3], torch.tensor(1e9))

    change(converted, edit)
    status, _, error = run("verify", converted, "--against", checkpoint)
    assert status == 1
    assert f"{ours}: differs from " in error
    assert len(differences(converted, checkpoint)) == 1


def test_verify_names_missing_and_unexpected_keys(checkpoint, converted, caplog):
    def edit(tensors):
        tensors["head.surprise"] = tensors.pop("head.linear.bias")

    change(converted, edit)
    found = differences(converted, checkpoint)
    assert "head.linear.bias: not in the folder" in found
    assert "head.surprise: in the folder, not in the model" in found


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [("preprocessor_config.json", "hop_length", 320), ("config.json", "sampling_rate", 16000)],
)
def test_verify_names_a_setting_that_differs(checkpoint, converted, file, field, value):
    settings = json.loads((converted / file).read_text())
    (converted / file).write_text(json.dumps(settings | {field: value}))
    found = differences(converted, checkpoint)
    assert any(line.startswith(f"{file}: {field} is {value} instead of ") for line in found)


def test_verify_names_a_discriminator_that_differs(checkpoint, tmp_path):
    convert(str(checkpoint), tmp_path / "out", keep_discriminators=True)
    file = tmp_path / "out/discriminators.safetensors"
    tensors = load_file(file)
    tensors[DISCRIMINATORS[0]] += 1
    tensors["dac.more"] = tensors.pop(DISCRIMINATORS[1])
    save_file(tensors, file)
    assert sorted(differences(tmp_path / "out", checkpoint)) == sorted(
        [
            f"{DISCRIMINATORS[0]}: differs from the checkpoint",
            f"{DISCRIMINATORS[1]}: not in discriminators.safetensors",
            "dac.more: not in the checkpoint",
        ]
    )


def test_verify_reports_audio_that_comes_back_broken(tmp_path):
    state = original_state()
    state["head.out.weight"].fill_(3e38)  # a number, but not when it is multiplied
    source = write_checkpoint(tmp_path / "a.ckpt", state)
    convert(str(source), tmp_path / "out")
    assert differences(tmp_path / "out", source) == ["audio: NaN or infinity came back"]


def test_verify_takes_any_recording(checkpoint, converted, tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.zeros((22050, 2)), 44100)
    found = verify(converted, str(checkpoint), audio=tmp_path / "stereo.wav")
    assert found.round_trip.duration_s == 0.5
    assert found.round_trip.rms_in == 0
    (tmp_path / "noise.wav").write_text("no audio")
    status, _, error = run("verify", converted, "--against", checkpoint, "--audio", tmp_path / "noise.wav")
    assert status == 1
    assert "noise.wav" in error.splitlines()[-1]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_verify_of_a_broken_folder_is_one_line(checkpoint, converted, file):
    (converted / file).write_text("{broken")
    status, _, error = run("verify", converted, "--against", checkpoint)
    assert status == 1
    assert "does not load" in error.splitlines()[-1]


def test_verify_against_another_checkpoint_names_the_keys(converted, tmp_path):
    other = write_checkpoint(tmp_path / "other.ckpt", original_state(seed=1, layers=3))
    found = differences(converted, other)
    assert "backbone.convnext.2.gamma: not in the model" in found
    assert "config.json: decoder_num_layers is 2 instead of 3" in found
    assert any(line.startswith("backbone.convnext.1.gamma: differs") for line in found)


# ---------------------------------------------------------------------------------------------------- at full size

_PEAK = """
import json, resource, sys
from conversion.convert import convert
def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
bare = peak_bytes()
done = convert(sys.argv[1], sys.argv[2])
print(json.dumps([peak_bytes() - bare, done.num_bytes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs elsewhere")
def test_memory_stays_far_below_the_size_of_the_tensors_kept(tmp_path):
    manifest = reference_weights.load_manifest(GOLDEN / "manifest_hop320.json")
    source = tmp_path / "original.ckpt"
    reference_weights.write_original_checkpoint(source, manifest, 1234)
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, source, tmp_path / "out"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    peak, num_bytes = json.loads(result.stdout)
    assert num_bytes > 300e6
    assert peak < 0.5 * num_bytes


def test_the_table_of_released_checkpoints_is_in_the_help():
    status, out, _ = run("convert", "--help")
    assert status == 0
    assert all(release.name in " ".join(out.split()) for release in RELEASED)
