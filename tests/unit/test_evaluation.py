"""Running metrics over pairs: what is scored or skipped, how values are pooled, where pairs come from."""

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
import torch
from markdown_it import MarkdownIt

from tests.tiny import noise
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.audio.manifest import Entry, find_entries
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.evaluation.coding import CodebookUsage
from wavtokenizer_hf.evaluation.evaluate import ClipResult, Evaluation, evaluate
from wavtokenizer_hf.evaluation.metric import Metric
from wavtokenizer_hf.evaluation.page import choose_clips, write_evaluation_page
from wavtokenizer_hf.evaluation.pair import Pair
from wavtokenizer_hf.evaluation.pairs import CodecPairs, FolderPairs, SpreadPairs
from wavtokenizer_hf.evaluation.results import as_json, as_markdown
from wavtokenizer_hf.evaluation.saved_audio import SavedAudio
from wavtokenizer_hf.evaluation.spectral import LogMelL1
from wavtokenizer_hf.evaluation.summary import summarise
from wavtokenizer_hf.evaluation.tone import FrameTone

RATE = 24000


class Level(Metric):
    """Mean of the estimate; refuses one below zero, and breaks on one above ten."""

    name, label, direction, meaning = "level", "level", "higher", "How high it is."
    unit = "V"

    def score(self, pair: Pair) -> float:
        level = pair.estimate.mean().item()
        if level < 0:
            raise ValueError("below\nzero")
        if level > 10:
            raise RuntimeError("out of memory")
        return level


class SpeechLevel(Level):
    name, label = "speech_level", "speech level"
    kinds = ("speech",)


class Unavailable(Level):
    name, label = "unavailable", "unavailable"
    default_model = "some/model"

    def prepare(self, device: torch.device) -> None:
        raise OSError("no connection")


class Levels:
    """Pairs of constant signals; NaN stands for a file that cannot be read."""

    has_codes, frame_rate = False, None

    def __init__(self, levels: Sequence[float], kinds: Sequence[str]):
        self.unmatched = {"references": ["lonely.wav"], "estimates": []}
        self.levels = levels
        self.entries = [Entry(f"{index}.wav", f"{index}.wav", kind=kind) for index, kind in enumerate(kinds)]

    def load(self, index: int) -> Pair:
        entry, level = self.entries[index], self.levels[index]
        if np.isnan(level):
            raise ValueError(f"{entry.name} is broken")
        return Pair(entry.name, torch.ones(RATE), torch.full((RATE,), level), RATE, entry.kind)


@pytest.fixture
def evaluation() -> Evaluation:
    levels = [1.0, 3.0, -1.0, 11.0, np.nan, 5.0]
    pairs = Levels(levels, ["speech", "speech", "speech", "music", "music", ""])
    metrics = [Level(), SpeechLevel(), Unavailable()]
    return evaluate(pairs, metrics, left_out={}, seed=3, setting={"data": "levels"})


def test_every_clip_has_a_score_or_a_reason_for_every_metric(evaluation):
    for clip in evaluation.clips:
        assert set(clip.scores) | set(clip.skipped) == {"level", "speech_level", "unavailable"}
        assert not set(clip.scores) & set(clip.skipped)
    for metric in evaluation.metrics:
        summary = evaluation.summary(metric)
        assert summary.num_scored + summary.num_skipped == 6


def test_values_are_over_what_was_scored_and_reasons_are_counted(evaluation):
    level, speech_level, unavailable = (evaluation.summary(metric) for metric in evaluation.metrics)
    assert (level.value, level.num_scored) == (3.0, 3)
    assert level.reasons == {"below zero": 1, "out of memory": 1, "no pair could be made": 1}
    assert speech_level.value == 3.0  # a clip of unknown kind counts
    assert speech_level.reasons == {
        "below zero": 1,
        "meant for speech, and the clip is music": 1,
        "no pair could be made": 1,
    }
    assert unavailable.value is None
    assert unavailable.reasons == {"some/model cannot be had: no connection": 6}


def test_each_kind_has_its_own_values(evaluation):
    level, speech_level, _ = evaluation.metrics
    assert evaluation.kinds == ["speech", "music"]
    assert evaluation.summary(level, "speech").value == 2.0
    assert evaluation.summary(level, "music").value is None
    assert evaluation.summary(speech_level, "music").num_skipped == 2


