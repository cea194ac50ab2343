"""The released geometries under the reference weights: drawn, written as an original checkpoint, converted, loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conversion.convert import convert
from safetensors.torch import save_file

from tests.golden import reference_weights
from wavtokenizer_hf import WavTokenizerModel
from wavtokenizer_hf.training.discriminators import Discriminators, load_original_discriminators

GOLDEN = Path(__file__).parent.parent / "golden"
SEED = 1234
ARCHITECTURES = ("hop320", "hop600")


def golden_cases() -> list[tuple[str, str]]:
    """All (architecture, case) pairs, ordered so that each architecture is loaded once."""
    return sorted(tuple(name.split("/")) for name in json.loads((GOLDEN / "cases.json").read_text()))


@pytest.fixture(scope="session")
def signals() -> dict[str, np.ndarray]:
    """The input signals as float32."""
    with np.load(GOLDEN / "inputs.npz") as stored:
        return {name: stored[name].astype(np.float32) / np.float32(32768) for name in stored}


@pytest.fixture(scope="session")
def clips(signals):
    """A function from slices of the signals to a batch (B, 1, T)."""

    def cut(parts: list[dict]) -> torch.Tensor:
        rows = []
        for part in parts:
            start, length = part["start"], part["length"]
            silence = part["signal"] == "zeros"
            rows.append(np.zeros(length, np.float32) if silence else signals[part["signal"]][start : start + length])
        return torch.from_numpy(np.stack(rows))[:, None]

    return cut


@pytest.fixture(scope="session")
def case_input(clips):
    """A function from (architecture, case) to the input batch (B, 1, T)."""
    index = json.loads((GOLDEN / "cases.json").read_text())
    return lambda architecture, case: clips(index[f"{architecture}/{case}"]["parts"])


@pytest.fixture(scope="session")
def golden():
    """A function from (architecture, case) to the original's outputs."""
    stored = {architecture: np.load(GOLDEN / f"cases_{architecture}.npz") for architecture in ARCHITECTURES}

    def read(architecture: str, case: str) -> dict[str, np.ndarray]:
        prefix = f"{case}/"
        return {
            name.removeprefix(prefix): stored[architecture][name]
            for name in stored[architecture]
            if name.startswith(prefix)
        }

    return read


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory):
    """A function from an architecture to the folder of its converted checkpoint."""
    made: dict[str, Path] = {}

    def build(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            checkpoint = folder / "original.ckpt"
            manifest = reference_weights.load_manifest(GOLDEN / f"manifest_{architecture}.json")
            reference_weights.write_original_checkpoint(checkpoint, manifest, SEED, training_modules=False)
            convert(str(checkpoint), folder / "converted")
            checkpoint.unlink()
            made[architecture] = folder / "converted"
        return made[architecture]

    return build


@pytest.fixture(scope="session")
def reference_model(reference_folder):
    """A function from an architecture to its model, in eval mode."""
    made: dict[str, WavTokenizerModel] = {}

    def build(architecture: str) -> WavTokenizerModel:
        if architecture not in made:
            made.clear()
            made[architecture] = WavTokenizerModel.from_pretrained(reference_folder(architecture)).eval()
        return made[architecture]

    return build


@pytest.fixture(scope="session")
def training_golden():
    """A function from an architecture to what the original's training made of a batch, and of two in a row."""
    return lambda architecture: json.loads((GOLDEN / f"training_{architecture}.json").read_text())


@pytest.fixture(scope="module")
def reference_discriminators(tmp_path_factory) -> Discriminators:
    """Those of either architecture, from a file as the conversion writes it. Copy them before changing them."""
    manifest = reference_weights.load_manifest(GOLDEN / "manifest_hop320.json")
    used = ("multiperioddisc.", "multiresddisc.", "dacdiscriminator.")
    unused = "dac.discriminators.0.conv_post."  # of the copy that the original's losses do not see
    path = tmp_path_factory.mktemp("discriminators") / "discriminators.safetensors"
    save_file(reference_weights.reference_state_dict(manifest, SEED, (*used, unused)), path)
    loaded = load_original_discriminators(path)
    path.unlink()
    return loaded
