"""The benchmarks of speed and memory: their arithmetic on made-up clocks, and every script from end to end, tiny."""

import contextlib
import io
import json
import math
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
import transformers

from benchmarks import (
    arithmetic,
    batch_exactness,
    breakdown,
    loading,
    long_audio,
    nearest_code,
    plain,
    precision,
    record,
    recordings,
    rounds,
    speed,
    speed_tables,
    systems,
    throughput,
)
from tests.tiny import noise, tiny_causal_model, tiny_config, tiny_model
from wavtokenizer_hf import (
    WavTokenizerConfig,
    WavTokenizerModel,
    bundled_checkpoint,
)

CPU = torch.device("cpu")
HAS_PORT = hasattr(transformers, "WavTokenizerModel")


class Clock:
    """Stands in for `time.perf_counter`; time passes only when somebody says how long something took."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def taking(self, name: str, *seconds: float):
        """A function that takes as long as is said, each time in turn, and the last time from then on."""
        durations = list(seconds)

        def run(*_):
            self.log.append(name)
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]

        return run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """A function that runs a script's `main` with options, and gives back the result that it wrote."""

    def run(module, options: str) -> dict:
        path = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", shlex.split(f"{module.__name__} {options} --threads 1 --out {path}"))
        module.main()
        return json.loads(path.read_text(encoding="utf-8"))

    return run


# ---------------------------------------------------------------------------------------------------- the plain path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upsampling_ratios": [6, 5, 3]},
        {"num_lstm_layers": 1, "last_kernel_size": 5, "bandwidth_id": 2, "adanorm_num_embeddings": 3},
    ],
)
@torch.no_grad()
def test_the_plain_path_computes_what_the_model_does(changes):
    model = tiny_model(**changes)
    codec = plain.PlainCodec(model)
    samples = noise(2, 1, 4807)
    codes = codec.encode(samples)
    assert torch.equal(codes, model.encode(samples).audio_codes)
    assert codes.unique().numel() > 10
    audio = codec.decode(codes)
    torch.testing.assert_close(audio, model.decode(codes).audio_values, rtol=0, atol=1e-4)
    assert audio.std() > 0.01