def test_a_mistake_of_ours_is_not_taken_for_a_property_of_the_clip():
    class Broken(Level):
        def score(self, pair: Pair) -> float:
            raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        evaluate(Levels([1.0], [""]), [Broken()])


def test_a_value_that_is_not_finite_is_skipped():
    class Infinite(Level):
        def score(self, pair: Pair) -> float:
            return float("inf")

    result = evaluate(Levels([1.0], [""]), [Infinite()])
    assert result.summary(result.metrics[0]).reasons == {"the value is not finite": 1}


def test_left_out_metrics_are_named_and_not_prepared():
    result = evaluate(Levels([1.0], [""]), [Level(), Unavailable()], left_out={"unavailable": "not asked for"})
    assert result.clips[0].skipped == {"unavailable": "not asked for"}


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (Unavailable, "unavailable: some/model cannot be had: no connection"),
        (CodebookUsage, "codebook_usage: there are no codes: the estimates came without their codec"),
        (FrameTone, "frame_tone_db: the codec's frame rate is not known; --frame-rate says it"),
    ],
)
def test_what_was_asked_for_by_name_and_cannot_be_computed_is_an_error_before_any_clip_is_read(metric, reason):
    pairs = Levels([1.0], [""])
    left_out = evaluate(pairs, [Level(), metric()])
    assert left_out.unavailable == dict([reason.split(": ", 1)])
    pairs.load = None
    with pytest.raises(ValueError, match=re.escape(f"what was asked for cannot be computed. {reason}")):
        evaluate(pairs, [Level(), metric()], asked={"level", metric.name})


def test_reasons_are_sentences_and_no_traceback():
    class Learned(Level):
        name, default_model = "learned", "some/model"

        def score(self, pair: Pair) -> float:
            raise RuntimeError(
                "The following failed.\nTraceback of TorchScript (most recent call last):\n  x\nToo short"
            )

    result = evaluate(Levels([1.0], [""]), [Learned()])
    assert result.clips[0].skipped == {"learned": "some/model does not take this clip: Too short"}


def test_each_clip_is_handed_over_with_its_pair():
    seen = []
    evaluate(Levels([1.0, np.nan], ["", ""]), [Level()], on_clip=lambda clip, pair: seen.append((clip.name, pair)))
    assert [name for name, _ in seen] == ["0.wav", "1.wav"]
    assert seen[0][1].name == "0.wav"
    assert seen[1][1] is None


def test_json_holds_every_clip_and_no_number_that_json_lacks(evaluation):
    content = json.loads(json.dumps(as_json(evaluation), allow_nan=False))
    assert content["format"] == "wavtokenizer-evaluation"
    assert content["data"] == "levels"
    assert content["clip_counts"]["all"] == {"num_clips": 6, "num_unreadable": 1, "duration_s": 5.0}
    assert content["clip_counts"]["music"] == {"num_clips": 2, "num_unreadable": 1, "duration_s": 1.0}
    assert content["unmatched"] == {"references": ["lonely.wav"], "estimates": []}
    metric = content["metrics"]["level"]
    assert (metric["unit"], metric["direction"], metric["sampling_rate_hz"]) == ("V", "higher", None)
    assert (metric["all"]["value"], metric["all"]["num_scored"], metric["all"]["num_skipped"]) == (3.0, 3, 3)
    assert metric["kinds"]["speech"]["value"] == 2.0
    assert content["metrics"]["unavailable"]["model"] == "some/model"
    assert [clip["values"]["level"] for clip in content["clips"]] == [1.0, 3.0, None, None, None, 5.0]
    assert content["clips"][4]["failure"] == "4.wav is broken"
    assert content["clips"][5]["kind"] is None


def test_markdown_has_the_scores_by_kind_and_all_that_was_left_out(evaluation):
    text = as_markdown(evaluation, "Title", "Subtitle")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["Measure", "Better", "all, 6 clips", "speech, 3 clips", "music, 2 clips"] in rows
    scores = next(row for row in rows if row[:2] == ["level (V)", "higher"])
    low, high = evaluation.summary(evaluation.metrics[0]).low, evaluation.summary(evaluation.metrics[0]).high
    assert scores[2] == f"3.000 [{low:.3f},\u00a0{high:.3f}] (3 scored)"
    assert scores[4] == "—"
    assert ["unavailable", "6 of 6", "some/model cannot be had: no connection"] in rows
    assert ["4.wav", "4.wav is broken"] in rows
    assert ["lonely.wav", "no counterpart: it is among the references alone"] in rows


