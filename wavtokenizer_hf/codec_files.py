# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""What the files of every family have in common: settings, code, fingerprint, modes, order of codes."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.dynamic_module_utils import get_relative_imports


def stored_form(values: dict[str, Any], own_fields: dict[str, Any]) -> dict[str, Any]:
    """What goes into a JSON file: without our own fields at their defaults, and with plain strings in `auto_map`.

    For a class whose name contains "Tokenizer", transformers writes `[name, None]` into `auto_map`, which none of its
    Auto classes can read back.
    """
    stored = {key: value for key, value in values.items() if key not in own_fields or value != own_fields[key]}
    if stored.get("auto_map"):
        stored["auto_map"] = {
            key: value[0] if isinstance(value, (list, tuple)) else value for key, value in stored["auto_map"].items()
        }
    return stored


def copy_code_files(directory: str | os.PathLike, auto_map: Mapping[str, Any] | None) -> None:
    """Puts the flat files that an `auto_map` names, and all that they import, into the folder that has it.

    Args:
        directory: Made if it does not exist.
        auto_map: As in `config.json`; of `None` there are none.
    """
    directory, here = Path(directory), Path(__file__).parent
    waiting = [str(name).rpartition("--")[2].partition(".")[0] for name in (auto_map or {}).values()]
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        source, destination = here / f"{name}.py", directory / f"{name}.py"
        if name in done or not source.exists():
            continue
        done.add(name)
        waiting += get_relative_imports(source)
        directory.mkdir(parents=True, exist_ok=True)
        # transformers' cache of a folder's code holds what was loaded of it.
        if not (destination.exists() and destination.samefile(source)):
            shutil.copyfile(source, destination)


def check_same_codec(feature_extractor: Any, config: Any) -> None:
    """Refuses a feature extractor that makes other inputs than a model takes.

    Raises:
        ValueError: If their rates or hop lengths differ.
    """
    for name in ("sampling_rate", "hop_length"):
        ours, models = getattr(feature_extractor, name), getattr(config, name)
        if ours != models:
            raise ValueError(
                f"The feature extractor has {name} = {ours}, and the model {models}: its codes would mean nothing. "
                "Take those that belong to one codec; preprocessor_config.json and config.json say what they are."
            )


def give_usual_modes(directory: str | os.PathLike) -> None:
    """Gives the weights in a folder the modes of its config.json, which are as the user's umask says.

    The library that writes weights lets nobody else read them.
    """
    config = Path(directory, "config.json")
    for path in config.parent.glob("*.safetensors") if config.exists() else ():
        path.chmod(config.stat().st_mode & 0o777)


def digest_of(settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over settings and weights by their names, 64 hexadecimal digits, in whatever order they come.

    Raises:
        ValueError: If a tensor is not in memory (meta or offloaded).
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            raise ValueError(
                f"A fingerprint needs every encoder weight in memory, and {name} is on the meta device (offloaded to "
                "disk, or never loaded). Load the encoder without offloading."
            )
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flatten_codes(audio_codes: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """Codes (Q, L) as one sequence (L * Q,), frame by frame; each codebook's are numbered behind those before it."""
    return (audio_codes + _offsets(codebook_sizes)).T.reshape(-1)


def unflatten_codes(numbers: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """The codes (Q, L) of what `flatten_codes` made.

    Raises:
        ValueError: If it ends within a frame, or a number is of another codebook than the one whose turn it is.
    """
    if len(numbers) % len(codebook_sizes):
        raise ValueError(f"{len(numbers)} codes are not frames of {len(codebook_sizes)} each")
    audio_codes = numbers.reshape(-1, len(codebook_sizes)).T - _offsets(codebook_sizes)
    wrong = (audio_codes < 0) | (audio_codes >= np.asarray(codebook_sizes)[:, None])
    if wrong.any():
        frame, place = np.argwhere(wrong.T)[0]
        number = numbers[frame * len(codebook_sizes) + place]
        raise ValueError(f"frame {frame}: {number} is no code of codebook {place}, whose turn it is")
    return audio_codes


def _offsets(codebook_sizes: Sequence[int]) -> np.ndarray[Any, Any]:
    """(Q, 1), the number of each codebook's first entry."""
    return np.cumsum((0, *codebook_sizes[:-1]))[:, None]


__all__ = [
    "check_same_codec",
    "copy_code_files",
    "digest_of",
    "flatten_codes",
    "give_usual_modes",
    "stored_form",
    "unflatten_codes",
]
