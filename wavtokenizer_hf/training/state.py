"""Reading what `Accelerator.save_state` wrote, without running anything that lies in it.

accelerate reads the states of registered objects with an unrestricted unpickler, and passes over random states that it
cannot read. Here every file is read as data, compared with what it is to replace, and refused where it does not fit.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import load
from safetensors import SafetensorError
from safetensors.torch import load_file

_RANDOM_STATES = "random_state", "numpy_random_seed", "torch_manual_seed"


def load_training_state(
    folder: Path, accelerator: Accelerator, modules: Sequence[Any], optimizers: Sequence[Any], others: Sequence[Any]
) -> None:
    """Puts the state of a run back. Random states are those of this process.

    Args:
        folder: What `Accelerator.save_state` wrote.
        modules: Prepared modules, in the order in which they were prepared.
        optimizers: Theirs.
        others: What was registered for checkpoints, in that order.

    Raises:
        FileNotFoundError: If something is missing.
        ValueError: If a file holds anything but the state of such a run, with the file's name.
    """
    for index, module in enumerate(modules):
        path = folder / f"model{_number(index)}.safetensors"
        try:
            found = load_file(_existing(path))
        except SafetensorError as error:
            raise ValueError(_refusal(path, f"it is no safetensors file ({error})")) from None
        _check(path, found, module.state_dict())
        module.load_state_dict(found)
    for index, optimizer in enumerate(optimizers):
        path = folder / f"optimizer{_number(index)}.bin"
        found = _read(path)
        _check_optimizer(path, found, optimizer)
        optimizer.load_state_dict(found)
    if accelerator.scaler is not None:
        _restore(folder / "scaler.pt", accelerator.scaler)
    for index, registered in enumerate(others):
        _restore(folder / f"custom_checkpoint_{index}.pkl", registered)
    path = folder / f"random_states_{accelerator.process_index}.pkl"
    states = _read(path)
    try:
        python, numpy, cpu = (states[name] for name in _RANDOM_STATES)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, AttributeError) as error:
        raise ValueError(_refusal(path, f"it holds no random states ({_first_line(error)})")) from None


def is_finite(module: torch.nn.Module) -> bool:
    """Whether all weights and buffers are finite; one wait for the device."""
    tensors = [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _number(index: int) -> str:
    return f"_{index}" if index else ""


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; go on from another checkpoint, or start anew")
    return path


def _read(path: Path) -> Any:
    try:
        return load(_existing(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever damaged bytes make an unpickler raise
        raise ValueError(_refusal(path, f"it does not hold plain data ({_first_line(error)})")) from None


def _restore(path: Path, registered: Any) -> None:
    """Of an object that says itself what fits, or whose state now has the form of the one to be read."""
    found = _read(path)
    if not hasattr(registered, "check_state_dict"):
        _check(path, found, registered.state_dict())
    else:
        try:
            registered.check_state_dict(found)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(_refusal(path, str(error))) from None
    registered.load_state_dict(found)


def _check_optimizer(path: Path, found: Any, optimizer: Any) -> None:
    """The groups are those of the run, and what is kept of a parameter has its shape."""
    expected = optimizer.state_dict()
    if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
        raise ValueError(_refusal(path, "it holds no optimizer"))
    _check(path, found.get("param_groups"), expected["param_groups"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in found["param_groups"] for number in group["params"]]
    if numbers != list(range(len(parameters))) or not set(found["state"]) <= set(numbers):
        raise ValueError(_refusal(path, "it holds other parameters"))
    for number, kept in found["state"].items():
        shape = parameters[number].shape
        wanted = {"step": torch.zeros(()), "exp_avg": torch.zeros(shape), "exp_avg_sq": torch.zeros(shape)}
        _check(path, kept, wanted, f"parameter {number}")


def _check(path: Path, found: Any, expected: Any, where: str = "the state") -> None:
    """Refuses what is not of the expected form: the same keys, lengths, kinds and shapes, and finite tensors."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or found.keys() != expected.keys():
            keys = sorted(map(str, found.keys() ^ expected.keys())) if isinstance(found, Mapping) else []
            raise ValueError(_refusal(path, f"{where} has other entries{f', such as {keys[0]}' if keys else ''}"))
        for key, value in expected.items():
            _check(path, found[key], value, f"{where}: {key}")
    elif isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            raise ValueError(_refusal(path, f"{where} is no list of {len(expected)}"))
        for index, value in enumerate(expected):
            _check(path, found[index], value, f"{where}: {index}")
    elif isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(_refusal(path, f"{where}: expected a tensor {tuple(expected.shape)}, got {shape}"))
        if found.is_floating_point() != expected.is_floating_point() or not found.isfinite().all():
            raise ValueError(_refusal(path, f"{where}: the tensor is of another type, or not finite"))
    elif isinstance(expected, (bool, int, float)):
        if not isinstance(found, (bool, int, float)):
            raise ValueError(_refusal(path, f"{where}: expected a number, got {type(found).__name__}"))
    elif type(found) is not type(expected):
        raise ValueError(_refusal(path, f"{where}: expected {type(expected).__name__}, got {type(found).__name__}"))


def _refusal(path: Path, why: str) -> str:
    return f"{path} is not the state of this run: {why}. Go on from another checkpoint, or start anew."


def _first_line(error: Exception) -> str:
    """Of a message that may go on with advice to trust the file."""
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__