def test_markdown_says_what_names_and_kinds_say_and_no_more(evaluation):
    kinds = ["<script>alert(1)</script>", "a|b", "x\ny"]
    clips = [
        dataclasses.replace(clip, kind=kinds[index % 3], name=f"[l](http://x) {index}")
        for index, clip in enumerate(evaluation.clips)
    ]
    text = as_markdown(dataclasses.replace(evaluation, clips=clips), "# <b>", "*")
    page = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    found = [child.type for token in page for child in token.children or ()]
    assert not {"html_inline", "link_open", "em_open"} & set(found)
    assert not [token for token in page if token.type == "html_block"]
    header = text.split("## Scores")[1].split("| Measure")[1].splitlines()[0]
    assert "x y, 2 clips" in header


def test_the_interval_is_that_of_the_mean_by_the_central_limit():
    scores = np.random.default_rng(1).normal(5, 2, size=400)
    summary = summarise(Level(), list(scores), [], seed=0)
    half_width = 1.96 * scores.std() / 20
    assert summary.value == pytest.approx(scores.mean())
    assert summary.low == pytest.approx(scores.mean() - half_width, abs=0.05)
    assert summary.high == pytest.approx(scores.mean() + half_width, abs=0.05)


def test_the_seed_decides_the_interval_and_nothing_else_does():
    first, again, other = (summarise(Level(), [1.0, 2.0, 4.0, 8.0, 9.5], [], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_one_clip_or_a_metric_without_intervals_has_none():
    class Total(Level):
        has_interval = False

    assert (summarise(Level(), [1.0], [], 0).low, summarise(Total(), [1.0, 2.0], [], 0).low) == (None, None)
    assert summarise(Level(), [], ["why"] * 3, 0).reasons == {"why": 3}


def clips_with(distances: Sequence[float | None], kind: str) -> list[ClipResult]:
    return [
        ClipResult(
            index=0,
            name=f"{kind}{distance}",
            kind=kind,
            scores={} if distance is None else {LogMelL1.name: distance},
            failure="broken" if distance == 99 else "",
        )
        for distance in distances
    ]


def test_clips_to_show_are_the_worst_and_the_median_of_each_kind_in_turn():
    clips = clips_with([0.05, 0.1, 0.2, 0.3, 0.4, 0.5], "speech") + clips_with([0.6, 0.7, None, 0.8, 99], "music")
    names = [clip.name for clip in choose_clips(Evaluation([LogMelL1()], clips), 20)]
    assert names[:4] == ["speech0.5", "music0.7", "speech0.2", "music0.8"]
    assert names[4:] == ["speech0.4", "music0.6", "speech0.3", "musicNone", "speech0.1", "speech0.05"]
    assert [clip.name for clip in choose_clips(Evaluation([], clips), 1)] == ["speech0.5"]
    assert choose_clips(Evaluation([], clips_with([99], "")), 4) == []


class Humming(Levels):
    """Noise, to which a clip of level n adds harmonics of 75 Hz of n times 0.01."""

    def load(self, index: int) -> Pair:
        reference = 0.1 * noise(2 * RATE)
        at = torch.arange(2 * RATE) / RATE * 75 * 2 * torch.pi
        hum = 0.01 * self.levels[index] * sum(torch.cos(k * at + k * k) for k in range(1, 150))
        kind = self.entries[index].kind
        return Pair(self.entries[index].name, reference, reference + hum, RATE, kind, frame_rate=75.0)


def test_wherever_figures_stand_beside_a_tone_of_more_than_3_db_it_is_said_whatever_was_asked_for(tmp_path):
    pairs = Humming([0.0, 0.0, 2.0, 2.0], ["speech", "speech", "music", "music"])
    result = evaluate(pairs, [LogMelL1()])
    lines = result.warnings()
    assert [line.partition(":")[0] for line in lines] == ["All clips", "music"]
    assert all(re.search(r"A tone at the frame rate stands \d+\.\d dB above", line) for line in lines)
    assert as_json(result)["warnings"] == lines
    assert all(line in as_markdown(result, "Title", "Subtitle") for line in lines)
    page = write_evaluation_page(tmp_path, result, pairs, title="", subtitle="", num_pictures=4).read_text()
    assert page.count("it hums or buzzes, however good other figures look") == 2 + 2
    assert evaluate(Humming([0.0], [""]), [LogMelL1()]).warnings() == []


@pytest.fixture
def folders(tmp_path):
    """Two folders to match: one clip at two rates and lengths, one nested, one on each side alone."""
    for name, num_samples, rate in (
        ("ref/a.wav", 48000, 48000),
        ("ref/deep/b.wav", 24000, 24000),
        ("ref/only_ref.wav", 100, 24000),
        ("deg/a.flac", 22000, 24000),
        ("deg/b.flac", 24000, 24000),
        ("deg/only_deg.wav", 100, 24000),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(num_samples).numpy() * 0.5, rate)
    return tmp_path


def test_files_are_matched_by_stem_and_the_others_are_listed(folders):
    pairs = FolderPairs(folders / "ref", folders / "deg")
    assert [entry.name for entry in pairs.entries] == ["a.wav", "deep/b.wav"]
    assert pairs.unmatched == {"references": ["only_ref.wav"], "estimates": ["only_deg.wav"]}


def test_a_pair_is_brought_to_the_estimates_rate_and_cut_to_the_shorter(folders):
    pair = FolderPairs(folders / "ref", folders / "deg").load(0)
    assert (pair.sampling_rate, len(pair.reference), len(pair.estimate)) == (24000, 22000, 22000)
    extractor = WavTokenizerFeatureExtractor(sampling_rate=24000)
    resampled = extractor(folders / "ref" / "a.wav", resample=True)["input_values"][0, 0]
    np.testing.assert_array_equal(pair.reference.numpy(), resampled[:22000])
    assert (pair.coding, pair.frame_rate) == (None, None)
    assert FolderPairs(folders / "ref", folders / "deg", frame_rate=40.0).load(0).frame_rate == 40.0
    with pytest.raises(ValueError, match="a number of frames a second above 0, got 0"):
        FolderPairs(folders / "ref", folders / "deg", frame_rate=0.0)


def test_equal_stems_are_told_apart_by_their_folders(folders):
    for name in ("ref/a/same.wav", "ref/b/same.wav", "deg/b/same.wav"):
        (folders / name).parent.mkdir(exist_ok=True)
        soundfile.write(folders / name, noise(100).numpy(), 24000)
    pairs = FolderPairs(folders / "ref", folders / "deg")
    assert [entry.name for entry in pairs.entries] == ["a.wav", "b/same.wav"]
    assert pairs.unmatched["references"] == ["only_ref.wav", "a/same.wav", "deep/b.wav"]


def test_names_that_differ_in_their_suffix_alone_are_refused(folders):
    soundfile.write(folders / "ref" / "a.flac", noise(100).numpy(), 24000)
    with pytest.raises(ValueError, match=r"a\.flac and a\.wav differ in their suffix alone"):
        FolderPairs(folders / "ref", folders / "deg")


def test_folders_with_nothing_in_common_are_refused(folders):
    with pytest.raises(ValueError, match=r"no file in .*deep is called like one in .*: the first here is b\.wav"):
        FolderPairs(str(folders / "deg" / "only*"), folders / "ref" / "deep")


def test_a_manifest_beside_the_references_gives_kinds_transcripts_and_parts(folders):
    (folders / "ref" / "manifest.tsv").write_text(
        "file\tkind\tstart\tend\ttext\na.wav\tspeech\t\t\thello\ndeep/b.wav\tmusic\t0.25\t0.5\t\n"
    )
    (folders / "deg" / "b.flac").rename(folders / "deg" / "b@0.25-0.5.flac")
    pairs = FolderPairs(folders / "ref", folders / "deg")
    first, second = pairs.load(0), pairs.load(1)
    assert (first.kind, first.transcript, second.kind, second.transcript) == ("speech", "hello", "music", "")
    whole = soundfile.read(folders / "ref" / "deep" / "b.wav", dtype="float32")[0]
    np.testing.assert_array_equal(second.reference.numpy(), whole[6000:12000])


def test_a_codecs_pairs_hold_its_codes_its_reconstruction_and_the_time_it_took(tiny_model, folders):
    extractor = WavTokenizerFeatureExtractor(hop_length=80)
    pairs = CodecPairs(codec_of(tiny_model, extractor), find_entries(folders / "ref" / "a.wav"), {"bandwidth_id": 2})
    pair, again = pairs.load(0), pairs.load(0)
    clip = extractor(folders / "ref" / "a.wav", resample=True, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        expected = tiny_model(clip, bandwidth_id=2)
    torch.testing.assert_close(pair.reference, clip[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(pair.estimate, expected.audio_values[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(pair.coding.audio_codes, expected.audio_codes[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(again.estimate, pair.estimate, rtol=0, atol=0)
    assert (pair.coding.spec.codebook_sizes, pair.frame_rate) == ((64,), 300.0)
    assert 0 < pair.coding.encode_s < 10
    assert 0 < pair.coding.decode_s < 10


def test_the_first_clip_is_not_timed_on_a_cold_model(tiny_model, folders, monkeypatch):
    calls = []
    monkeypatch.setattr(
        tiny_model, "encode", lambda clip, mask, run=tiny_model.encode: calls.append(len(calls)) or run(clip, mask)
    )
    pairs = CodecPairs(codec_of(tiny_model), find_entries(folders / "ref"))
    pairs.load(0)
    assert len(calls) == 2
    pairs.load(1)
    assert len(calls) == 3


def test_a_codec_that_breaks_a_clip_costs_that_clip(tiny_model, folders, monkeypatch):
    run = tiny_model.decode

    def broken(*args, **kwargs):
        output = run(*args, **kwargs)
        output["audio_values"] = output["audio_values"] * float("nan")
        return output

    monkeypatch.setattr(tiny_model, "decode", broken)
    pairs = CodecPairs(codec_of(tiny_model), find_entries(folders / "ref"))
    result = evaluate(pairs, [LogMelL1()])
    assert {clip.failure for clip in result.clips} == {"the codec gave NaN or infinity"}
    assert result.summary(result.metrics[0]).reasons == {"no pair could be made": 3}


def test_a_part_beyond_the_end_of_its_recording_is_refused(tiny_model, folders):
    entry = Entry(folders / "ref" / "a.wav", "a@5-6.wav", 5.0, 6.0)
    with pytest.raises(ValueError, match=r"a\.wav ends at 1 s, and the part begins at 5 s"):
        CodecPairs(codec_of(tiny_model), [entry]).load(0)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [0]), (2, [0, 3]), (4, [0, 1, 3, 4]), (6, list(range(6))), (9, list(range(6)))]
)
def test_a_limit_takes_clips_from_all_over_the_list(limit, expected):
    pairs = SpreadPairs(Levels([float(index) for index in range(6)], [""] * 6), limit)
    assert [entry.name for entry in pairs.entries] == [f"{index}.wav" for index in expected]
    assert [pairs.load(index).estimate[0].item() for index in range(len(expected))] == expected
    assert pairs.unmatched["references"] == ["lonely.wav"]


def test_saved_clips_lie_as_they_are_named_and_never_outside_their_folder(tmp_path):
    names = ["a.wav", "deep/b.mp3", "c.wav", "c.mp3", "../up.wav", "/abs/olute.wav", "part@0.5-2.wav"]
    saved = SavedAudio(tmp_path / "audio", names)
    assert [path.relative_to(tmp_path / "audio").as_posix() for path in saved.paths] == [
        "a.flac",
        "deep/b.flac",
        "c.wav.flac",
        "c.mp3.flac",
        "up.flac",
        "abs/olute.flac",
        "part@0.5-2.flac",
    ]
    samples = torch.tensor([0.0, 0.5, 2.0])
    saved(ClipResult(1, "deep/b.mp3", ""), Pair("b", samples, samples, RATE))
    saved(ClipResult(0, "a.wav", "", failure="broken"), None)
    assert saved.clipped == [tmp_path / "audio" / "deep" / "b.flac"]
    assert soundfile.read(saved.paths[1])[0].tolist() == [0.0, 0.5, 1 - 2**-15]
    assert not saved.paths[0].exists()
