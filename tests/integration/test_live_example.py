"""The live demonstration: what is heard, and what it says about latency."""

import re

import pytest
import soundfile
import torch

from examples import live
from tests.tiny import noise, tiny_causal_model, tiny_model
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.streaming import ChunkedDecoder, StreamingEncoder

HOP = 80


@pytest.fixture(params=[tiny_model, tiny_causal_model])
def model(request):
    return request.param()


def settings(model) -> dict[str, int]:
    return {} if model.config.is_causal else {"chunk_frames": 10, "context_frames": 20, "lookahead_frames": 6}


def folder_of(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    WavTokenizerFeatureExtractor(hop_length=HOP).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def test_what_is_heard_is_the_whole_clip_coded_and_decoded_in_chunks(model, tmp_path, capsys):
    recording = noise(1, 10_010)
    soundfile.write(tmp_path / "a.wav", recording[0].numpy(), 24000, subtype="FLOAT")
    arguments = ["--model", folder_of(model, tmp_path), "--output", tmp_path / "b.wav", "--no-wait"]
    for name, value in settings(model).items():
        arguments += [f"--{name.replace('_', '-')}", value]
    live.main([str(argument) for argument in (tmp_path / "a.wav", *arguments)])

    decoder = ChunkedDecoder(model, **settings(model))
    expected = torch.cat([decoder.push(model.encode(recording[None]).audio_codes), decoder.flush()], dim=-1)
    heard, sampling_rate = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert sampling_rate == 24000
    torch.testing.assert_close(torch.from_numpy(heard), expected[0, 0, :10_010].clamp(-1, 1), rtol=0, atol=1e-4)

    output = capsys.readouterr().out
    assert "0.42 s in pieces of 20 ms" in output
    stated_ms = [1000 * StreamingEncoder(model).latency_s, 1000 * decoder.latency_s]
    for name, latency_ms in zip(("samples to codes", "codes to samples"), stated_ms, strict=True):
        numbers = re.findall(rf"{name} +([\d.]+) ms +[\d.]+ ms +[\d.]+ ms +[\d.]+\n", output)
        assert [float(number) for number in numbers] == [pytest.approx(latency_ms, abs=0.051)]


def made_by_a_fast_computer(model, monkeypatch, has_patience: bool, slept: list[float]) -> live.Call:
    """A call on a clock on which computing takes no time and waiting does."""
    now_s = [0.0]

    def sleep(seconds):
        slept.append(seconds)
        now_s[0] += seconds

    monkeypatch.setattr(live.time, "perf_counter", lambda: now_s[0])
    monkeypatch.setattr(live.time, "sleep", sleep)
    return live.call(model, ChunkedDecoder(model, **settings(model)), noise(1, 1, 9600), 20, has_patience)


@pytest.mark.parametrize("has_patience", [True, False])
def test_measured_latency_is_the_stated_one_and_the_wait_for_whole_pieces(model, monkeypatch, has_patience):
    slept: list[float] = []
    made = made_by_a_fast_computer(model, monkeypatch, has_patience, slept)
    assert made.samples.shape == (9600,)
    assert sum(slept) == pytest.approx(0.4 if has_patience else 0)  # 20 pieces of 20 ms
    encoding, decoding, both = made.sides
    piece_s, frame_s = 0.02, HOP / 24000
    assert encoding.algorithmic_s == StreamingEncoder(model).latency_s
    assert len(encoding.lags_s) == 120
    assert encoding.algorithmic_s <= max(encoding.lags_s) + frame_s
    assert max(encoding.lags_s) < encoding.algorithmic_s + piece_s + 1e-9
    assert max(decoding.lags_s) < decoding.algorithmic_s + piece_s + 1e-9
    assert max(both.lags_s) < both.algorithmic_s + piece_s + 1e-9
    assert max(both.lags_s) > both.algorithmic_s - 2 * frame_s
    assert encoding.computing_s == decoding.computing_s == 0


def test_time_that_computing_takes_is_counted(monkeypatch):
    model = tiny_model()
    clock = live.Clock(has_patience=False)
    push = StreamingEncoder.push

    def slow_push(self, samples):
        live.time.sleep(0.002)
        return push(self, samples)

    monkeypatch.setattr(StreamingEncoder, "push", slow_push)
    clock.wait_until(5.0)
    assert 5.0 <= clock.now_s() < 5.5
    made = live.call(model, ChunkedDecoder(model, **settings(model)), noise(1, 1, 4800), 20, False)
    assert made.sides[0].computing_s >= 0.02  # ten pieces
    assert made.sides[2].computing_s == pytest.approx(made.sides[0].computing_s + made.sides[1].computing_s)
