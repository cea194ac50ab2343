"""The arithmetic of the benchmarks of quality and training, on tiny models, and the tables that show all results."""

import json

import pytest
import soundfile
import torch

from benchmarks import dtype_agreement, record, revival, table, training
from tests.tiny import noise, tiny_config
from wavtokenizer_hf import WavTokenizerFeatureExtractor
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig


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
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda device: True)
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
        begins = [f"<!-- begin table: {name} -->\n{start}" for start in ("|", "Not measured yet.")]
        assert any(begin in document for document in documents for begin in begins), name


def test_a_figure_that_differs_from_the_results_is_noticed(tmp_path, monkeypatch, capsys):
    document = (record.REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    speed = f"{record.read_result('training')['measurements'][0]['audio_s_per_s']['median']:.3g} |"
    assert speed in document
    (tmp_path / "page.md").write_text(document.replace(speed, "100 |", 1), encoding="utf-8")
    monkeypatch.setattr(table, "REPOSITORY", tmp_path)
    monkeypatch.setattr(table, "DOCUMENTS", ("page.md",))
    assert table.main(["--check"]) == 1
    assert "page.md is out of date" in capsys.readouterr().out
    assert table.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document


def test_what_has_not_been_measured_has_no_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    place = "<!-- begin table: speed -->\n| 1 |\n<!-- end table: speed -->"
    assert table.with_tables(place) == "<!-- begin table: speed -->\nNot measured yet.\n<!-- end table: speed -->"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<!-- begin table: nothing -->\n<!-- end table: nothing -->", "no result is called 'nothing'"),
        ("<!-- begin table: speed -->\n", "lacks its"),
    ],
)
def test_a_misplaced_table_is_an_error(document, message):
    with pytest.raises(ValueError, match=message):
        table.with_tables(document)
