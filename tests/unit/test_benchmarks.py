"""The arithmetic of the benchmarks, on made-up clocks and tiny models, and the tables that show their results."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import dtype_agreement, peers, record, revival, table, training
from tests.tiny import noise, tiny_config
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig


class Clock:
    """Stands in for `time.perf_counter`; time passes only when a system says how long it took."""

    def __init__(self):
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def system(self, name: str, seconds_per_sample: float, max_rounds: int = 100) -> peers.System:
        def encode(audio):
            self.log.append((name, audio.shape[-1]))
            self.now += seconds_per_sample * audio.shape[-1]
            return audio

        def decode(audio):
            self.now += 3 * seconds_per_sample * audio.shape[-1]
            return audio

        return peers.System(name, "made up", 1, 75.0, 10, max_rounds, encode, decode)


def measured(monkeypatch, num_rounds: int, **systems: tuple[float, int]) -> tuple[dict, Clock]:
    clock = Clock()
    monkeypatch.setattr(peers.time, "perf_counter", lambda: clock.now)
    entries = peers.measure(
        [clock.system(name, *arguments) for name, arguments in systems.items()],
        np.array([0.5, -0.5, 0.25]),
        [0.001, 0.002],
        num_rounds,
    )
    return {(entry["system"], entry["operation"], entry["audio_s"]): entry for entry in entries}, clock


def test_times_and_ratios_are_those_of_each_system_length_and_operation(monkeypatch):
    entries, _ = measured(monkeypatch, 2, EnCodec=(2.0, 9), fast=(0.5, 9))
    assert len(entries) == 8
    encode, decode = entries["fast", "encode", 0.001], entries["fast", "decode", 0.002]
    assert encode["wall_s"] == {"median": 12.0, "min": 12.0, "max": 12.0, "all": [12.0, 12.0]}
    assert decode["wall_s"]["median"] == 72.0
    assert encode["ratio_to_baseline"]["median"] == decode["ratio_to_baseline"]["median"] == 0.25
    assert entries["EnCodec", "decode", 0.001]["ratio_to_baseline"]["all"] == [1.0, 1.0]


def test_rounds_are_interleaved_and_their_order_rotates(monkeypatch):
    _, clock = measured(monkeypatch, 3, EnCodec=(1.0, 9), b=(1.0, 9), c=(1.0, 9))
    order = [name for name, num_samples in clock.log if num_samples == 48]
    assert order == ["EnCodec", "b", "c", "b", "c", "EnCodec", "c", "EnCodec", "b"]
    assert [name for name, num_samples in clock.log[:3]] == ["EnCodec", "b", "c"]  # the warm-up, on the shorter clip
    assert {num_samples for _, num_samples in clock.log[:3]} == {24}


def test_a_slow_system_stops_early_and_is_compared_with_the_same_rounds(monkeypatch):
    entries, _ = measured(monkeypatch, 4, EnCodec=(1.0, 9), slow=(8.0, 2))
    assert entries["slow", "encode", 0.002]["ratio_to_baseline"]["all"] == [8.0, 8.0]
    assert len(entries["EnCodec", "encode", 0.002]["wall_s"]["all"]) == 4


@pytest.mark.parametrize("output", [torch.zeros(1, 1, 24), torch.full((1, 1, 24), math.nan), torch.ones(1, 1, 12)])
def test_a_system_that_gives_nothing_useful_is_not_timed(output):
    broken = peers.System("broken", "", 1, 75.0, 10, 9, lambda audio: audio, lambda codes: output)
    with pytest.raises(RuntimeError, match="broken gave shape"):
        peers.measure([broken], np.ones(10), [0.001], 1)


def test_the_clip_is_the_recording_in_a_loop():
    assert peers.looped(np.array([1.0, 2.0, 3.0]), 7).tolist() == [[[1, 2, 3, 1, 2, 3, 1]]]


def test_the_default_recording_is_there_and_comes_at_24_khz():
    file = soundfile.info(peers.DEFAULT_AUDIO)
    audio = peers.load_audio(peers.DEFAULT_AUDIO)
    assert len(audio) == math.ceil(file.frames * 24000 / file.samplerate)
    assert 0.01 < audio.std() < 1


@pytest.mark.parametrize(
    ("build", "config_class", "changes"),
    [
        (peers.encodec, "EncodecConfig", {"num_filters": 4, "hidden_size": 16}),
        (peers.dac, "DacConfig", {"encoder_hidden_size": 4, "decoder_hidden_size": 64}),
        (
            peers.mimi,
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
    full_size = getattr(peers, config_class)
    monkeypatch.setattr(peers, config_class, lambda **given: full_size(**(given | changes)))
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
        sizes = [system.num_parameters for system in (peers.encodec(), peers.dac(), peers.mimi())]
    assert [round(size / 1e6, 1) for size in sizes] == [23.3, 74.7, 96.2]


def test_the_fused_codec_has_the_weights_of_the_plain_one(monkeypatch, tiny_config):
    monkeypatch.setattr(peers, "WavTokenizerConfig", lambda upsampling_ratios: tiny_config)
    plain, fused = peers.wavtokenizer([5, 4, 2, 2])
    with torch.inference_mode():
        codes = plain.encode(noise(1, 1, 800))
        assert torch.equal(codes, fused.encode(noise(1, 1, 800)))
        assert torch.equal(plain.decode(codes), fused.decode(codes))
    assert (plain.codes_per_second, plain.bits_per_code) == (300.0, 6)


@pytest.fixture
def folder(tmp_path, tiny_model):
    tiny_model.save_pretrained(tmp_path / "model")
    WavTokenizerFeatureExtractor(hop_length=80).save_pretrained(tmp_path / "model")
    (tmp_path / "audio").mkdir()
    for index, name in enumerate(("a", "b")):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", noise(9600, seed=index).numpy(), 24000)
    return tmp_path


def clips_of(folder):
    kinds = {"a.wav": "speech", "b.wav": "music"}
    return dtype_agreement.float32_clips(folder / "model", folder / "audio", kinds, 0.2, 0.1)


def test_clips_are_cut_and_encoded_in_float32(folder, tiny_model):
    clips = clips_of(folder)
    assert [(clip.name, clip.kind) for clip in clips] == [("a.wav", "speech"), ("b.wav", "music")]
    samples, _ = soundfile.read(folder / "audio" / "a.wav", dtype="float32")
    expected = tiny_model.encode(torch.from_numpy(samples[:4800])[None, None]).audio_codes
    assert torch.equal(clips[0].audio_codes, expected)
    assert clips[0].decoded.shape == (1, 1, 2400)


def test_the_share_counts_the_codes_that_are_equal(folder, tiny_model):
    clips = clips_of(folder)
    one = clips[1].audio_codes.clone()
    one[..., :15] += 1  # 15 of the 60 codes of the second clip
    with torch.inference_mode():
        changed = [clips[0], dtype_agreement.Clip("b.wav", "music", clips[1].samples, one, clips[1].decoded)]
        found = dtype_agreement.agreement(tiny_model, changed)
    assert found["num_codes"] == {"all": 120, "speech": 60, "music": 60}
    assert found["share"] == {"all": 0.875, "speech": 1.0, "music": 0.75}
    assert found["lowest_clip"] == {"name": "b.wav", "share": 0.75}


@pytest.mark.parametrize("dtype", dtype_agreement.DTYPES.values())
def test_variants_differ_in_what_is_half_precise(folder, dtype):
    clips = clips_of(folder)
    models = {name: load(folder / "model", dtype) for name, load in dtype_agreement.VARIANTS.items()}
    found = {name: dtype_agreement.agreement(model, clips) for name, model in models.items()}
    bias = {name: model.encoder_model.encoder.layers[0].conv.bias for name, model in models.items()}
    assert {name: tensor.dtype for name, tensor in bias.items()} == {
        "whole model": dtype,
        "weights only": torch.float32,
        "decoder only": torch.float32,
    }
    assert torch.equal(bias["weights only"], bias["whole model"].float())
    assert found["decoder only"]["share"]["all"] == 1.0
    snrs_db = {name: entry["decoder_snr_db"]["median"] for name, entry in found.items()}
    assert snrs_db["decoder only"] == pytest.approx(snrs_db["whole model"], abs=3)
    assert 10 < snrs_db["decoder only"] < snrs_db["weights only"] + 12


def test_kinds_are_read_from_a_table(tmp_path):
    path = tmp_path / "manifest.tsv"
    path.write_text("file\tlicence\tkind\na.flac\tCC0\tspeech\n", encoding="utf-8")
    assert dtype_agreement.read_kinds(path) == {"a.flac": "speech"}


@pytest.fixture
def _small_training(monkeypatch):
    monkeypatch.setattr(training, "WavTokenizerConfig", lambda upsampling_ratios: tiny_config())
    monkeypatch.setattr(
        training, "DiscriminatorConfig", lambda: DiscriminatorConfig(width=1 / 32, periods=[2], resolutions=[512])
    )


@pytest.mark.usefixtures("_small_training")
def test_the_plain_loop_and_the_trainer_teach_the_same(monkeypatch):
    # Without dropout and with still discriminators, the codec's gradients are those of the same losses.
    parts = training._parts

    def still(device):
        generator, discriminators, learner, optimizers = parts(device)
        for module in generator.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        optimizers[1] = torch.optim.AdamW(discriminators.parameters(), lr=0.0)
        seen.append(generator)
        return generator, discriminators, learner, optimizers

    seen: list[torch.nn.Module] = []
    monkeypatch.setattr(training, "_parts", still)
    for build in (training.plain_loop, training.trainer_step("no")):
        build(torch.device("cpu"))(noise(1, 1, 4800), 0)
    plain, ours = (dict(generator.named_parameters()) for generator in seen)
    for name, parameter in plain.items():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.usefixtures("_small_training")
def test_a_variant_is_timed_after_a_first_step():
    measured_once = training.measure_one(training.BASELINE, noise(1, 1, 4800), 2)
    assert measured_once["audio_s_per_s"] > 0
    assert 0.1 < measured_once["peak_memory_gb"] < 100


def test_variants_run_in_turn_and_are_compared_within_a_round(monkeypatch):
    speeds = {name: iter(values) for name, values in zip(training.VARIANTS, ([1, 2], [3, 4], [5, 8]), strict=True)}
    order = []

    def run(command, **kwargs):
        name = command[command.index("--one") + 1]
        order.append(name)
        printed = json.dumps({"audio_s_per_s": next(speeds[name]), "peak_memory_gb": 2.0})
        return training.subprocess.CompletedProcess(command, 0, stdout=f"noise\n{printed}\n")

    monkeypatch.setattr(training.subprocess, "run", run)
    arguments = training.argparse.Namespace(
        rounds=2, audio="a.wav", batch=1, seconds=1.0, steps=1, threads=1, device="cpu"
    )
    entries = training.measure(arguments)
    names = list(training.VARIANTS)
    assert order == [*names, *names[1:], names[0]]
    assert [entry["audio_s_per_s"]["median"] for entry in entries] == [1.5, 3.5, 6.5]
    assert [entry["audio_s_per_s"]["ratio_to_baseline"] for entry in entries] == [1.0, 2.5, 4.5]


def test_the_codebooks_that_are_compared_differ_in_revival_alone(tmp_path, monkeypatch):
    told = []

    class Trainer:
        def __init__(self, config, run):
            told.append(config)
            self.run = run

        def train(self):
            entries = [
                {"step": 1, "codebook/revived": 3.0},
                {"step": 2, "codebook/revived": 4.0},
                {
                    "step": 2,
                    "validation/mel": 0.5,
                    "codebook/usage": 0.25,
                    "codebook/perplexity": 9.0,
                    "validation/num_clips": 2,
                },
            ]
            (self.run / "log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))

    monkeypatch.setattr(revival, "Trainer", Trainer)
    arguments = revival.argparse.Namespace(data="clips", steps=2, batch=8)
    found = [revival.measure_one(name, arguments, tmp_path) for name in revival.VARIANTS]
    assert found[0] == {
        "variant": "with revival",
        "usage": 0.25,
        "perplexity": 9.0,
        "mel": 0.5,
        "num_revived": 7.0,
        "num_clips": 2,
    }
    ours, legacy = (config.to_dict() for config in told)
    assert {key for key in ours if ours[key] != legacy[key]} == {"codebook"}
    assert [config.codebook.legacy for config in told] == [False, True]


def test_a_result_states_its_conditions_without_folders_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    monkeypatch.setattr(record.sys, "argv", ["benchmark", "--model", str(tmp_path), "--label", "75 codes/s"])
    found = json.loads(json.dumps(record.conditions(0.5)))
    assert found["command"].endswith(f"--model {tmp_path.name} --label '75 codes/s'")
    assert found["allocator"]["MALLOC_TRIM_THRESHOLD_"] == "123"
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["load_before"] == 0.5


def test_tables_in_the_documents_equal_the_results(capsys):
    assert table.main(["--check"]) == 0, capsys.readouterr().out
    documents = [(record.REPOSITORY / name).read_text(encoding="utf-8") for name in table.DOCUMENTS]
    for name in table.RENDERERS:
        assert any(f"<!-- begin table: {name} -->\n|" in document for document in documents)


def test_a_figure_that_differs_from_the_results_is_noticed(tmp_path, monkeypatch, capsys):
    document = (record.REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    seconds = f"{record.read_result('peers')['measurements'][0]['wall_s']['median']:.2f} s"
    assert seconds in document
    (tmp_path / "page.md").write_text(document.replace(seconds, "0.01 s", 1), encoding="utf-8")
    monkeypatch.setattr(table, "REPOSITORY", tmp_path)
    monkeypatch.setattr(table, "DOCUMENTS", ("page.md",))
    assert table.main(["--check"]) == 1
    assert "page.md is out of date" in capsys.readouterr().out
    assert table.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<!-- begin table: nothing -->\n<!-- end table: nothing -->", "no result is called 'nothing'"),
        ("<!-- begin table: peers -->\n", "lacks its"),
    ],
)
def test_a_misplaced_table_is_an_error(document, message):
    with pytest.raises(ValueError, match=message):
        table.with_tables(document)


def test_every_single_run_backs_the_medians_of_the_kept_result():
    result = record.read_result("peers")
    names = set(result["systems"])
    cells = {(entry["system"], entry["operation"], entry["audio_s"]) for entry in result["measurements"]}
    assert cells == {
        (name, operation, seconds) for name in names for operation in ("encode", "decode") for seconds in (10, 30)
    }
    assert {"EnCodec", "DAC", "Mimi", "WavTokenizer 75", "WavTokenizer 40"} <= names
    for entry in result["measurements"]:
        times = entry["wall_s"]["all"]
        assert len(times) >= 3
        assert entry["wall_s"]["median"] == pytest.approx(np.median(times), abs=1e-4)
