"""The original's recordings of the codec of sparse events, and a model with the weights that they were made with."""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from conversion.event_codec import architecture, convert

from tests.golden.events import event_reference_weights as weights
from wavtokenizer_hf.modeling_sparse_event_codec import SparseEventCodecModel

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
CLIPS = {"small": (("long", 0), ("window", 40000)), "full": (("window", 0),)}


@functools.cache
def manifest(geometry: str) -> dict:
    return weights.load_manifest(GOLDEN / f"manifest_{geometry}.json")


@functools.cache
def original_state(geometry: str, group: str) -> dict[str, torch.Tensor]:
    return weights.reference_state_dict(manifest(geometry), manifest(geometry)["seed"], group)


@functools.cache
def recorded(geometry: str, name: str = "cases") -> dict[str, np.ndarray]:
    with np.load(GOLDEN / geometry / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@functools.cache
def training_numbers() -> dict:
    return json.loads((GOLDEN / "small" / "training.json").read_text())


def loaded_model(geometry: str) -> SparseEventCodecModel:
    state = original_state(geometry, "model")
    model = SparseEventCodecModel(architecture(state)).eval()
    model.load_state_dict(convert(state), strict=True)
    return model


def noise(geometry: str, num_calls: int, batch_size: int, first: int = 0) -> torch.Tensor:
    """(B, K, 8192), of the renderings from call `first` on."""
    seed = manifest(geometry)["seed"]
    calls = [weights.excitation_noise(seed, first + call, batch_size)[:, 0] for call in range(num_calls)]
    return torch.from_numpy(np.stack(calls, axis=1))


def clips(num_samples: int, *slices: tuple[str, int]) -> torch.Tensor:
    """float32 (B, N), each divided by its highest sample as the original does."""
    with np.load(GOLDEN / "inputs.npz") as inputs:
        rows = [inputs[name][start : start + num_samples] for name, start in slices]
    samples = np.stack(rows).astype(np.float32) / np.float32(32768)
    return torch.from_numpy(samples / (np.abs(samples.max(axis=-1, keepdims=True)) + 1e-12))


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs))


def largest(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.detach().numpy() - theirs).max())
