"""Checkpoints of a run: whole or not there, few, and each a folder that `from_pretrained` loads."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from wavtokenizer_hf.audio.atomic import partial_path, replacing
from wavtokenizer_hf.checkpoints import find_model, reading_model
from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerConfig
from wavtokenizer_hf.conversion.checkpoints import find_release
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCausalModel, WavTokenizerModel
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators, load_original_discriminators

DISCRIMINATORS = "discriminators.safetensors"
# What a folder of accelerate's state is called inside a checkpoint.
STATE = "training_state"
BEST = "best"
_CONFIG_KEY = "discriminator_config"
_STEP = re.compile(r"step-(\d{8})")
_CONVERT = "A checkpoint of the original is converted first: wavtokenizer convert {} FOLDER --keep-discriminators"


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, the oldest first."""
    folder = run / "checkpoints"
    return sorted(path for path in folder.iterdir() if _STEP.fullmatch(path.name)) if folder.is_dir() else []


def step_of(checkpoint: Path) -> int:
    """The number of steps taken before a checkpoint was written."""
    match = _STEP.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not a run's checkpoint; those are named step-00001000")
    return int(match[1])


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def rotate(run: Path, keep: int) -> None:
    """Leaves the newest `keep` checkpoints."""
    for path in checkpoints(run)[:-keep]:
        # Renamed first, so that a kill leaves no checkpoint without some of its files.
        gone = partial_path(path)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def save_codec(folder: Path, model: WavTokenizerModel) -> None:
    """Writes model, configuration and feature extractor into a folder."""
    model.save_pretrained(folder)
    config = model.config
    WavTokenizerFeatureExtractor(sampling_rate=config.sampling_rate, hop_length=config.hop_length).save_pretrained(
        folder
    )


def load_codec(source: str) -> WavTokenizerModel:
    """Reads the codec that a run starts from, in float32.

    Args:
        source: A folder, an id on the Hub, or the name of the package's checkpoint.

    Raises:
        FileNotFoundError: If there is no such folder or id, or no codec in it.
        ValueError: If it is something else than a codec's folder.
    """
    source = find_model(source)
    path = Path(source)
    if path.is_file():
        raise ValueError(f"a codec is a folder or a Hub id, and {source} is a file. {_CONVERT.format(source)}")
    if checkpoints(path):
        raise ValueError(
            f"{source} is a run; name its {BEST!r}, or one of its checkpoints, as {checkpoints(path)[-1]}"
        )
    if not path.exists() and "/" not in source:
        release = find_release(source)  # or says what may be meant; the Hub knows no name without an owner
        raise FileNotFoundError(f"{source} is no codec's folder here. {_CONVERT.format(release.name)}")
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source} is no codec's folder, nor to be had from the Hub ({error}). {_CONVERT.format('NAME')}"
        ) from None
    if not isinstance(config, WavTokenizerConfig):
        raise ValueError(f"{source} holds a model of type {config.model_type!r}, expected a WavTokenizer")
    model_class = WavTokenizerCausalModel if config.is_causal else WavTokenizerModel
    with reading_model(source):
        return model_class.from_pretrained(source, dtype=torch.float32, use_safetensors=True)


def save_discriminators(folder: Path, discriminators: Discriminators) -> None:
    """Writes discriminators beside their codec, with what it takes to rebuild them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in discriminators.state_dict().items()}
    settings = json.dumps(dataclasses.asdict(discriminators.config))
    with replacing(folder / DISCRIMINATORS) as temporary:
        save_file(tensors, temporary, metadata={_CONFIG_KEY: settings})


def load_discriminators(folder: Path) -> Discriminators | None:
    """Reads the discriminators beside a codec, ours or those that `conversion` kept; `None` where there are none."""
    path = folder / DISCRIMINATORS
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, Any] = file.metadata() or {}
    if _CONFIG_KEY not in metadata:
        return load_original_discriminators(path)
    discriminators = Discriminators(DiscriminatorConfig(**json.loads(metadata[_CONFIG_KEY])))
    discriminators.load_state_dict(load_file(path))
    return discriminators
