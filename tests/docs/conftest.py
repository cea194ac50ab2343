"""What the documents speak of.

A codec in `wavtokenizer-75`, for commands; a recording, `speech.flac`, and more in `clips`.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import REPOSITORY
from tests.golden import AUDIO
from tests.tiny import tiny_model
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


@pytest.fixture
def docs_directory(docs_codec, tmp_path, monkeypatch) -> Path:
    """The working directory of a document, which is the current one while the test runs."""
    shutil.copytree(docs_codec, tmp_path / "wavtokenizer-75")
    shutil.copyfile(RECORDING, tmp_path / "speech.flac")
    shutil.copytree(AUDIO, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    # What `datasets` keeps of a folder goes by its name, which is the same in every run.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".datasets")
    # Commands of the package work as in an environment that was set up as the README says.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path
