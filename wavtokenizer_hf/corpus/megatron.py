"""Token files as Megatron-LM's indexed datasets have them.

`PREFIX.bin` holds the token ids and nothing else. `PREFIX.idx`, little-endian throughout, holds

| bytes | what |
|---|---|
| 9 | `MMIDIDX`, and two zeros |
| 8 | version 1 |
| 1 | type of a token id: 8 is uint16, 4 is int32 |
| 8 | number of sequences, S |
| 8 | number of entries of the last table, D + 1 for D documents |
| 4 S | tokens of each sequence, int32 |
| 8 S | where each sequence begins in `PREFIX.bin`, in bytes, int64 |
| 8 (D + 1) | sequences before each document, and all of them, int64 |

Here each document is one sequence.

Source: `megatron/core/datasets/indexed_dataset.py` of Megatron-LM, the layout alone.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.corpus.token_ids import Documents

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_TYPE_CODES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
# From this vocabulary on, Megatron-LM itself turns to 32 bits.
_WIDE_FROM = 65500


def write_megatron(tokens: Path, index: Path, documents: Iterable[Documents], greatest_id: int) -> np.dtype:
    """Writes `PREFIX.bin` and `PREFIX.idx`, in memory that does not grow with the tokens.

    Returns:
        The type of a token id.
    """
    dtype = np.dtype(np.uint16 if greatest_id + 1 < _WIDE_FROM else np.int32)
    lengths = [np.zeros(0, np.int64)]
    with replacing(index) as unfinished_index, replacing(tokens) as unfinished:
        with open(unfinished, "wb") as file:
            for some in documents:
                file.write(some.token_ids.astype(dtype.newbyteorder("<")).tobytes())
                lengths.append(some.lengths)
        unfinished_index.write_bytes(_index(np.concatenate(lengths), dtype))
    return dtype


def _index(lengths: np.ndarray, dtype: np.dtype) -> bytes:
    num_sequences = len(lengths)
    pointers = (np.cumsum(lengths) - lengths) * dtype.itemsize
    header = struct.pack("<QBQQ", _VERSION, _TYPE_CODES[dtype], num_sequences, num_sequences + 1)
    tables = [lengths.astype("<i4"), pointers.astype("<i8"), np.arange(num_sequences + 1).astype("<i8")]
    return _MAGIC + header + b"".join(table.tobytes() for table in tables)
