# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""What the files of every family's folder have in common: settings, code, fingerprint, modes."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


__all__ = ["check_same_codec", "copy_code_files", "digest_of", "give_usual_modes", "stored_form"]
