"""The types of numbers that a device may compute in."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Precision:
    """A model's dtype, and whether a GPU may round what it multiplies in float32 to TF32, 11 significant bits."""

    dtype: torch.dtype = torch.float32
    tf32: bool = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Sets torch's switches, of which that for convolutions is on unless told, and sets them back."""
        backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        before = [backend.allow_tf32 for backend in backends]
        for backend in backends:
            backend.allow_tf32 = self.tf32
        try:
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.allow_tf32 = value


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether the device has instructions for products in bfloat16.

    torch computes them one number at a time on a processor that has none, which takes hundreds of times as long as in
    float32 and says nothing about the codec.
    """
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


PRECISIONS = {
    "float32": Precision(),
    "TF32": Precision(tf32=True),
    "bfloat16": Precision(torch.bfloat16),
}
