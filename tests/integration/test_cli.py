"""The commands, run in this process on a tiny model."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.original_checkpoint import write_checkpoint
from tests.tiny import tiny_causal_model, tiny_model
from wavtokenizer_hf import (
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerFeatureExtractor,
    WavTokenizerModel,
    fingerprint,
)
from wavtokenizer_hf.audio import CodeFile
from wavtokenizer_hf.cli import main

CLIP = Path(__file__).parents[2] / "conversion" / "LJ001-0002.flac"
HOP = 80


def save(folder: Path, model) -> Path:
    model.save_pretrained(folder)
    WavTokenizerFeatureExtractor(hop_length=math.prod(model.config.upsampling_ratios)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny codec, saved."""
    return save(tmp_path_factory.mktemp("models") / "tiny", tiny_model())


@pytest.fixture(scope="module")
def model(folder) -> WavTokenizerModel:
    return WavTokenizerModel.from_pretrained(folder).eval()


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty working folder; gives its status, stdout and stderr (unwrapped, without colours)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_in_place(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        err = re.sub(r"\x1b\[[0-9;]*m", "", printed.err).replace("│", " ")
        return ended.value.code, printed.out, " ".join(err.split())

    return run_in_place


def noise(num_samples: int, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).normal(size=(num_samples, num_channels)).clip(-4, 4)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def encoded(model: WavTokenizerModel, path: Path) -> tuple[np.ndarray, int]:
    clip = WavTokenizerFeatureExtractor(hop_length=HOP)(path, resample=True, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        return model.encode(clip).audio_codes[0].numpy(), clip.shape[-1]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_encode_writes_the_codes_of_the_model_and_all_that_decoding_needs(run, folder, model, suffix):
    status, out, err = run("encode", CLIP, "-o", f"clip{suffix}", "--model", folder)
    assert (status, err) == (0, "")
    codes = CodeFile.load(f"clip{suffix}")
    expected, num_samples = encoded(model, CLIP)
    np.testing.assert_array_equal(codes.audio_codes, expected)
    assert len(np.unique(expected)) > 5
    assert codes.num_samples == num_samples == math.ceil(soundfile.info(CLIP).frames * 24000 / 22050)
    assert (codes.sampling_rate, codes.hop_length, codes.codebook_size) == (24000, HOP, 64)
    assert (codes.fingerprint, codes.model, codes.source) == (fingerprint(model), "tiny", "LJ001-0002.flac")
    assert out == f"clip{suffix}: {codes.num_codes} codes for 1.90 s\n"
    assert names_in(Path()) == {f"clip{suffix}"}


@pytest.mark.parametrize(("name", "step"), [("clip.wav", 2**-15), ("clip.flac", 2**-15), ("clip.ogg", None)])
def test_decode_gives_the_audio_of_the_model_at_the_exact_length(run, folder, model, name, step):
    run("encode", CLIP, "-o", "clip.npz", "--model", folder)
    status, out, err = run("decode", "clip.npz", "-o", name, "--model", folder, "--bandwidth-id", "2")
    assert (status, err) == (0, "")
    samples, sampling_rate = soundfile.read(name, dtype="float32")
    codes = CodeFile.load("clip.npz")
    assert sampling_rate == 24000
    assert samples.shape == (codes.num_samples,)
    assert out == f"{name}: 1.90 s at 24000 Hz\n"
    if step:
        with torch.inference_mode():
            audio_values = model.decode(torch.from_numpy(codes.audio_codes)[None], bandwidth_id=2).audio_values
        expected = audio_values[0, 0, : codes.num_samples].numpy()
        assert np.abs(expected).max() > 20 * step
        np.testing.assert_allclose(samples, expected.clip(-1, 1), atol=step)


def test_a_long_clip_decodes_in_pieces_to_nearly_the_same_sound_of_the_same_length(run, folder):
    num_codes = 2000
    CodeFile(
        audio_codes=np.arange(num_codes)[None] % 61,
        sampling_rate=24000,
        num_samples=num_codes * HOP - 7,
        hop_length=HOP,
        codebook_size=64,
        fingerprint="",
        model="",
        source="",
    ).save("long.npz")
    assert run("decode", "long.npz", "-o", "whole.wav", "--model", folder)[0] == 0
    assert run("decode", "long.npz", "-o", "pieces.wav", "--model", folder, "--chunked")[0] == 0
    whole, pieces = (soundfile.read(name)[0] for name in ("whole.wav", "pieces.wav"))
    assert len(whole) == len(pieces) == num_codes * HOP - 7
    error = pieces - whole
    assert np.abs(error).max() > 0
    assert np.square(error).sum() < 0.5 * np.square(whole).sum()


FORMATS = [
    *[(".wav", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
    (".flac", "PCM_16"),
    (".flac", "PCM_24"),
    (".ogg", "VORBIS"),
    (".mp3", "MPEG_LAYER_III"),
]


def test_recordings_of_every_format_rate_and_channel_count_go_through_the_codec_and_back(run, folder):
    lengths = {}
    for suffix, subtype in FORMATS:
        is_mp3 = suffix == ".mp3"
        for sampling_rate in (8000, 16000, 22050, 24000, 44100, 48000, *(() if is_mp3 else (96000, 192000))):
            for num_channels in (1, 2) if is_mp3 else (1, 2, 6):
                path = Path("in", f"{suffix[1:]}_{subtype}_{num_channels}", f"{sampling_rate}{suffix}")
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, noise(1700 + num_channels, num_channels), sampling_rate, subtype=subtype)
                lengths[path.relative_to("in")] = math.ceil(soundfile.info(path).frames * 24000 / sampling_rate)
    assert run("encode", "in", "-o", "codes", "-m", folder)[0] == 0
    assert run("decode", "codes", "-o", "out", "-m", folder)[0] == 0
    assert names_in(Path("out")) == {path.with_suffix(".wav").as_posix() for path in lengths}
    for path, num_samples in lengths.items():
        codes = CodeFile.load(Path("codes", path).with_suffix(".npz"))
        assert (codes.num_samples, codes.num_codes) == (num_samples, math.ceil(num_samples / HOP)), path
        decoded = soundfile.info(Path("out", path).with_suffix(".wav"))
        assert (decoded.frames, decoded.samplerate, decoded.channels) == (num_samples, 24000, 1), path


def test_the_codes_of_stereo_are_those_of_its_mean(run, folder):
    stereo = noise(5000, 2)
    soundfile.write("stereo.wav", stereo, 24000, subtype="DOUBLE")
    soundfile.write("mono.wav", stereo.mean(axis=1), 24000, subtype="DOUBLE")
    run("encode", "stereo.wav", "mono.wav", "-o", "codes", "-m", folder)
    np.testing.assert_array_equal(
        CodeFile.load("codes/stereo.npz").audio_codes, CodeFile.load("codes/mono.npz").audio_codes
    )


@pytest.mark.parametrize("num_samples", [1, 79, 80, 81])
def test_clips_around_one_code_come_back_at_their_length(run, folder, num_samples):
    soundfile.write("short.wav", noise(num_samples), 24000)
    assert run("reconstruct", "short.wav", "out.wav", "-m", folder)[0] == 0
    assert soundfile.info("out.wav").frames == num_samples


def test_reconstruct_equals_encoding_and_decoding_and_writes_a_page(run, folder):
    status, out, err = run("reconstruct", CLIP, "out.wav", "-m", folder, "--report", "page")
    assert (status, err) == (0, "")
    run("encode", CLIP, "-o", "clip.npz", "-m", folder)
    run("decode", "clip.npz", "-o", "decoded.wav", "-m", folder)
    np.testing.assert_allclose(soundfile.read("out.wav")[0], soundfile.read("decoded.wav")[0], atol=2**-14)
    assert soundfile.info("out.wav").frames == CodeFile.load("clip.npz").num_samples
    assert out.splitlines()[1] == f"{Path('page', 'index.html')}: the comparison"
    page = Path("page", "index.html").read_text(encoding="utf-8")
    assert "LJ001-0002.flac" in page
    assert "tiny" in page


def test_reconstruct_lays_out_a_folder_and_its_pages_alike(run, folder):
    for name in ("a.wav", "deep/a.wav"):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(Path("in", name), noise(3000), 24000)
    assert run("reconstruct", "in", "out", "-m", folder, "--report", "pages", "--format", "flac")[0] == 0
    assert names_in(Path("out")) == {"a.flac", "deep/a.flac"}
    assert names_in(Path("pages")) == {"a/index.html", "deep/a/index.html"}


def test_one_bad_file_is_reported_and_does_not_stop_the_rest(run, folder):
    Path("in").mkdir()
    for name in ("a.wav", "z.wav"):
        soundfile.write(f"in/{name}", noise(3000), 24000)
    Path("in/film.wav").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    soundfile.write("in/nan.wav", np.array([0.1, np.nan, 0.1]), 24000, subtype="FLOAT")
    soundfile.write("in/empty.wav", np.zeros(0), 24000)
    status, _, err = run("encode", "in", "gone.wav", "-o", "codes", "-m", folder)
    assert status == 1
    assert names_in(Path("codes")) == {"a.npz", "z.npz"}
    assert err.count("error: ") == 4
    assert "film.wav" in err
    assert "WAV, FLAC, OGG" in err
    assert f"error: {Path('in', 'nan.wav')}, block 0 holds NaN or infinity" in err
    assert f"error: {Path('in', 'empty.wav')} holds no samples" in err
    assert "No such audio file: gone.wav" in err
    assert "Encoding: 2 of 6 files done" in err
    assert "2/6" not in err  # the bar counts what it has passed
    assert "6/6" in err
    assert "Traceback" not in err


def test_a_bad_file_of_codes_is_reported_and_does_not_stop_the_rest(run, folder):
    soundfile.write("a.wav", noise(3000), 24000)
    run("encode", "a.wav", "-o", "codes/a.npz", "-m", folder)
    Path("codes/b.npz").write_bytes(Path("codes/a.npz").read_bytes()[:-30])
    Path("codes/c.json").write_text("{}")
    status, _, err = run("decode", "codes", "-o", "out", "-m", folder)
    assert status == 1
    assert names_in(Path("out")) == {"a.wav"}
    assert f"{Path('codes', 'b.npz')} is not a readable .npz file of codes" in err
    assert f"{Path('codes', 'c.json')} is not a file of codes" in err


def test_codes_of_another_model_decode_with_a_warning(run, folder, tmp_path):
    other = save(tmp_path / "other", tiny_model(seed=1))
    run("encode", CLIP, "-o", "codes/a.npz", "-m", folder)
    run("encode", CLIP, "-o", "codes/b.npz", "-m", folder)
    assert run("decode", "codes/a.npz", "-o", "same.wav", "-m", folder) == (0, "same.wav: 1.90 s at 24000 Hz\n", "")
    status, _, err = run("decode", "codes/a.npz", "-o", "a.wav", "-m", other)
    assert status == 0
    assert err == f"warning: {Path('codes', 'a.npz')} was made by another model than other: the audio may be wrong"
    status, _, err = run("decode", "codes", "-o", "out", "-m", other)
    assert status == 0
    assert f"warning: {Path('codes', 'a.npz')} (and 1 more) was made by another model than other" in err


def test_codes_of_another_geometry_are_refused(run, folder, tmp_path):
    other = save(tmp_path / "other", tiny_model(upsampling_ratios=[4, 4, 2, 2]))
    run("encode", CLIP, "-o", "a.npz", "-m", folder)
    status, _, err = run("decode", "a.npz", "-o", "a.wav", "-m", other)
    assert status == 1
    assert (
        err
        == "error: a.npz was made with hop_length 80, and other has 64: decode it with the model that made it (tiny)"
    )
    assert not Path("a.wav").exists()


def test_half_precision_changes_neither_the_fingerprint_nor_the_length(run, folder, model):
    for dtype in ("bfloat16", "float16"):
        assert run("encode", CLIP, "-o", f"{dtype}.npz", "-m", folder, "--dtype", dtype)[0] == 0
        codes = CodeFile.load(f"{dtype}.npz")
        assert codes.fingerprint == fingerprint(model)
        decoded = run("decode", f"{dtype}.npz", "-o", f"{dtype}.wav", "-m", folder, "--dtype", dtype)
        assert (decoded[0], decoded[2]) == (0, "")
        assert soundfile.info(f"{dtype}.wav").frames == codes.num_samples


def test_each_half_does_its_half_alone(run, folder, tmp_path):
    encoder, decoder = tmp_path / "encoder", tmp_path / "decoder"
    WavTokenizerEncoderModel.from_pretrained(folder).save_pretrained(encoder)
    WavTokenizerDecoderModel.from_pretrained(folder).save_pretrained(decoder)
    assert run("encode", CLIP, "-o", "a.npz", "-m", encoder)[0] == 0
    run("encode", CLIP, "-o", "whole.npz", "-m", folder)
    assert CodeFile.load("a.npz").fingerprint == CodeFile.load("whole.npz").fingerprint
    status, _, err = run("decode", "a.npz", "-o", "a.wav", "-m", decoder)
    assert status == 0
    assert err == (
        "warning: a.npz may have been made by another model than decoder: a decoder alone has no fingerprint"
    )
    run("decode", "a.npz", "-o", "whole.wav", "-m", folder)
    assert Path("a.wav").read_bytes() == Path("whole.wav").read_bytes()
    for arguments in (("encode", CLIP, "-o", "b.npz", "-m", decoder), ("reconstruct", CLIP, "b.wav", "-m", decoder)):
        status, _, err = run(*arguments)
        assert status == 1
        assert "holds a decoder alone" in err
    status, _, err = run("decode", "a.npz", "-o", "b.wav", "-m", encoder)
    assert status == 1
    assert "holds an encoder alone" in err


def test_without_a_model_commands_take_the_package_s(run):
    assert run("reconstruct", CLIP, "copy.wav")[0] == 0
    assert soundfile.info("copy.wav").frames == 45590
    assert run("encode", CLIP, "-o", "a.npz")[0] == run("encode", CLIP, "-o", "b.npz", "-m", "nano-75")[0] == 0
    codes = CodeFile.load("a.npz")
    assert codes.model == "nano-75"
    assert codes.fingerprint == CodeFile.load("b.npz").fingerprint
    assert run("decode", "a.npz", "-o", "a.wav")[0] == 0
    status, out, _ = run("info")
    assert status == 0
    assert "WavTokenizerModel" in out
    assert run("export-hub", "nano-75", "exported")[0] == 0
    assert "# wavtokenizer-nano-75" in Path("exported/README.md").read_text(encoding="utf-8")


def test_the_model_may_come_from_the_environment(run, folder, monkeypatch):
    monkeypatch.setenv("WAVTOKENIZER_MODEL", str(folder))
    assert run("encode", CLIP, "-o", "a.npz")[0] == 0
    assert CodeFile.load("a.npz").model == folder.name


def test_a_folder_of_that_name_goes_before_the_package_s_model(run, folder):
    shutil.copytree(folder, "nano-75")
    assert run("encode", CLIP, "-o", "a.npz")[0] == 0
    assert run("encode", CLIP, "-o", "b.npz", "-m", folder)[0] == 0
    assert CodeFile.load("a.npz").fingerprint == CodeFile.load("b.npz").fingerprint


def test_outputs_are_written_over_only_when_told_so(run, folder):
    Path("a.npz").write_text("mine")
    Path("page").mkdir()
    Path("page/index.html").write_text("mine")
    status, _, err = run("encode", CLIP, "-o", "a.npz", "-m", folder)
    assert status == 2
    assert "--overwrite" in err
    assert run("reconstruct", CLIP, "a.wav", "-m", folder, "--report", "page")[0] == 2
    assert Path("a.npz").read_text() == Path("page/index.html").read_text() == "mine"
    assert run("encode", CLIP, "-o", "a.npz", "-m", folder, "--overwrite")[0] == 0
    assert CodeFile.load("a.npz").num_codes > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "a.wav", "-o", "a.txt", "-m", "{folder}"), "must end in .npz, .json"),
        (("encode", "gone.wav", "-o", "a.npz", "-m", "{folder}"), "no such file: gone.wav"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "./nowhere"), "no such folder"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "a.wav"), "is a file"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "nano-57"), "did you mean nano-75?"),
        (("info", "Small-Speech-57token"), "did you mean small-speech-75token?"),
        (("info", "novateur/WavTokenizer"), "name one: small-speech-40token, small-speech-75token"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "."), "holds no config.json"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "{folder}", "--device", "abacus"), "no device 'abacus'"),
        (("encode", "a.wav", "-o", "a.npz", "-m", "{folder}", "--dtype", "int8"), "int8"),
        (("decode", "c.npz", "-o", "c.wav", "-m", "{folder}", "--bandwidth-id", "4"), "from 0 to 3"),
        (("decode", "c.npz", "-o", "c.wav", "-m", "{folder}", "--bandwidth-id", "-1"), "--bandwidth-id"),
        (("reconstruct", "a.wav", "a.wav", "-m", "{folder}", "--overwrite"), "is an input too"),
        (("encode",), "IN"),
        (("transmogrify",), "transmogrify"),
    ],
)
def test_wrong_use_has_status_2_and_writes_nothing(run, folder, arguments, message):
    soundfile.write("a.wav", noise(100), 24000)
    Path("c.npz").touch()
    before = names_in(Path())
    status, _, err = run(*(argument.format(folder=folder) for argument in arguments))
    assert status == 2
    assert message in err
    assert names_in(Path()) == before


def test_a_causal_codec_is_served_like_any_other(run, tmp_path):
    folder = save(tmp_path / "causal", tiny_causal_model())
    status, out, _ = run("info", folder, "--json")
    facts = json.loads(out)
    assert (status, facts["fingerprint"]) == (0, fingerprint(WavTokenizerModel.from_pretrained(folder)))
    assert run("encode", CLIP, "-o", "a.npz", "-m", folder)[0] == 0
    assert run("decode", "a.npz", "-o", "a.wav", "-m", folder)[0] == 0
    model = WavTokenizerModel.from_pretrained(folder).eval()
    codes, num_samples = encoded(model, CLIP)
    np.testing.assert_array_equal(CodeFile.load("a.npz").audio_codes, codes)
    with torch.inference_mode():
        expected = model.decode(torch.from_numpy(codes)[None]).audio_values[0, 0, :num_samples]
    np.testing.assert_allclose(soundfile.read("a.wav")[0], expected.clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model_type": "encodec"}, "holds a model of type 'encodec', expected 'wavtokenizer'"), ({}, "of type None")],
)
def test_a_folder_of_another_model_fails_with_its_type(run, tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, _, err = run("encode", CLIP, "-o", "a.npz", "-m", tmp_path)
    assert status == 1
    assert message in err


def test_a_model_that_is_nowhere_fails_with_both_places_named(run):
    status, _, err = run("encode", CLIP, "-o", "a.npz", "-m", "nobody/nothing")
    assert status == 1
    assert err.startswith("error: nobody/nothing is neither a folder here nor to be had from the Hub: ")


def shell(command, folder, **options):
    """Runs a line of bash in which `$W` is the command line; its status is that of the first command that failed."""
    variables = {"W": f"{sys.executable} -m wavtokenizer_hf", "WAVTOKENIZER_MODEL": str(folder)}
    line = ["bash", "-c", f"set -o pipefail; {command}"]
    return subprocess.run(line, capture_output=True, env=os.environ | variables, **options)


def test_recordings_and_codes_go_through_pipes(run, folder):
    run("encode", CLIP, "-o", "expected.npz", "-m", folder)
    run("decode", "expected.npz", "-o", "expected.wav", "-m", folder)
    done = shell(
        "$W encode - -o - | tee codes.npz | $W decode - --out - --format wav", folder, input=CLIP.read_bytes()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == Path("expected.wav").read_bytes()
    codes = CodeFile.load("codes.npz")
    np.testing.assert_array_equal(codes.audio_codes, CodeFile.load("expected.npz").audio_codes)
    assert codes.source == "stdin"
    assert b"stdout.npz: " in done.stderr


@pytest.mark.parametrize("command", ["--help", "info {codes}", "info {codes} --json", "decode {codes} -o -"])
def test_a_reader_that_has_gone_is_no_error(run, folder, command):
    run("encode", CLIP, "-o", "a.npz", "-m", folder)
    reading, writing = os.pipe()
    os.close(reading)
    arguments = command.format(codes="a.npz").split()
    variables = os.environ | {"WAVTOKENIZER_MODEL": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "wavtokenizer_hf", *arguments], stdout=writing, stderr=subprocess.PIPE, env=variables
    )
    os.close(writing)
    assert done.returncode == 0
    assert not re.search(rb"error|warning|ignored|Traceback", done.stderr), done.stderr


def test_where_to_write_is_said_once_as_an_argument_or_an_option(run, folder):
    assert run("reconstruct", CLIP, "-o", "a.wav", "-m", folder)[0] == 0
    for places in ((), ("b.wav", "-o", "c.wav")):
        status, _, err = run("reconstruct", CLIP, *places, "-m", folder)
        assert status == 2
        assert "say where to write" in err
    assert names_in(Path()) == {"a.wav"}


def test_an_interrupted_command_goes_on_with_what_is_missing(run, folder):
    Path("in").mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(f"in/{name}", noise(3000), 24000)
    run("encode", "in/a.wav", "-o", "codes/", "-m", folder)
    before = Path("codes/a.npz").stat().st_mtime_ns
    status, _, err = run("encode", "in", "-o", "codes", "-m", folder, "--skip-existing")
    assert (status, "1 of 2 files were done before" in err) == (0, True)
    assert names_in(Path("codes")) == {"a.npz", "b.npz"}
    assert Path("codes/a.npz").stat().st_mtime_ns == before
    assert run("encode", "in", "-o", "codes", "-m", "nowhere", "--skip-existing")[0] == 0  # nothing is left to do
    assert run("encode", "in", "-o", "codes", "-m", folder, "--skip-existing", "--overwrite")[0] == 2


def test_a_released_checkpoint_goes_by_its_name_and_is_converted_once(run, tmp_path, monkeypatch):
    downloads = []

    def download(repo_id, filename, *, revision=None):
        downloads.append(filename)
        return str(write_checkpoint(tmp_path / "original.ckpt"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    status, _, err = run("encode", CLIP, "-o", "a.npz", "-m", "medium-speech-75token")
    assert status == 0
    assert "was not converted yet: wavtokenizer convert medium-speech-75token" in err
    status, out, err = run("decode", "a.npz", "-o", "a.wav", "-m", "medium-speech-75token")
    assert (status, out, err) == (0, "a.wav: 1.90 s at 24000 Hz\n", "")
    assert downloads == ["wavtokenizer_medium_speech_320_24k.ckpt"]
    assert CodeFile.load("a.npz").model == "medium-speech-75token"


def test_a_released_checkpoint_that_cannot_be_had_leaves_nothing(run, tmp_path, monkeypatch):
    def download(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    status, _, err = run("info", "simvq-262k")
    assert status == 1
    assert err.endswith("epoch=49-step=138600.ckpt: no network")
    assert names_in(tmp_path) == set()


def test_a_model_with_a_missing_weight_fails_instead_of_drawing_one(run, tmp_path):
    model = tiny_model()
    state = model.state_dict()
    del state["encoder_model.encoder.layers.0.conv.bias"]
    model.save_pretrained(tmp_path / "torn", state_dict=state)
    status, _, err = run("encode", CLIP, "-o", "a.npz", "-m", tmp_path / "torn")
    assert status == 1
    assert "lacks weights of WavTokenizerEncoderModel: encoder.layers.0.conv.bias (1 in all)" in err
    assert not Path("a.npz").exists()


def test_an_error_is_one_line_and_debug_shows_where(run, folder):
    Path("a.wav").write_bytes(b"nothing")
    arguments = ("encode", "a.wav", "-o", "a.npz", "-m", folder)
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    status, _, err = run(*arguments, "--debug")
    assert status == 1
    assert "Traceback" in err
    assert "open_audio" in err


def test_loud_output_is_clipped_with_a_warning(run, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.linear.bias[: model.config.n_fft // 2 + 1] += 6  # the log magnitudes
    loud = save(tmp_path / "loud", model)
    status, _, err = run("reconstruct", CLIP, "a.wav", "-m", loud)
    assert status == 0
    assert err == "warning: a.wav went beyond full scale and was clipped"
    assert np.abs(soundfile.read("a.wav", dtype="int16")[0]).max() >= 32767


def test_info_describes_a_model(run, folder, model):
    status, out, _ = run("info", folder, "--json")
    assert status == 0
    assert json.loads(out) == {
        "class": "WavTokenizerModel",
        "sampling_rate_hz": 24000,
        "hop_length": 80,
        "codes_per_second": 300.0,
        "codebook_size": 64,
        "bitrate_kbps": 1.8,  # 300 codes of 6 bits
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "fingerprint": fingerprint(model),
        "dtype": "float32",
        "layout": "current",
        "fused": False,
        "auto_map": None,
    }
    text = run("info", folder)[1]
    assert ["fused", "no"] in [line.split() for line in text.splitlines()]


def test_info_tells_the_layout_the_precision_and_the_half(run, folder, tmp_path):
    WavTokenizerEncoderModel.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    WavTokenizerDecoderModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "decoder")
    encoder = json.loads(run("info", tmp_path / "encoder", "--json")[1])
    assert (encoder["class"], encoder["layout"]) == ("WavTokenizerEncoderModel", "encoder alone")
    assert encoder["fingerprint"] == json.loads(run("info", folder, "--json")[1])["fingerprint"]
    decoder = json.loads(run("info", tmp_path / "decoder", "--json")[1])
    assert (decoder["layout"], decoder["dtype"], decoder["fingerprint"]) == ("decoder alone", "bfloat16", None)


def test_info_reads_the_earlier_layout_and_shards(run, folder, model, tmp_path):
    from safetensors.torch import load_file, save_file

    earlier = tmp_path / "earlier"
    save(earlier, tiny_model())
    state = load_file(earlier / "model.safetensors")
    renamed = {key.removeprefix("encoder_model."): tensor for key, tensor in state.items()}
    save_file(renamed, earlier / "model.safetensors", metadata={"format": "pt"})
    facts = json.loads(run("info", earlier, "--json")[1])
    assert (facts["layout"], facts["fingerprint"]) == ("earlier", fingerprint(model))

    model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    facts = json.loads(run("info", tmp_path / "sharded", "--json")[1])
    assert (facts["layout"], facts["dtype"], facts["fingerprint"]) == ("current", "float32", fingerprint(model))


def test_info_describes_a_file_of_codes(run, folder, model):
    run("encode", CLIP, "-o", "a.json", "-m", folder)
    codes = CodeFile.load("a.json")
    facts = json.loads(run("info", "a.json", "--json")[1])
    assert facts == {
        "codes": codes.num_codes,
        "distinct_codes": len(np.unique(codes.audio_codes)),
        "duration_s": round(codes.num_samples / 24000, 6),
        "num_samples": codes.num_samples,
        "sampling_rate_hz": 24000,
        "hop_length": 80,
        "codes_per_second": 300.0,
        "bitrate_kbps": 1.8,
        "codebook_size": 64,
        "model": "tiny",
        "fingerprint": fingerprint(model),
        "source": "LJ001-0002.flac",
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_run_leaves_no_partial_output(run, folder, monkeypatch, error):
    def interrupted(self, data):
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "write", interrupted)
    status, _, err = run("reconstruct", CLIP, "out/a.wav", "-m", folder)
    assert status != 0
    assert "Traceback" not in err
    assert names_in(Path()) == set()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_ends_the_process_without_traceback_or_partial_output(folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(24000 * 3), 24000)
    inputs = []
    for index in range(2000):
        (tmp_path / f"{index}.wav").symlink_to(tmp_path / "a.wav")
        inputs.append(f"{index}.wav")
    process = subprocess.Popen(
        [sys.executable, "-m", "wavtokenizer_hf", "encode", *inputs, "-o", "codes", "-m", str(folder)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "codes").glob("*.npz")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in err
    written = list((tmp_path / "codes").iterdir())
    assert 0 < len(written) < 2000
    for path in written:
        assert CodeFile.load(path).num_codes == 900
