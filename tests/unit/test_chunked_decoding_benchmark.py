"""The arithmetic of the benchmark of decoding in pieces, on a tiny model, and the tables of its kept result."""

import pytest
import soundfile
import torch

from benchmarks import chunked_decoding, chunked_tables, record
from benchmarks.chunked_decoding import Clip, Group, Recordings, Setting
from benchmarks.seams import seam
from tests.tiny import noise, tiny_causal_model, tiny_model
from tests.unit.test_attention import random_codes
from wavtokenizer_hf.streaming import ChunkedDecoder

HOP = 80


def test_clicks_at_borders_make_a_seam_and_clicks_everywhere_do_not():
    whole = noise(2, 24000)
    starts = torch.arange(3000, 24000, 3000)
    assert seam(whole, whole, starts, 160, 160) == 1
    at_borders, everywhere = whole.clone(), whole.clone()
    at_borders[:, starts] += 20
    everywhere[:, torch.arange(100, 24000, 100)] += 20
    assert seam(at_borders, whole, starts, 160, 160) > 1.2
    assert seam(everywhere, whole, starts, 160, 160) == pytest.approx(1, abs=0.1)
    assert seam(at_borders, whole, starts + 1500, 160, 160) < 1


@torch.no_grad()
def test_pieces_are_those_of_a_chunked_decoder():
    model, codes = tiny_model(), random_codes(2, 61)
    decoder = ChunkedDecoder(model, 10, 7, 6, batch_size=2)
    expected = torch.cat([decoder.push(codes), decoder.flush()], dim=-1)[:, 0]
    assert torch.equal(chunked_decoding.decode_in_pieces(model, codes, Setting(10, 7, 6)), expected)
    unfaded = chunked_decoding.decode_in_pieces(model, codes, Setting(10, 7, 6, 0))
    differs = (unfaded != expected)[0].reshape(61, HOP).any(dim=-1).nonzero()[:, 0]
    # Three frames after each border; the last window begins at code 50.
    assert differs.tolist() == [start + frame for start in (10, 20, 30, 40, 50) for frame in range(3)]


@pytest.mark.parametrize("make", [tiny_model, tiny_causal_model])
def test_every_way_is_timed_and_compared_with_the_whole_clip(make, monkeypatch):
    monkeypatch.setattr(chunked_decoding, "LONG", Setting(20, 7, 6))
    monkeypatch.setattr(chunked_decoding, "CHUNK_FRAMES", 5)
    model, codes = make(), random_codes(1, 90)
    entries = {entry["way"]: entry for entry in chunked_decoding.measure_speed("tiny", model, codes, 2)}
    assert entries["whole clip"]["largest_difference"] == 0
    assert entries["whole clip"]["ratio_to_whole_clip"]["all"] == [1.0, 1.0]
    stream = entries["code by code"]
    if model.config.is_causal:
        assert stream["snr_db"] > 100
        assert stream["first_sample"]["num_codes"] == 2
        assert entries["5 codes at once"]["first_sample"]["num_codes"] == 5
        assert stream["latency_s"] == pytest.approx(1.5 / 300)
    else:
        assert stream["snr_db"] < 60
        assert stream["first_sample"]["num_codes"] == round(300 * stream["latency_s"])
        assert entries["as decode_long"]["first_sample"]["num_codes"] == 40  # the second push of 20 reaches 26
    for entry in entries.values():
        assert len(entry["real_time_factor"]["all"]) == 2


def test_errors_are_zero_where_the_first_window_holds_the_clip(monkeypatch):
    model = tiny_model()
    clips = [Clip("a", "music", noise(60 * HOP)), Clip("b", "speech", noise(60 * HOP, seed=1))]
    monkeypatch.setattr(chunked_decoding.PESQ, "prepare", lambda self, device: None)
    monkeypatch.setattr(chunked_decoding.PESQ, "score", lambda self, pair: float(pair.name == "b"))
    # A clip that equals the whole has an infinite SNR, which no file can hold: the settings leave no such clip.
    monkeypatch.setattr(chunked_decoding, "snr_db", lambda *pair: 100.0 if torch.equal(*pair) else 10.0)
    groups = [
        Group("each clip", clips, False, [Setting(20, 10, 6), Setting(55, 0, 5)]),
        Group("in a row", clips, True, [Setting(60, 10, 6)]),
    ]
    entries = chunked_decoding.measure_errors(model, groups, 2)
    assert [(entry["clips"], entry["setting"] is None) for entry in entries] == [
        ("each clip", True),
        ("each clip", False),
        ("each clip", False),
        ("in a row", True),
        ("in a row", False),
    ]
    cut, fitting = entries[1:3]
    assert cut["log_mel_l1"] > 0.01
    assert cut["snr_db"] == 10
    assert (fitting["log_mel_l1"], fitting["snr_db"]) == (0, 100)
    assert fitting["log_mel_l1_to_recording"] == entries[0]["log_mel_l1_to_recording"]
    assert fitting["latency_s"] == 0.2
    assert all(entry["pesq_wb"] == 1 for entry in entries)


def test_clips_are_long_recordings_or_two_short_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked_decoding, "CLIP_S", 0.5)
    monkeypatch.setattr(chunked_decoding, "NUM_CLIPS", {"speech": 2, "sound": 1})
    lines = ["file\tkind\tspeaker\tdur"]
    for name, kind, speaker, seconds in (
        ("a", "speech", "x", 0.6),
        ("b", "sound", "", 0.4),
        ("c", "speech", "y", 0.3),
        ("d", "sound", "", 0.3),
        ("e", "speech", "z", 0.7),
        ("f", "speech", "x", 0.8),
        ("g", "speech", "y", 0.9),
        ("h", "music", "", 0.9),
        ("i", "music", "", 0.9),
        ("j", "music", "", 0.9),
    ):
        soundfile.write(tmp_path / f"{name}.wav", noise(round(seconds * 24000)).numpy(), 24000)
        lines.append(f"{name}.wav\t{kind}\t{speaker}\t{seconds}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    clips = Recordings(tmp_path).of_every_kind()
    assert [(clip.name, clip.kind) for clip in clips] == [
        ("a.wav", "speech"),
        ("f.wav", "speech"),
        ("b.wav + d.wav", "sound"),
    ]
    assert {clip.samples.shape for clip in clips} == {(12000,)}
    assert [clip.name for clip in Recordings(tmp_path).of_one_speaker()] == ["a.wav", "f.wav"]


def test_the_kept_result_holds_the_defaults_and_its_tables_show_every_setting():
    result = record.read_result("chunked_decoding")
    for name, expected in (("stream", chunked_decoding.STREAM), ("long", chunked_decoding.LONG)):
        assert result["settings"][name] == chunked_decoding.asdict(expected)
        assert any(entry["setting"] == result["settings"][name] for entry in result["errors"])
    full = chunked_tables.chunked_decoding_tables(result)
    num_tables = len(result["clips"]) + 1
    assert full.count("\n| ") + full.startswith("| ") == len(result["errors"]) + len(result["speed"]) + 2 * num_tables
    causal = [entry for entry in result["speed"] if "causal" in entry["model"] and entry["way"] != "whole clip"]
    assert len(causal) == 4
    assert all(entry["snr_db"] > 100 for entry in causal)
    brief = chunked_tables.brief_chunked_decoding_tables(result)
    stream = next(entry for entry in result["errors"] if entry["setting"] == result["settings"]["stream"])
    assert f"{stream['log_mel_l1']:.3f}, {stream['snr_db']:.1f} dB" in brief
