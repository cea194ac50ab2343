"""Under which conditions figures were measured."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerPreTrainedModel

# Those on which a figure may depend.
PACKAGES = ("wavtokenizer-hf", "torch", "torchaudio", "transformers", "numpy", "scipy", "pesq", "pystoi", "pyworld")


def describe_model(model: WavTokenizerPreTrainedModel, name: str, fingerprint: str | None) -> dict[str, Any]:
    """A codec, as results name it.

    Args:
        fingerprint: Of the checkpoint; `None` if unknown.
    """
    config = model.config
    return {
        "name": name,
        "fingerprint": fingerprint,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "sampling_rate_hz": config.sampling_rate,
        "hop_length": config.hop_length,
        "codebook_size": config.codebook_size,
        "codes_per_second": config.frame_rate,
        "bitrate_kbps": config.bitrate_kbps,
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine and the packages."""
    is_cuda = device.type == "cuda"
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
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