@torch.no_grad()
def test_the_plain_path_agrees_on_real_recordings():
    model = WavTokenizerModel.from_pretrained(bundled_checkpoint()).eval()
    codec = plain.PlainCodec(model)
    samples = recordings.clips(recordings.read_recordings(recordings.DEFAULT_AUDIO), 4.0)
    codes = codec.encode(samples)
    assert torch.equal(codes, model.encode(samples).audio_codes)
    torch.testing.assert_close(codec.decode(codes), model.decode(codes).audio_values, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_plain_path_evaluates_weight_norm_in_every_call(tiny_model):
    codec, samples = plain.PlainCodec(tiny_model), noise(1, 1, 1600)
    before = codec.encode(samples)
    for name, magnitude in codec.weights.items():
        if name.endswith("original0"):
            magnitude.mul_(-1)
    assert not torch.equal(codec.encode(samples), before)


@pytest.mark.parametrize("model", [tiny_causal_model(), tiny_model().fuse()])
def test_the_plain_path_refuses_a_model_of_another_kind(model):
    with pytest.raises(ValueError, match="non-causal model with its weight norm"):
        plain.PlainCodec(model)


# ------------------------------------------------------------------------------------------------------------ rounds


def test_rounds_are_interleaved_and_their_order_rotates(clock):
    times = rounds.in_rounds(
        {name: clock.taking(name, seconds) for name, seconds in {"a": 1, "b": 2, "c": 3}.items()}, 3
    )
    assert "".join(clock.log) == "abcbcacab"
    assert times == {"a": [1, 1, 1], "b": [2, 2, 2], "c": [3, 3, 3]}


def test_who_has_taken_too_long_leaves_but_for_its_least_number_of_rounds(clock):
    functions = {"fast": clock.taking("fast", 1), "slow": clock.taking("slow", 8), "kept": clock.taking("kept", 8)}
    times = rounds.in_rounds(functions, 4, patience_s=7, min_rounds={"kept": 2})
    assert {name: len(each) for name, each in times.items()} == {"fast": 4, "slow": 1, "kept": 2}


def test_a_speedup_is_the_median_of_the_ratios_within_a_round():
    found = rounds.speedup([2.0, 4.0, 1.0], [4.0, 4.0, 4.0, 100.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 4.0, "all": [2.0, 1.0, 4.0]}


def test_a_file_shows_five_digits():
    assert rounds.summary([0.123456789, 12345.6789])["all"] == [0.12346, 12346.0]


def test_a_gpu_is_waited_for_before_and_after(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            order.append("record")

        def elapsed_time(self, end):
            order.append("elapsed")
            return 250.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("wait"))
    assert rounds.timed(lambda: order.append("call"), torch.device("cuda")) == 0.25
    assert order == ["wait", "record", "call", "record", "wait", "elapsed"]


# -------------------------------------------------------------------------------------------------------- recordings


def test_clips_follow_one_another_through_the_looped_recordings(monkeypatch):
    monkeypatch.setattr(recordings, "SAMPLING_RATE", 2)
    found = recordings.clips(np.array([1.0, 2.0, 3.0], np.float32), seconds=2, batch_size=2)
    assert found.tolist() == [[[1, 2, 3, 1]], [[2, 3, 1, 2]]]


def test_recordings_come_at_24_khz_one_after_the_other(tmp_path):
    for name, rate in (("a.wav", 48000), ("b.wav", 24000)):
        soundfile.write(tmp_path / name, noise(4800).numpy(), rate)
    audio = recordings.read_recordings(tmp_path)
    assert audio.dtype == np.float32
    assert len(audio) == 2400 + 4800
    assert np.array_equal(audio[2400:], soundfile.read(tmp_path / "b.wav", dtype="float32")[0])


def test_the_default_recordings_are_in_the_repository():
    audio = recordings.read_recordings(recordings.DEFAULT_AUDIO)
    assert len(audio) > 10 * 24000
    assert 0.01 < audio.std() < 1


# ----------------------------------------------------------------------------------------------------------- systems


@pytest.mark.parametrize(
    ("build", "config_class", "changes"),
    [
        (systems.encodec, "EncodecConfig", {"num_filters": 4, "hidden_size": 16}),
        (systems.dac, "DacConfig", {"encoder_hidden_size": 4, "decoder_hidden_size": 64}),
        (
            systems.mimi,
            "MimiConfig",
            {
                "num_filters": 4,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "upsample_groups": 32,
                "intermediate_size": 32,
            }
            | {"num_attention_heads": 2, "num_key_value_heads": 2, "vector_quantization_hidden_dimension": 16}
            | {"codebook_dim": 16},
        ),
    ],
)
def test_a_peer_keeps_one_codebook_and_gives_a_whole_waveform(build, config_class, changes, monkeypatch):
    full_size = getattr(systems, config_class)
    monkeypatch.setattr(systems, config_class, lambda **given: full_size(**(given | changes)))
    system = build()
    with torch.inference_mode():
        encoded = system.encode(noise(1, 1, 9600))
        codes = encoded if isinstance(encoded, torch.Tensor) else encoded.audio_codes
        decoded = system.decode(encoded)
    assert codes.shape[-2:] == (1, round(0.4 * system.codes_per_second))
    assert decoded.shape[-1] == pytest.approx(9600, abs=16)


def test_peers_have_the_sizes_of_their_releases():
    """Values in the released files: EnCodec 23.3 M, DAC 74.7 M, Mimi 96.2 M."""
    with torch.device("meta"):
        sizes = [system.num_parameters for system in (systems.encodec(), systems.dac(), systems.mimi())]
    assert [round(size / 1e6, 1) for size in sizes] == [23.3, 74.7, 96.2]


@pytest.fixture
def _bfloat16(monkeypatch):
    """As on a processor that has it; small products end in time on any."""
    for module in (systems, arithmetic, batch_exactness):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device="cpu": True)


@pytest.fixture
def _tiny_systems(monkeypatch, _bfloat16):
    monkeypatch.setattr(systems, "WavTokenizerConfig", lambda upsampling_ratios: tiny_config())


@pytest.mark.usefixtures("_tiny_systems")
def test_the_codec_its_half_precise_decoder_and_its_baselines_have_the_same_weights():
    ours, half, baseline, *port = systems.wavtokenizer([5, 4, 2, 2])
    assert len(port) == HAS_PORT
    with torch.inference_mode():
        codes = ours.encode(noise(1, 1, 8000))
        audio = ours.decode(codes)
        for other in (baseline, *port):
            assert torch.equal(codes, other.encode(noise(1, 1, 8000)))
            torch.testing.assert_close(audio, other.decode(codes), rtol=0, atol=1e-4)
        error = (half.decode(codes) - audio).abs().max() / audio.abs().max()
    assert 1e-5 < error < 0.1
    assert (half.encode, half.codes_of) == (None, "WavTokenizer 300")
    assert {system.baseline for system in (ours, half, baseline)} == {baseline.name} == {"plain path 300"}
    assert (ours.codes_per_second, ours.bits_per_code) == (300.0, 6)


# -------------------------------------------------------------------------------------------------------- arithmetic


def encoder_operations(ratios: list[int]) -> float:
    """Two for each weight and position of a second, layer by layer."""
    rate, width, total = 24000, 32, 2 * 24000 * 7 * 32
    for ratio in reversed(ratios):
        total += 2 * rate * (3 * width * width // 2 + width * width // 2 + width * width)
        rate //= ratio
        total += 2 * rate * (2 * ratio * width * 2 * width)
        width *= 2
    total += 2 * rate * 2 * (4 * width * 2 * width)  # two layers of LSTM
    return total + 2 * rate * (7 * width * 512 + 512 * 4096)


@pytest.mark.parametrize("ratios", [systems.RELEASED_75, systems.RELEASED_40])
def test_operations_of_encoding_are_those_of_its_layers(ratios):
    counted = arithmetic.Arithmetic(WavTokenizerConfig(upsampling_ratios=list(ratios)))
    assert counted.encoding(1) == encoder_operations(ratios)
    assert counted.encoding(60) == 60 * counted.encoding(1)


def test_operations_of_decoding_hold_the_attention_over_all_frames():
    counted = arithmetic.Arithmetic(WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2]))

    def attention(seconds: float) -> float:
        return 4 * (75 * seconds) ** 2 * 768

    per_frame = 7 * 512 * 768 + 8 * 3 * 768**2 + 4 * 768**2 + 12 * (7 * 768 + 2 * 768 * 2304) + 768 * 1282
    for seconds in (1, 300):
        assert counted.decoding(seconds) == 2 * per_frame * 75 * seconds + attention(seconds)


@pytest.mark.usefixtures("_tiny_systems")
def test_without_bfloat16_in_the_processor_nothing_is_timed_in_it(monkeypatch):
    for module in (systems, arithmetic):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda: False)
    assert {system.dtype for system in systems.wavtokenizer([5, 4, 2, 2])} == {"float32"}
    peak = arithmetic.MatrixPeak(size=8)
    peak.measure()
    assert set(peak.gflop_per_s()) == {"product, float32", "convolution, float32"}


@pytest.mark.usefixtures("_bfloat16")
def test_the_matrix_peak_is_the_faster_of_the_two_forms(monkeypatch, clock):
    peak = arithmetic.MatrixPeak(size=8)
    for name, seconds in zip(peak._calls, ((9, 4, 2, 3), (9, 2), (9, 0.5), (9, 1)), strict=True):
        peak._calls[name] = clock.taking(name, *seconds)
    for _ in range(3):
        peak.measure()
    operations = 2 * 8**3
    assert peak.best("float32") == pytest.approx(operations / 2, rel=1e-4)
    assert peak.best("bfloat16") == pytest.approx(operations / 0.5, rel=1e-4)
    assert peak.gflop_per_s()["product, float32"] == pytest.approx(operations / 3 / 1e9, rel=1e-4)


def test_both_forms_of_the_peak_are_the_same_product():
    peak = arithmetic.MatrixPeak(size=16)
    product, convolution = (peak._calls[f"{form}, float32"] for form in ("product", "convolution"))
    (square, _), (image, weight) = product.args, convolution.args
    # Channels lie side by side, so a pixel's channels are a row of what went in.
    assert image.is_contiguous(memory_format=torch.channels_last)
    expected = torch.einsum("oc,cp->op", weight[:, :, 0, 0], square.view(16, 16))
    torch.testing.assert_close(convolution()[0, :, 0], expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- speed


def made_up(name: str, clock: Clock, seconds_per_sample: float, **changes) -> systems.System:
    def encode(audio):
        clock.taking(f"{name} {audio.numel()}", seconds_per_sample * audio.numel())()
        return audio

    def decode(audio):
        clock.now += 3 * seconds_per_sample * audio.numel()
        return audio

    return systems.System(name, "made up", 1, 75.0, 10, decode, encode, baseline="a", **changes)


def measured(found: list[speed.System], batches: list[speed.Batch], num_rounds: int = 2) -> dict[tuple, dict]:
    records = speed.measure(
        found, np.array([0.5, -0.5], np.float32), batches, num_rounds, arithmetic.MatrixPeak(size=4)
    )
    return {(each["system"], each["operation"], each["audio_s"], each["batch_size"]): each for each in records}


def test_times_and_speedups_are_those_of_each_system_batch_and_operation(clock):
    found = [made_up("a", clock, 1e-4), made_up("b", clock, 2.5e-5)]
    records = measured(found, [speed.Batch(1), speed.Batch(0.5, 4)])
    assert len(records) == 8
    assert records["b", "encode", 1, 1]["wall_s"] == {"median": 0.6, "min": 0.6, "max": 0.6, "all": [0.6, 0.6]}
    assert records["b", "decode", 0.5, 4]["wall_s"]["median"] == 3.6
    assert records["b", "encode", 0.5, 4]["times_real_time"] == pytest.approx(2 / 1.2, rel=1e-4)
    assert {key[0]: each["speedup"]["median"] for key, each in records.items()} == {"a": 1.0, "b": 4.0}


def test_all_systems_run_once_before_they_are_timed(clock):
    measured([made_up("a", clock, 1e-6), made_up("b", clock, 1e-6)], [speed.Batch(2)], num_rounds=2)
    assert clock.log == ["a 24000", "b 24000", *("a 48000", "b 48000"), *("b 48000", "a 48000")]


def test_a_system_takes_part_up_to_its_longest_clips(clock):
    records = measured([made_up("a", clock, 1e-6), made_up("b", clock, 1e-6, max_audio_s=2)], [speed.Batch(1, 3)])
    assert {key[0] for key in records} == {"a"}


def test_a_decoder_takes_the_codes_of_the_system_that_it_names(clock):
    told = []

    def decode(audio):
        told.append(audio.shape)
        clock.now += 1
        return audio

    half = systems.System("half", "", 1, 75.0, 10, decode, codes_of="a", baseline="a")
    records = measured([made_up("a", clock, 1e-6), half], [speed.Batch(2)])
    assert [key[:2] for key in records] == [("a", "encode"), ("a", "decode"), ("half", "decode")]
    assert told == [(1, 1, 24000), (1, 1, 48000), (1, 1, 48000)]


@pytest.mark.parametrize(
    "output", [torch.zeros(1, 1, 24000), torch.full((1, 1, 24000), math.nan), torch.ones(1, 1, 12)]
)
def test_a_system_that_gives_nothing_useful_is_not_timed(output):
    broken = systems.System("broken", "", 1, 75.0, 10, lambda codes: output, lambda audio: audio, baseline="broken")
    with pytest.raises(RuntimeError, match="broken gave shape"):
        measured([broken], [speed.Batch(1)])


@pytest.mark.usefixtures("_tiny_systems")
def test_the_benchmark_of_speed_runs_and_its_tables_show_it(monkeypatch, run_script):
    monkeypatch.setattr(speed, "all_systems", lambda: systems.wavtokenizer([5, 4, 2, 2]))
    monkeypatch.setattr(speed, "MatrixPeak", lambda: arithmetic.MatrixPeak(size=64))
    result = run_script(speed, "--seconds 0.1 0.3 --batch 2 --batch-seconds 0.2 --rounds 2")
    assert set(result["peak_gflop_per_s"]) == {
        f"{form}, {dtype}" for form in ("product", "convolution") for dtype in ("float32", "bfloat16")
    }
    cells = {(each["system"], each["operation"]): each for each in result["measurements"] if each["audio_s"] == 0.3}
    assert set(cells) == {
        ("WavTokenizer 300", "encode"),
        ("plain path 300", "encode"),
        ("WavTokenizer 300", "decode"),
        ("WavTokenizer 300, bfloat16", "decode"),
        ("plain path 300", "decode"),
        *(("transformers' own 300", operation) for operation in ("encode", "decode") if HAS_PORT),
    }
    ours = cells["WavTokenizer 300", "decode"]
    rate = ours["gflop_per_audio_s"] * 0.3 / ours["wall_s"]["median"]
    best = max(result["peak_gflop_per_s"][f"{form}, float32"] for form in ("product", "convolution"))
    assert ours["share_of_peak"] == pytest.approx(rate / best, rel=1e-3)

    encoding, decoding = speed_tables.speed_tables(result).split("\n\n")[:2]
    assert encoding.startswith("| encode | codes/s | weights (M) | 0.1 s | 0.3 s | 2 x 0.2 s |\n")
    assert "bfloat16" not in encoding
    cell = f"{ours['times_real_time']:.1f} ({ours['speedup']['median']:.2f})"
    assert cell in decoding.splitlines()[2]
    assert f"{100 * ours['share_of_peak']:.0f} %" in decoding.splitlines()[3]
    brief = speed_tables.brief_speed_table(result)
    assert brief.startswith("| codec | encode 0.1 s | decode 0.1 s | encode 0.3 s | decode 0.3 s |\n")
    assert brief.splitlines()[2].endswith(f" {cell} |")


# -------------------------------------------------------------------------------------- throughput and where time goes


@pytest.mark.parametrize("name", ["float32", "TF32", "bfloat16"])
def test_a_precision_sets_the_switches_of_tf32_and_sets_them_back(name):
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    with precision.PRECISIONS[name].in_use():
        assert [backend.allow_tf32 for backend in backends] == [name == "TF32"] * 2
    assert [backend.allow_tf32 for backend in backends] == before
    assert precision.PRECISIONS[name].dtype == (torch.bfloat16 if name == "bfloat16" else torch.float32)


def test_stages_share_the_time_of_a_call(clock):
    stages = {name: torch.nn.ReLU() for name in ("first", "second")}
    for name, seconds in (("first", 1.0), ("second", 2.0)):
        stages[name].register_forward_pre_hook(lambda *_: None)
        stages[name].forward = clock.taking(name, seconds)
    rest = clock.taking("rest", 4.0)

    def call():
        stages["first"](0)
        rest()
        stages["first"](0)
        stages["second"](0)

    found = breakdown.breakdown(call, {name: [module] for name, module in stages.items()}, CPU)
    assert found["stages"] == {"first": 0.25, "second": 0.25, "the rest": 0.5}


def test_kernels_are_ranked_by_what_they_take():
    matrix = torch.randn(400, 400)
    found = breakdown.breakdown(lambda: matrix @ matrix @ matrix, {}, CPU)["kernels"]
    assert (found[0]["name"], found[0]["calls"]) == ("aten::mm", 2)
    assert found[0]["share"] > 0.9
    assert sum(each["share"] for each in found) == pytest.approx(1, abs=0.01)


@pytest.fixture
def _tiny_throughput(monkeypatch):
    monkeypatch.setattr(throughput, "WavTokenizerConfig", lambda upsampling_ratios: tiny_config())


@pytest.mark.usefixtures("_tiny_throughput")
def test_the_benchmark_of_throughput_runs_and_its_tables_show_it(run_script):
    variants = ["TF32", "bfloat16"]
    options = "--device cpu --batch-sizes 1 3 --seconds 0.2 --rounds 2 --profile-batch 2"
    result = run_script(throughput, f"{options} --variants {shlex.join(variants)}")
    cells = {(each["variant"], each["operation"], each["batch_size"]): each for each in result["measurements"]}
    assert set(cells) == {
        (variant, operation, size)
        for variant in (throughput.BASELINE, *variants)
        for operation in ("encode", "decode")
        for size in (1, 3)
    }
    one = cells["bfloat16", "decode", 3]
    assert one["audio_s_per_s"] == pytest.approx(0.6 / np.median(one["wall_s"]["all"]), rel=1e-3)
    assert list(result["profile"]["of"]) == ["bfloat16"]
    stages = result["profile"]["of"]["bfloat16"]
    assert list(stages["encode"]["stages"]) == ["convolutions", "LSTM", "nearest code", "the rest"]
    for operation in ("encode", "decode"):
        assert sum(stages[operation]["stages"].values()) == pytest.approx(1, abs=0.01)

    tables = speed_tables.throughput_tables(result)
    assert tables.startswith("| encode, clips at once | 1 | 3 | best, to the plain path's |\n")
    assert "\n| time to encode 2 clips | convolutions | LSTM | nearest code | the rest |\n" in tables


@pytest.mark.parametrize(
    "name", [throughput.BASELINE, "TF32", "bfloat16", pytest.param("bfloat16, compiled", marks=pytest.mark.slow)]
)
def test_a_variant_computes_what_the_model_does(name):
    torch._dynamo.reset()
    model = tiny_model(upsampling_ratios=[5, 4], decoder_num_layers=1)
    codec = throughput.VariantCodec(throughput.VARIANTS[name], model, backend="eager")
    with torch.inference_mode():
        codes = model.encode(noise(2, 1, 1600)).audio_codes
        audio = model.decode(codes).audio_values
    found, decoded = codec.run("encode", noise(2, 1, 1600)), codec.run("decode", codes)
    is_half = "bfloat16" in name
    assert (found == codes).float().mean() > (0.5 if is_half else 0.99)
    assert (decoded - audio).abs().max() < (0.1 if is_half else 1e-4) * audio.abs().max()


def test_a_batch_that_does_not_fit_is_told(monkeypatch):
    codecs = {
        name: throughput.VariantCodec(throughput.VARIANTS[name], tiny_model(), "eager")
        for name in (throughput.BASELINE, "TF32")
    }

    def refuse(operation, argument):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(codecs["TF32"], "run", refuse)
    records = throughput.measure(codecs, noise(24000).numpy(), 0.1, [2], 1, CPU, ["encode"])
    assert [(each["variant"], each["fits"], "wall_s" in each) for each in records] == [
        (throughput.BASELINE, True, True),
        ("TF32", False, False),
    ]


# ------------------------------------------------------------------------------------------------------- long audio


@pytest.fixture
def _in_this_process(monkeypatch):
    """Runs what a script would run in processes of their own."""

    modules = {module.__name__: module for module in (long_audio, loading)}
    run_elsewhere = subprocess.run

    def run(command, **settings):
        if command[2] not in modules:
            return run_elsewhere(command, **settings)
        module, printed = modules[command[2]], io.StringIO()
        monkeypatch.setattr(sys, "argv", command[2:])
        with contextlib.redirect_stdout(printed):
            module.main()
        return subprocess.CompletedProcess(command, 0, stdout=printed.getvalue())

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.usefixtures("_in_this_process")
def test_the_benchmark_of_long_audio_runs_and_its_table_shows_it(run_script, tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    result = run_script(long_audio, f"--model {tmp_path / 'tiny'} --minutes 0.05 --whole-seconds 0.5")
    ways = {(each["operation"], each["way"]): each for each in result["measurements"]}
    assert set(ways) == set(long_audio.WHOLE | long_audio.ENDLESS)
    assert {key[1] for key, each in ways.items() if each["audio_s"] == 3} == {"`encode_long`", "`decode_long`"}
    for each in ways.values():
        assert each["loaded_mb"]["median"] > 100
        assert 0 <= each["memory_mb"]["median"] < 500
        assert each["times_real_time"] == pytest.approx(each["audio_s"] / each["wall_s"]["median"], rel=1e-3)
    assert result["settings"]["model"] == "tiny"
    assert "| encode, `encode_long` | 0.05 min | " in speed_tables.long_audio_table(result)


def test_memory_is_the_peak_of_the_call_alone(monkeypatch, tmp_path):
    tiny_model().save_pretrained(tmp_path)

    def take(model, place):
        before = torch.ones(50_000_000 // 4)  # given back before the call, or part of what is loaded
        del before
        return lambda: torch.ones(200_000_000 // 4).sum()

    monkeypatch.setitem(long_audio.WHOLE, ("encode", "made up"), take)
    found = long_audio.measure_one("encode", "made up", long_audio.Place(tmp_path, tmp_path, 1.0))
    assert found["memory_mb"] == pytest.approx(200, abs=10)


def test_the_long_recording_is_the_audio_in_a_loop(tmp_path, tiny_folder):
    audio = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    long_audio.save(tmp_path, str(tiny_folder), audio, seconds=0.1)
    samples, rate = soundfile.read(tmp_path / long_audio.RECORDING, dtype="float32")
    assert (rate, len(samples)) == (24000, 2400)
    np.testing.assert_allclose(samples, np.resize(audio, 2400), atol=2**-15)


# ----------------------------------------------------------------------------------------------------------- loading


@pytest.mark.usefixtures("_in_this_process")
def test_the_benchmark_of_loading_runs_and_its_table_shows_it(monkeypatch, run_script):
    monkeypatch.setattr(
        loading,
        "WavTokenizerConfig",
        lambda upsampling_ratios, decoder_num_layers: tiny_config(decoder_num_layers=decoder_num_layers),
    )
    result = run_script(loading, "--decoder-layers 1 3 --rounds 2")
    assert [(each["loaded"], each["checkpoint"]) for each in result["measurements"]] == [
        (way, f"{layers} ConvNeXt blocks") for layers in (1, 3) for way in ("encoder alone", "whole codec")
    ]
    small, large = (result["measurements"][index]["file_mb"] for index in (0, 2))
    assert large > small
    assert all(0 < each["cpu_s"]["median"] < 10 for each in result["measurements"])
    assert "| encoder alone, 3 ConvNeXt blocks | " in speed_tables.loading_table(result)


def test_what_is_loaded_is_what_is_asked_for(tiny_folder, monkeypatch):
    told = []
    for name, loaded in loading.CLASSES.items():
        monkeypatch.setattr(loaded, "from_pretrained", lambda folder, name=name: told.append((name, folder)))
    for name in loading.CLASSES:
        loading.measure_one(name, tiny_folder)
    assert told == [(name, tiny_folder) for name in ("encoder alone", "whole codec")]


# ------------------------------------------------------------------------------------------------------- nearest code


def test_the_benchmark_of_the_nearest_code_runs_and_its_table_shows_it(run_script):
    result = run_script(nearest_code, "--sizes 512 2000 --width 80 --seconds 0.5 --rounds 2")
    measured = result["measurements"]
    # The recordings of the repository have latents for both.
    assert [(each["codebook_size"], each["codebook"]) for each in measured] == [
        (size, kind) for size in (512, 2000) for kind in nearest_code.KINDS if (size, kind) != (2000, "latents")
    ]
    assert all(each["equal"] for each in measured)
    assert all(list(each["ways"]) == ["all entries", "product alone", "principal axes"] for each in measured)
    assert all(each["ways"]["all entries"]["ratio_to_baseline"] == 1 for each in measured)
    assert [each["num_axes"] for each in measured if each["codebook"] == "normal"] == [16, 16]
    table = speed_tables.nearest_code_table(result)
    assert "| entries | codebook | all entries | product alone | principal axes | axes | index |" in table
    assert "\n| 2,000 | normal | " in table


def test_widened_latents_keep_their_distances_but_for_the_noise():
    latents = noise(200, 8)
    wide = nearest_code.widened(latents, 64, seed=1)
    assert wide.shape == (200, 64)
    assert wide.var(dim=0).sum() / latents.var(dim=0).sum() == pytest.approx(1.01, abs=0.01)
    distances = torch.cdist(wide, wide).square() - torch.cdist(latents, latents).square()
    assert distances.abs().mean() < 0.1 * torch.cdist(latents, latents).square().mean()


# -------------------------------------------------------------------------------------------------- padded batches


def test_clips_range_from_the_shortest_to_the_longest_in_any_order():
    audio = np.arange(5000, dtype=np.float32)
    found = batch_exactness.cut(audio, num_clips=20, longest_s=0.5, shortest=40)
    lengths = [len(clip) for clip in found]
    assert (min(lengths), max(lengths)) == (40, 12000)
    assert lengths != sorted(lengths)
    for clip in found:
        assert torch.equal(clip[1:] - clip[:-1] == 1, clip[1:] != 0)  # goes on, or starts over


def test_codes_of_padded_batches_come_in_the_order_of_the_clips():
    model = tiny_model().encoder_model
    clips = [noise(length, seed=length) for length in (1, 900, 80, 2000, 333)]
    alone = batch_exactness.encode_alone(model, clips)
    assert [len(codes) for codes in alone] == [1, 12, 1, 25, 5]
    found = batch_exactness.encode_padded(model, clips, batch_size=2)
    assert all(torch.equal(own, other) for own, other in zip(found, alone, strict=True))


def test_the_share_counts_codes_and_knows_the_worst_clip():
    codes = [torch.arange(8), torch.arange(2)]
    others = [torch.arange(8), torch.tensor([0, 7])]
    assert batch_exactness.share_equal(codes, others) == {"num_different": 1, "share": 0.9, "lowest_clip": 0.5}
    with pytest.raises(ValueError, match="clip 1 has 2 codes on the one side and 3"):
        batch_exactness.share_equal(codes, [others[0], torch.arange(3)])


@pytest.mark.usefixtures("_bfloat16")
def test_the_benchmark_of_padded_batches_runs_and_its_table_shows_it(run_script, tiny_folder):
    result = run_script(batch_exactness, f"--num-clips 7 --longest 0.3 --batch-size 3 --model {tiny_folder}")
    in_float32, in_half = result["measurements"]
    assert in_float32["num_codes"] == in_half["num_codes"] > 100
    assert in_float32["padded_as_alone"] == {"num_different": 0, "share": 1.0, "lowest_clip": 1.0}
    assert in_float32["alone_as_float32"]["share"] == 1.0
    assert 0.5 < in_half["alone_as_float32"]["share"] < 1.0
    assert "| 100.00 % | 100.00 % | 100.00 % |\n" in speed_tables.batch_exactness_table(result)


# ---------------------------------------------------------------------------------------------------------- a record


def test_a_result_of_a_gpu_names_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU of some kind")
    monkeypatch.setattr(torch.version, "cuda", "99.9")
    found = record.conditions(0.5, "cuda")
    assert (found["device"], found["versions"]["cuda"]) == ("GPU of some kind", "99.9")
    assert "cuda" not in record.conditions(0.5)["versions"]
