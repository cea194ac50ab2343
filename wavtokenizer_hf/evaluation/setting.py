"""Under which conditions figures were measured."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from wavtokenizer_hf.codecs.codec import Codec

# Those on which a figure may depend.
_PACKAGES = ("wavtokenizer-hf", "torch", "torchaudio", "transformers", "numpy", "scipy", "pesq", "pystoi", "pyworld")


def describe_model(codec: Codec) -> dict[str, Any]:
    """A codec, as results name it; a rate is `None` where it depends on the recording."""
    return {
        **codec.spec.facts(),
        "num_parameters": sum(parameter.numel() for parameter in codec.model.parameters()),
        "dtype": str(codec.model.dtype).removeprefix("torch."),
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine and the packages."""
    is_cuda = device.type == "cuda"
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else str(device),
        "num_threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }
