"""The tables of docs/training.md say what the package does."""

from pathlib import Path

from tests.docs.markdown import Row, read, rows
from wavtokenizer_hf import WavTokenizerConfig
from wavtokenizer_hf.audio.codebook_use import CodebookUse
from wavtokenizer_hf.training.config import TrainingConfig, load_config, purpose_of, recipe_names
from wavtokenizer_hf.training.keys import keys_as_page
from wavtokenizer_hf.training.validation import Validation


def table(section: str) -> list[Row]:
    return [row for row in rows(read(Path("docs/training.md"))) if row.section == section]


def test_every_recipe_is_listed_with_its_rate_batch_and_steps():
    listed = table("Recipes")
    assert sorted(row.cells[0].code[0] for row in listed) == recipe_names()
    for row in listed:
        config = load_config(row.cells[0].code[0])
        purpose, rate, batch, steps = (cell.text for cell in row.cells[1:])
        assert purpose == purpose_of(row.cells[0].code[0])
        assert (int(batch), int(steps)) == (config.batch_size, config.max_steps)
        if config.model:
            assert float(rate) == WavTokenizerConfig(**config.model).frame_rate
        else:
            assert rate == "its source's"


def test_the_page_of_keys_is_what_the_package_says_of_them():
    assert read(Path("docs/training-keys.md")) == keys_as_page(), "python -m wavtokenizer_hf.training.keys > ..."


def test_every_loss_is_listed_with_its_weight():
    listed = {row.cells[0].code[0]: float(row.cells[1].text) for row in table("Watching a run")}
    assert listed == TrainingConfig().weights


def test_every_figure_of_the_codebook_is_listed():
    figures = Validation(0.0, 0.0, 0.0, 0.0, 0, ()).figures
    logged = {name for name in figures if name.startswith("codebook/")}
    assert {name.partition("/")[2] for name in logged} == set(CodebookUse.__dataclass_fields__)
    assert {row.cells[0].code[0] for row in table("The codebook")} == logged | {"codebook/revived"}


def test_the_learning_rate_of_the_guide_is_that_of_the_recipe():
    settings = load_config("finetune-decoder").optimizer
    text = read(Path("docs/training.md"))
    assert "learning rate, 5e-5, with its 500 steps" in text
    assert (settings.learning_rate, settings.warmup_steps) == (5e-5, 500)
