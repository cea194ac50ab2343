"""Recipes, changes to them, and what is said of mistakes."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml

from wavtokenizer_hf import WavTokenizerConfig
from wavtokenizer_hf.training import config as module
from wavtokenizer_hf.training.config import TrainingConfig, config_from_dict, load_config, purpose_of, recipe_names

DEFAULT_WEIGHTS = TrainingConfig().weights
RECIPES = ["debug", "finetune-decoder", "large-40", "large-75", "nano-75", "small-40", "small-75"]


def test_the_recipes_are_these():
    assert recipe_names() == RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_describes_a_run(recipe):
    config = load_config(recipe)
    assert WavTokenizerConfig(**config.model).hop_length % 2 == 0
    # Discriminators that are there have something to teach, and something asks for the sound of the recording.
    weights = config.weights
    assert all(weight for name, weight in weights.items() if name.startswith("discriminator/"))
    assert weights["generator/mel"] or weights["generator/multi_scale_mel"]


# Section 4.1 and table 1 of the paper, and the original's configs.
@pytest.mark.parametrize(
    ("recipe", "frame_rate", "n_fft"),
    [("small-75", 75, 1280), ("large-75", 75, 1280), ("small-40", 40, 2400), ("large-40", 40, 2400)],
)
def test_the_released_geometries_are_built(recipe, frame_rate, n_fft):
    config = load_config(recipe)
    codec = WavTokenizerConfig(**config.model)
    released = {
        "sampling_rate": 24000,
        "num_filters": 32,
        "hidden_size": 512,
        "codebook_size": 4096,
        "codebook_dim": 512,
        "num_lstm_layers": 2,
        "decoder_hidden_size": 768,
        "decoder_intermediate_size": 2304,
        "decoder_num_layers": 12,
        "adanorm_num_embeddings": 4,
    }
    assert {name: getattr(codec, name) for name in released} == released
    assert (codec.frame_rate, codec.n_fft) == (frame_rate, n_fft)
    assert (config.data.crop_s, config.data.max_clip_s, config.data.peak_db) == (3, 10, (-6, -1))
    assert (config.optimizer.learning_rate, config.optimizer.final_share) == (2e-4, 0)
    assert config.weights == DEFAULT_WEIGHTS
    assert (config.codebook.kmeans_iterations, config.codebook.decay) == (200, 0.99)
    assert config.discriminators.width == 1


def test_the_bundled_codec_has_75_codes_a_second_at_24_khz():
    codec = WavTokenizerConfig(**load_config("nano-75").model)
    assert (codec.sampling_rate, codec.frame_rate) == (24000, 75)


def test_a_recipe_changes_what_its_base_says_and_leaves_the_rest(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: small-40\nmodel:\n  codebook_size: 16\nbatch_size: 3\n")
    config, base = load_config(str(recipe)), load_config("small-40")
    assert config.model == {**base.model, "codebook_size": 16}
    assert config == dataclasses.replace(base, model=config.model, batch_size=3)


def test_changes_reach_into_parts_and_are_read_as_yaml():
    config = load_config(
        "debug",
        [
            "optimizer.learning_rate=1e-5",
            "optimizer.betas=[0.5, 0.9]",
            "data.train=recordings",
            "data.validation=[a, b.tsv]",
            "data.weights={kind: {speech: 2}}",
            "loss_weights.generator/mel=15",
            "loss_weights.generator/waveform=[[100, 20], [200, 0]]",
            "quantizer_dropout=5e-1",
            "ema_decay=0.999",
            "init_from=null",
            "is_causal=true",
        ],
    )
    assert config.optimizer.learning_rate == 1e-5
    assert config.optimizer.betas == (0.5, 0.9)
    assert (config.data.train, config.data.validation) == (["recordings"], ["a", "b.tsv"])
    assert config.data.weights == {"kind": {"speech": 2.0}}
    assert config.weights == {**DEFAULT_WEIGHTS, "generator/commitment": 1.0, "generator/mel": 15.0} | {
        "generator/waveform": [[100.0, 20.0], [200.0, 0.0]]
    }
    assert config.quantizer_dropout == 0.5
    assert (config.ema_decay, config.init_from, config.is_causal) == (0.999, None, True)


def test_a_configuration_survives_being_written_and_read():
    config = load_config("nano-75", ["data.train=recordings", "data.weights={kind: {speech: 2}}", "ema_decay=0.9"])
    written = yaml.safe_dump(config.to_dict())
    assert config_from_dict(yaml.safe_load(written)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("max_step=3", "unknown key 'max_step'; did you mean 'max_steps'?"),
        ("optimizer.learning_rat=1", "unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?"),
        ("model.codebok_size=64", "unknown key 'model.codebok_size'; did you mean 'model.codebook_size'?"),
        ("model.attention_window=8", "unknown key 'model.attention_window'"),
        ("tea=1", "unknown key 'tea'; there are objective, model, init_from"),
        ("max_steps=1e5", "max_steps: expected int, got '1e5'"),
        ("precision=fp8", "precision: expected Literal['fp32', 'bf16', 'fp16'], got 'fp8'"),
        ("optimizer.learning_rate=quick", "optimizer.learning_rate: expected float, got 'quick'"),
        ("data.peak_db=[-3]", "data.peak_db: expected tuple[float, float], got (-3.0,)"),
        ("optimizer=3", "optimizer: expected OptimizerConfig, got 3"),
        ("batch_size.x=3", "batch_size.x: batch_size has no parts"),
        ("loss_weights.generator/me=1", "`loss_weights` names no loss: generator/me"),
        ("loss_weights.generator/mel=-1", "`loss_weights.generator/mel` must lie from 0 to inf, got -1"),
        ("loss_weights.generator/mel=[[5, 1], [0, 1]]", "`loss_weights.generator/mel` must be a number, or points"),
        ("quantizer_dropout=2", "`quantizer_dropout` must lie from 0 to 1, got 2"),
        ("discriminators.resolution_width=0", "`resolution_width` must be above 0"),
        ("data.train=[a", "data.train: '[a' is not YAML"),
        ("x", "expected key=value, got 'x'"),
        ("=3", "expected key=value, got '=3'"),
        ("batch_size=0", "`batch_size` must be at least 1, got 0"),
        ("keep_checkpoints=0", "`keep_checkpoints` must be at least 1, got 0"),
        ("seed=-1", "`seed` must be 0 or more, got -1"),
        ("ema_decay=1", "`ema_decay` must lie between 0 and 1, got 1.0"),
        ("codebook.decay=2", "`decay` must lie between 0 and 1, got 2.0"),
        ("discriminators.width=0", "`width` must be above 0"),
        ("objective=gam", "`objective` must be one of gan, gan_legacy, got 'gam'"),
        ("codebook.learner=em", "`codebook.learner` must be one of ema, ema_legacy, got 'em'"),
        ("init_from=codec", "`init_from` brings the configuration of its codec"),
    ],
)
def test_a_mistake_is_named_by_its_key(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_config("debug", [change])


def test_a_causal_codec_has_keys_of_its_own():
    assert load_config("debug", ["is_causal=true", "model.attention_window=8"]).model["attention_window"] == 8


def test_legacy_refuses_what_the_original_does_not_know():
    with pytest.raises(ValueError, match="`legacy` knows no accumulation"):
        load_config("debug", ["legacy=true", "accumulation_steps=2"])


def test_legacy_is_short_for_an_objective_and_a_learner():
    def kinds(*changes: str) -> tuple[str, str]:
        config = load_config("debug", changes)
        return config.objective_class.name, config.learner_class.name

    assert kinds() == ("gan", "ema")
    assert kinds("legacy=true") == kinds("objective=gan_legacy", "codebook.learner=ema_legacy")
    assert kinds("codebook.legacy=true") == kinds("codebook.learner=ema_legacy") == ("gan", "ema_legacy")
    with pytest.raises(ValueError, match="`legacy` is the original's arithmetic, which knows no `objective` 'other'"):
        load_config("debug", ["legacy=true", "objective=other"])


def test_a_run_of_before_there_was_a_choice_loads_as_it_did():
    now = load_config("nano-75", ["data.train=recordings"])
    written = now.to_dict()
    assert (written.pop("objective"), written["codebook"].pop("learner")) == ("gan", "ema")
    assert config_from_dict(written) == now


def test_every_recipe_says_what_it_is_for_and_what_it_computes():
    for name in RECIPES:
        text = (Path(module.__file__).parent / "recipes" / f"{name}.yaml").read_text()
        assert len(purpose_of(name)) > 20
        assert ("objective: gan" in text) != ("base: " in text)


def test_a_recipe_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(FileNotFoundError, match="no recipe 'debag'; there are " + ", ".join(RECIPES)):
        load_config("debag")
    with pytest.raises(FileNotFoundError, match=r"no such recipe file: mine\.yaml"):
        load_config("mine.yaml")


@pytest.mark.parametrize(("text", "message"), [("- a", "expected keys and values, got list"), ("a: [", "not YAML")])
def test_a_recipe_file_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / "mine.yaml"))


def test_an_empty_recipe_is_all_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert load_config(str(tmp_path / "mine.yaml")) == TrainingConfig()
    assert math.isclose(TrainingConfig().optimizer.learning_rate, 2e-4)
