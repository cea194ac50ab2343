"""What the weight files of a model say about themselves, read from their headers alone."""

import collections
import dataclasses
import json
import os
from pathlib import Path

from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """Facts about stored weights.

    Args:
        dtype: That of the most numbers, under torch's name.
        keys: Names of the tensors.
    """

    dtype: str
    keys: frozenset[str]


def read_stored_weights(name: str | os.PathLike[str], revision: str = "main") -> StoredWeights:
    """Reads the headers of a folder's or a Hub repository's safetensors files.

    Raises:
        OSError: If there are none.
    """
    sizes: collections.Counter[str] = collections.Counter()
    keys: set[str] = set()
    for path in _find_weight_files(os.fspath(name), revision):
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_slice(key)
                num_elements = 1
                for size in tensor.get_shape():
                    num_elements *= size
                sizes[tensor.get_dtype()] += num_elements
                keys.add(key)
    dtype = sizes.most_common(1)[0][0] if sizes else "none"
    return StoredWeights(_DTYPE_NAMES.get(dtype, dtype), frozenset(keys))


def _find_weight_files(name: str, revision: str) -> list[Path]:
    def find(file_name: str) -> Path:
        return Path(str(cached_file(name, file_name, revision=revision)))

    try:
        return [find(SAFE_WEIGHTS_NAME)]
    except OSError as error:
        try:
            index = find(SAFE_WEIGHTS_INDEX_NAME)
        except OSError:
            raise error from None
    shards = json.loads(index.read_bytes())["weight_map"].values()
    return [find(shard) for shard in sorted(set(shards))]
