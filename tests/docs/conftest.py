"""What the documents speak of.

A codec in `wavtokenizer-75`, a language model in `language-model`, a recording, `speech.flac`, and more in `clips`.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import REPOSITORY
from tests.golden import AUDIO
from tests.tiny import tiny_model
from tests.tiny_language import tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel

RECORDING = REPOSITORY / "conversion" / "LJ001-0002.flac"


@pytest.fixture(scope="session")
def docs_model() -> WavTokenizerModel:
    """A narrow codec with the geometry of the released ones at 75 codes a second, so lengths are the real ones."""
    return tiny_model(
        upsampling_ratios=[8, 5, 4, 2],
        codebook_size=4096,
        decoder_hidden_size=32,
        decoder_intermediate_size=48,
        decoder_attention_num_groups=32,
    )


@pytest.fixture(scope="session")
def docs_codec(docs_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs_codec")
    docs_model.save_pretrained(folder)
    WavTokenizerFeatureExtractor(hop_length=docs_model.config.hop_length).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def docs_language_model(tmp_path_factory) -> Path:
    """A language model of random weights with the chat template of a text model."""
    folder = tmp_path_factory.mktemp("docs_language_model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    tiny_language_model("qwen", tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def docs_directory(docs_codec, docs_language_model, tmp_path, monkeypatch) -> Path:
    """The working directory of a document, which is the current one while the test runs."""
    shutil.copytree(docs_codec, tmp_path / "wavtokenizer-75")
    shutil.copytree(docs_language_model, tmp_path / "language-model")
    shutil.copyfile(RECORDING, tmp_path / "speech.flac")
    shutil.copytree(AUDIO, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    # Commands of the package work as in an environment that was set up as the README says.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path
