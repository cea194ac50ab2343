"""Writing safetensors one tensor at a time.

The library's own writer needs all tensors in memory at once; a conversion needs the largest.
"""

import json
import os
from collections.abc import Callable, Mapping

import torch

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    read: Callable[[str], torch.Tensor],
    on_written: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Writes a safetensors file.

    Args:
        path: A file that does not exist.
        tensors: dtype and shape by name.
        read: Gives the tensor of a name, contiguous, on the CPU; called once each, in the order of the file.
        on_written: Called after each tensor with its number of bytes.

    Source: The format as `safetensors` documents it: header length, JSON header, data without gaps.
    """
    # Wide types first, as the library does, so that every tensor is aligned to its element.
    names = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        dtype, shape = tensors[name]
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + num_bytes],
        }
        position += num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            tensor = read(name)
            if (tensor.dtype, tuple(tensor.shape)) != tensors[name]:
                raise ValueError(f"{name}: announced {tensors[name]}, got {tensor.dtype} {tuple(tensor.shape)}")
            on_written(file.write(tensor.reshape(-1).view(torch.uint8).numpy().data))
