"""Token files as plain NumPy arrays."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.corpus.token_ids import Documents


def write_npy(tokens: Path, ends: Path, documents: Iterable[Documents], greatest_id: int, num_tokens: int) -> np.dtype:
    """Writes `PREFIX.npy`, all token ids, and `PREFIX.ends.npy`, int64, where each document ends among them.

    Both can be opened with `numpy.load(path, mmap_mode="r")`.

    Returns:
        The type of a token id.
    """
    dtype = np.dtype(np.uint16 if greatest_id < 1 << 16 else np.uint32)
    lengths = [np.zeros(0, np.int64)]
    with replacing(ends) as unfinished_ends, replacing(tokens) as unfinished:
        with open(unfinished, "wb") as file:
            header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (num_tokens,)}
            np.lib.format.write_array_header_1_0(file, header)
            for some in documents:
                file.write(some.token_ids.astype(dtype.newbyteorder("<")).tobytes())
                lengths.append(some.lengths)
        with open(unfinished_ends, "wb") as file:
            np.save(file, np.cumsum(np.concatenate(lengths)))
    return dtype
