import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conversion.cards import released_card
from conversion.checkpoints import RELEASED
from conversion.convert import convert
from typer.testing import CliRunner

from conversion.__main__ import app
from tests.original_checkpoint import write_checkpoint
from tests.tiny import tiny_config
from wavtokenizer_hf import WavTokenizerConfig
from wavtokenizer_hf.hub.model_card import for_self_contained_folder, render_model_card

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"


def front_matter(card):
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def test_the_cards_in_the_repository_are_those_that_the_table_gives(tmp_path):
    assert CliRunner().invoke(app, ["cards", str(tmp_path)]).exit_code == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    cards = {path.name: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md")}
    del cards["nano-75.md"]  # lies with its weights
    assert written == cards
    assert len(written) == len(RELEASED)


def test_the_template_in_the_repository_is_the_package_s():
    template = CARDS / "template.md.j2"
    assert template.is_symlink()
    assert not template.readlink().is_absolute()
    assert template.resolve() == ROOT / "wavtokenizer_hf/hub/model_card.md.j2"


@pytest.mark.parametrize("release", RELEASED, ids=lambda release: release.name)
def test_a_released_card_states_what_is_known_of_it(release):
    card = released_card(release)
    assert front_matter(card)["license"] == "mit"
    assert front_matter(card)["library_name"] == "transformers"
    assert f"| Codes per second | {release.codes_per_second} |" in card
    assert f"| Trained on | {release.domain} |" in card
    assert f"`{release.file}` of [{release.repo}](https://huggingface.co/{release.repo})" in card
    assert (f"begins `{release.sha256_prefix}`" in card) == bool(release.sha256_prefix)
    assert (f"revision `{release.revision}`" in card) == bool(release.revision)
    assert all(f"- {use}\n" in card for use in release.not_for)
    assert "without that person's consent" in card
    assert release.remark is None or release.remark in card


def test_a_card_says_nothing_that_is_not_known(tiny_config):
    card = render_model_card(tiny_config, name="mine")
    assert "# mine\n" in card
    assert "license" not in front_matter(card)
    for absent in ("None", "Trained on", "Licence", "Origin", "SHA-256", "How it was made", "{", "%"):
        assert absent not in card.split("```bibtex")[0], absent


@pytest.mark.parametrize("needs_package", [True, False])
@pytest.mark.parametrize("details", [{}, {"domain": "speech", "licence": "mit", "not_for": ["x"], "remark": "y"}])
def test_a_card_has_no_stray_blank_lines(details, needs_package):
    card = render_model_card(WavTokenizerConfig(), name="mine", details=details, needs_package=needs_package)
    assert "\n\n\n" not in card
    assert card.endswith("```\n")
    assert not re.search(r"[ \t]\n", card)


def test_figures_follow_from_the_configuration():
    card = render_model_card(tiny_config(sampling_rate=16000), name="mine")
    for row in (
        "Codes per second | 200",
        "Samples per code | 80",
        "64 entries of width 16",
        "1.2 kbit/s",
        "mono, 16000 Hz",
    ):
        assert row in card


def test_a_detail_that_no_card_shows_is_an_error(tiny_config):
    with pytest.raises(ValueError, match=r"unknown details.*colour"):
        render_model_card(tiny_config, name="mine", details={"colour": "blue"})


def test_a_card_can_be_turned_into_that_of_a_folder_with_code(tiny_config):
    card = render_model_card(tiny_config, name="mine", needs_package=True)
    assert "import wavtokenizer_hf" in card
    assert for_self_contained_folder(card, tiny_config) == render_model_card(tiny_config, name="mine")
    edited = card.replace("# mine", "# Mine, with a text of my own")
    assert "Mine, with a text of my own" in for_self_contained_folder(edited, tiny_config)
    assert for_self_contained_folder("# Another card\n", tiny_config) == "# Another card\n"


def test_the_code_of_a_converted_card_runs_in_its_folder(tmp_path):
    convert(str(write_checkpoint(tmp_path / "original.ckpt")), tmp_path / "out")
    soundfile.write(tmp_path / "out/recording.wav", 0.1 * np.random.randn(4410), 44100)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path / "out", check=True)
    decoded, rate = soundfile.read(tmp_path / "out/decoded.wav")
    assert (rate, len(decoded)) == (24000, 2400)
