"""A saved processor, loaded where the package cannot be imported."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import noise, tiny_causal_model, tiny_model
from tests.tiny_language import tiny_language_model, tiny_tokenizer
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerProcessor

CODE_FILES = {
    *("audio_input.py", "audio_preparation.py", "codec_files.py"),
    *(f"{kind}_wavtokenizer.py" for kind in ("arithmetic", "configuration", "feature_extraction", "modeling")),
    *(f"{kind}_wavtokenizer.py" for kind in ("checks", "nearest", "processing")),
}
TEXT = "say <|audio|> again"

# Loads processor and language model, resizes nothing, trains and generates with them, and saves the processor again.
FOREIGN_PROCESS = """
import sys

sys.modules["wavtokenizer_hf"] = None
folder, clip, copy, results = sys.argv[1:]

import numpy as np
from transformers import AutoModelForCausalLM, AutoProcessor

processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder)
for thing in (processor, processor.feature_extractor, processor.audio_tokenizer, processor.vocabulary):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
batch = processor("say <|audio|> again", np.load(clip), loss_on="audio", return_tensors="pt")
[decoded] = processor.batch_decode(batch["input_ids"])
processor.save_pretrained(copy)
model.save_pretrained(copy)
np.savez(
    results,
    input_ids=batch["input_ids"].numpy(),
    loss=model(**batch).loss.detach().numpy(),
    text=decoded.text,
    audio_values=decoded.audio_values[0].numpy(),
)
"""


def run_elsewhere(code: str, *arguments: Path) -> subprocess.CompletedProcess:
    """Runs code with a module cache of its own, away from the package's folder and without a network."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_MODULES_CACHE": str(arguments[-1].with_suffix(".cache")), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=arguments[-1].parent, check=False
    )


@pytest.mark.parametrize(
    ("make_codec", "copies"), [(tiny_model, ["again", "thrice"]), (tiny_causal_model, ["again"])], ids=["", "causal"]
)
def test_a_processor_loads_runs_and_saves_itself_without_the_package(tmp_path, make_codec, copies):
    tokenizer, codec = tiny_tokenizer(), make_codec()
    processor = WavTokenizerProcessor(WavTokenizerFeatureExtractor(hop_length=80), tokenizer, codec)
    model = tiny_language_model("qwen", tokenizer)
    processor.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")
    clip = noise(5000, seed=3).numpy()
    np.save(tmp_path / "clip.npy", clip)
    batch = processor(TEXT, clip, loss_on="audio", return_tensors="pt")
    [decoded] = processor.batch_decode(batch["input_ids"])
    assert {path.name for path in (tmp_path / "saved").glob("*.py")} == CODE_FILES
    for source, copy in pairwise(["saved", *copies]):
        results = tmp_path / f"{copy}.npz"
        ran = run_elsewhere(FOREIGN_PROCESS, tmp_path / source, tmp_path / "clip.npy", tmp_path / copy, results)
        assert ran.returncode == 0, ran.stderr
        with np.load(results) as found:
            np.testing.assert_array_equal(found["input_ids"], batch["input_ids"].numpy())
            np.testing.assert_allclose(found["loss"], model(**batch).loss.item(), rtol=1e-5)
            assert found["text"] == decoded.text == TEXT
            np.testing.assert_allclose(found["audio_values"], decoded.audio_values[0].numpy(), atol=1e-6)
        folder = tmp_path / copy
        assert {path.name for path in folder.glob("*.py")} == CODE_FILES
        for name in CODE_FILES:
            assert (folder / name).read_bytes() == (tmp_path / "saved" / name).read_bytes(), name
        stored, saved = (
            json.loads((tmp_path / name / "processor_config.json").read_text()) for name in (copy, "saved")
        )
        assert stored == saved
        assert stored["auto_map"] == {"AutoProcessor": "processing_wavtokenizer.WavTokenizerProcessor"}


def test_the_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path):
    processor = WavTokenizerProcessor(WavTokenizerFeatureExtractor(hop_length=80), tiny_tokenizer(), tiny_model())
    processor.save_pretrained(tmp_path / "saved")
    code = (
        "import sys; sys.modules['wavtokenizer_hf'] = None; from transformers import AutoProcessor; "
        "AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=False)"
    )
    ran = run_elsewhere(code, tmp_path / "saved")
    assert ran.returncode == 1
    assert "trust_remote_code=True" in ran.stderr
