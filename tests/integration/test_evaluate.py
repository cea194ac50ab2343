"""`wavtokenizer evaluate`, run in this process on a tiny codec and on a published pair."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from tests.tiny import noise
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel
from wavtokenizer_hf.cli import app
from wavtokenizer_hf.evaluation import perceptual, pitch
from wavtokenizer_hf.evaluation.registry import METRICS

ANCHOR = Path(__file__).parents[1] / "golden" / "anchor"
SPEECH = Path(__file__).parents[2] / "conversion" / "LJ001-0002.flac"
LEARNED = {"utmos", "wer", "speaker_similarity"}


def run(*arguments) -> tuple[int, str, str]:
    """Runs the command, without pictures unless they are asked for: status, stdout and stderr without its wrapping."""
    if "--num-pictures" not in arguments:
        arguments = (*arguments, "--num-pictures", 0)
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.replace("│", " ").split())


def results(folder: str) -> dict:
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data() -> Path:
    """Recordings of two kinds and one of none, at different rates; and a manifest."""
    folder = Path("data")
    (folder / "deep").mkdir(parents=True)
    shutil.copyfile(SPEECH, folder / "speech.flac")
    soundfile.write(folder / "deep" / "music.wav", 0.3 * np.sin(np.arange(44100) / 20), 44100)
    soundfile.write(folder / "other.wav", noise(24000).numpy(), 24000)
    (folder / "manifest.tsv").write_text(
        "file\tkind\nspeech.flac\tspeech\ndeep/music.wav\tmusic\nother.wav\t\n", encoding="utf-8"
    )
    return folder


class Page(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, text):
        if self.tags and self.tags[-1] in ("td", "th", "h2"):
            self.cells.append(text.strip())


def test_a_codec_is_measured_offline_with_every_metric_accounted_for(data, tiny_folder):
    status, out, err = run(tiny_folder, data, "--out", "scores", "--seed", "5")
    assert status == 0, err
    assert {path.name for path in Path("scores").iterdir()} == {"results.json", "results.md", "index.html"}
    content = results("scores")
    assert list(content["metrics"]) == [metric.name for metric in METRICS]
    for name, metric in content["metrics"].items():
        summary = metric["all"]
        assert summary["num_scored"] + summary["num_skipped"] == 3
        assert sum(summary["reasons"].values()) == summary["num_skipped"]
        assert (summary["num_scored"] == 0) == (name in LEARNED), name
    assert content["metrics"]["pesq_wb"]["kinds"]["music"]["num_scored"] == 0
    assert content["metrics"]["pesq_wb"]["kinds"]["speech"]["num_scored"] == 1
    assert content["intervals"]["seed"] == 5
    assert [clip["kind"] for clip in content["clips"]] == ["speech", "music", None]
    assert content["machine"]["num_threads"] == torch.get_num_threads()
    assert str(data.resolve().parent) not in json.dumps(content)
    assert f"log-mel L1                     {content['metrics']['log_mel_l1']['all']['value']:.4f} [" in out


def test_the_codes_that_are_measured_are_those_of_the_model(data, tiny_folder):
    assert run(tiny_folder, data, "--out", "scores", "--metrics", "codebook_usage,codes_per_second,bitrate")[0] == 0
    model = WavTokenizerModel.from_pretrained(tiny_folder).eval()
    extractor = WavTokenizerFeatureExtractor(hop_length=80)
    codes, seconds = [], 0.0
    for name in ("speech.flac", "deep/music.wav", "other.wav"):
        clip = extractor(data / name, resample=True, return_tensors="pt")["input_values"]
        codes += model.encode(clip).audio_codes.flatten().tolist()
        seconds += clip.shape[-1] / 24000
    content = results("scores")
    values = {name: metric["all"]["value"] for name, metric in content["metrics"].items()}
    assert values == {
        "codebook_usage": pytest.approx(100 * len(set(codes)) / 64),
        "codes_per_second": pytest.approx(len(codes) / seconds),
        "bitrate": pytest.approx(6 * len(codes) / seconds / 1000),
    }
    assert content["model"]["codebook_size"] == 64
    assert content["model"]["name"] == tiny_folder.name


def test_the_page_shows_scores_by_kind_skips_and_clips(data, tiny_folder):
    assert run(tiny_folder, data, "--out", "scores", "--num-pictures", "2")[0] == 0
    page = Page(Path("scores", "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("audio") == 2 * 2
    assert page.tags.count("img") == 2 * 4
    assert {"all, 3 clips", "speech, 1 clip", "music, 1 clip"} <= set(page.cells)
    assert {"Overview", "Scores", "Skipped", "What the measures say", "deep/music.wav"} <= set(page.cells)
    assert "meant for speech, and the clip is music" in page.cells


def test_saved_audio_scored_as_pairs_gives_the_same_figures(data, tiny_folder):
    names = "log_mel_l1,stft_distance,stoi,pesq_wb"
    assert run(tiny_folder, data, "--out", "scores", "--save-audio", "--metrics", names)[0] == 0
    saved = {path.relative_to("scores/audio").as_posix() for path in Path("scores/audio").rglob("*.flac")}
    assert saved == {"speech.flac", "deep/music.flac", "other.flac"}
    assert run("--pairs", data, "scores/audio", "--out", "again", "--metrics", names)[0] == 0
    for first, second in zip(results("scores")["clips"], results("again")["clips"], strict=True):
        assert first["name"] == second["name"]
        assert first["skipped"] == second["skipped"]
        for name, value in first["values"].items():
            assert second["values"][name] == (None if value is None else pytest.approx(value, rel=0.02))  # 16 bits


def test_published_pairs_are_scored_without_a_codec():
    names = "frame_tone_db,level_db,log_mel_l1,pesq_wb,stoi,gpe,vuv_f1"
    for rate in ("75", "40"):
        folders = ANCHOR / "ref", ANCHOR / f"wavtokenizer_{rate}"
        status, _, err = run("--pairs", *folders, "--frame-rate", rate, "-o", rate, "--metrics", names)
        assert status == 0, err
    better, worse = (results(rate)["metrics"] for rate in ("75", "40"))
    assert better["log_mel_l1"]["all"]["value"] < worse["log_mel_l1"]["all"]["value"]
    assert better["pesq_wb"]["all"]["value"] > worse["pesq_wb"]["all"]["value"] + 0.3
    assert better["stoi"]["all"]["value"] > worse["stoi"]["all"]["value"]
    for measures in (better, worse):
        assert measures["gpe"]["all"]["value"] < 0.2
        assert measures["vuv_f1"]["all"]["value"] > 0.8
        assert abs(measures["frame_tone_db"]["all"]["value"]) < 3
        assert abs(measures["level_db"]["all"]["value"]) < 1.5
    assert results("75")["warnings"] == []
    assert results("75")["model"] is None


def test_what_cannot_be_measured_is_said_in_one_line_or_an_error_where_it_was_asked_for(data, monkeypatch):
    def absent(package, extra):
        raise ImportError(f"{package} does not load. Install it with: pip install 'wavtokenizer-hf[{extra}]'")

    for module in (perceptual, pitch):
        monkeypatch.setattr(module, "import_extra", absent)
    status, _, err = run("--pairs", data, data, "--out", "scores")
    assert status == 0, err
    line = next(line for line in err.split("not measured: ")[1:])
    assert "pesq_wb (pesq does not load. Install it with: pip install 'wavtokenizer-hf[eval]')" in line
    assert "gpe, vuv_f1, f0_correlation (pyworld does not load." in line
    assert "codebook_usage, codebook_perplexity" in line
    assert err.count("not measured: ") == 1
    for name, reason in (("gpe", "pyworld does not load"), ("bitrate", "there are no codes")):
        status, _, err = run("--pairs", data, data, "--out", "again", "--metrics", f"log_mel_l1,{name}")
        assert status == 1
        assert f"error: what was asked for cannot be computed. {name}: {reason}" in err
        assert not Path("again").exists()


def test_files_without_a_counterpart_are_listed(data):
    Path("deg").mkdir()
    shutil.copyfile(SPEECH, "deg/speech.flac")
    shutil.copyfile(SPEECH, "deg/stranger.flac")
    status, _, err = run("--pairs", data, "deg", "--out", "scores", "--metrics", "log_mel_l1")
    assert status == 0, err
    assert results("scores")["unmatched"] == {
        "references": ["deep/music.wav", "other.wav"],
        "estimates": ["stranger.flac"],
    }
    assert "stranger.flac" in Path("scores", "results.md").read_text(encoding="utf-8")


def test_a_broken_recording_is_counted_named_and_ends_in_status_1_with_results(data, tiny_folder):
    (data / "other.wav").write_bytes(b"RIFF")
    status, out, err = run(tiny_folder, data, "--out", "scores", "--metrics", "log_mel_l1")
    assert status == 1
    assert "error: other.wav: Cannot read" in err
    assert "index.html" in out
    content = results("scores")
    assert content["clip_counts"]["all"]["num_unreadable"] == 1
    assert content["metrics"]["log_mel_l1"]["all"]["num_scored"] == 2


def test_the_model_may_come_from_the_environment(data, tiny_folder, monkeypatch):
    monkeypatch.setenv("WAVTOKENIZER_MODEL", str(tiny_folder))
    assert run(data / "speech.flac", "--out", "scores", "--metrics", "bitrate", "--limit", "1")[0] == 0
    assert [clip["name"] for clip in results("scores")["clips"]] == ["speech.flac"]


def test_results_are_written_over_only_when_told_so(data, tiny_folder):
    Path("scores").mkdir()
    Path("scores/results.json").write_text("mine")
    arguments = (tiny_folder, data, "--out", "scores", "--metrics", "bitrate")
    status, _, err = run(*arguments)
    assert status == 2
    assert "would be overwritten" in err
    assert Path("scores/results.json").read_text() == "mine"
    assert run(*arguments, "--overwrite")[0] == 0
    assert results("scores")["format"] == "wavtokenizer-evaluation"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "MODEL holds no file that ends in .wav"),
        (["--pairs", "data"], "--pairs takes REF_DIR DEG_DIR, got data"),
        (["MODEL", "data", "more"], "expected [MODEL] DATA, got MODEL data more"),
        (["MODEL", "nowhere"], "no such file: nowhere"),
        (["MODEL", "data", "--metrics", "pesq"], "no metric is called 'pesq'; there are frame_tone_db"),
        (["--pairs", "data", "data", "--save-audio"], "--pairs runs no codec"),
        (["MODEL", "data", "--frame-rate", "75"], "--frame-rate goes with --pairs; a codec has its own"),
        (["MODEL", "data", "--bandwidth-id", "7"], "--bandwidth-id must lie from 0 to 3"),
        (["MODEL", "data", "--limit", "0"], "'--limit'"),
        (["MODEL", "data", "--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_wrong_use_has_status_2_and_writes_nothing(data, tiny_folder, arguments, message, monkeypatch):
    monkeypatch.delenv("WAVTOKENIZER_MODEL", raising=False)
    Path("MODEL").symlink_to(tiny_folder)
    status, _, err = run(*arguments, "--out", "scores")
    assert status == 2
    assert message in err
    assert not Path("scores").exists()


def test_data_that_cannot_be_listed_fails_in_one_line(data, tiny_folder):
    (data / "manifest.tsv").write_text("file\tstart\nspeech.flac\tsoon\n")
    status, _, err = run(tiny_folder, data, "--out", "scores")
    assert status == 1
    assert err == "error: data/manifest.tsv: line 2: start must be a number of seconds, 0 or more, got 'soon'"
    Path("deg").mkdir()
    soundfile.write("deg/x.wav", noise(100).numpy(), 24000)
    (data / "manifest.tsv").unlink()
    status, _, err = run("--pairs", data, "deg", "--out", "scores")
    assert status == 1
    assert "no file in deg is called like one in data" in err
    assert not Path("scores").exists()
