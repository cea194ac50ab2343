"""Checkpoints of SimVQ (arXiv 2411.02038): codecs of WavTokenizer's geometry with another quantizer.

SimVQ's codebook is a table that never changes, times one linear map that is learned; folded, it is a plain codebook
with the same codes. A file holds what training left last and, of all that is learned, the moving averages that SimVQ
itself evaluates. The norms of its backbone are plain layer norms, which adaptive ones with one row are, too. Whether
its encoder is causal, no tensor shows.

Source: SimVQ's `taming/models/vq_audio.py` and `configs/libritts_24khz.yaml`.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import replace

import torch

from wavtokenizer_hf.conversion.architecture import read_yaml, yaml_setting
from wavtokenizer_hf.conversion.errors import ConversionError, UsageError, listed
from wavtokenizer_hf.conversion.key_map import SIMVQ, WAVTOKENIZER, Layout, to_ours
from wavtokenizer_hf.conversion.lightning import OriginalCheckpoint, TensorRecord

_QUANTIZER = ("quantize.embedding.weight", "quantize.embedding_proj.weight", "quantize.embedding_proj.bias")
_MADE = ("quantize.inited", "quantize.cluster_size", "quantize.embed", "quantize.embed_avg")
_AVERAGES = "model_ema."
_ROWS_AT_ONCE = 4096


class SimVQCheckpoint:
    """An open checkpoint of SimVQ, as the table `SIMVQ` of `key_map.py` takes it.

    Tensors have the values of their moving averages, where the file has such. Norms have one row, (1, D). In place of
    the quantizer's tensors stand those of a codebook: `quantize.embed`, the folded entries, and `quantize.embed_avg`
    and `quantize.cluster_size`, which say that each was chosen once, because how often is not known.

    Args:
        file: The open file.

    Raises:
        ConversionError: If a part of the quantizer or a moving average is missing, or the quantizer's shapes do not
            fit together.
    """

    def __init__(self, file: OriginalCheckpoint):
        self._file = file
        self._found = set(file.names)
        self._entries: torch.Tensor | None = None
        own = [name for name in file.names if name not in _QUANTIZER]
        self.names: list[object] = [*own, *_MADE]
        self.has_averages = any(isinstance(name, str) and name.startswith(_AVERAGES) for name in own)
        missing = [name for name in _QUANTIZER if name not in self._found]
        if self.has_averages:
            kept = [name for name in own if isinstance(name, str) and to_ours(name, SIMVQ)]
            averages = (_average_of(name) for name in (*kept, *_QUANTIZER[1:]))
            missing += [name for name in averages if name not in self._found]
        if missing:
            raise ConversionError(f"missing keys: {listed(missing)}")
        shapes = [self._source(name).shape for name in _QUANTIZER]
        width = shapes[0][-1:]
        if len(shapes[0]) != 2 or shapes[1:] != [width * 2, width]:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in zip(_QUANTIZER, shapes, strict=True))
            raise ConversionError(f"{found} make no codebook; expected shapes [K, D], [D, D] and [D]")

    @property
    def hyper_parameters(self) -> Mapping[object, object]:
        return self._file.hyper_parameters

    def record(self, name: str) -> TensorRecord:
        """dtype and shape of what `read` gives.

        Raises:
            ConversionError: If it cannot be read as a tensor.
        """
        if name in _MADE:
            records = [self._source(part) for part in _QUANTIZER]
            table, dtype = records[0], functools.reduce(torch.promote_types, (each.dtype for each in records))
            shape = {_MADE[0]: (1,), _MADE[1]: table.shape[:1]}.get(name, table.shape)
            return replace(table, storage=replace(table.storage, dtype=dtype), shape=shape)
        record = self._source(name)
        # An adaptive norm's key ends otherwise than its name here.
        is_row = (ours := to_ours(name, SIMVQ)) is not None and ours.endswith((".scale.weight", ".shift.weight"))
        return replace(record, shape=(1, *record.shape), strides=(1, *record.strides)) if is_row else record

    def read(self, name: str) -> torch.Tensor:
        """One tensor's values, contiguous.

        Raises:
            ConversionError: If it cannot be read, or its bytes do not have the checksum that the file records.
        """
        record = self.record(name)
        if name in _MADE[:2]:
            return torch.ones(record.shape, dtype=record.dtype)
        if name in _MADE[2:]:
            self._entries = self._folded(record.dtype) if self._entries is None else self._entries
            return self._entries
        return self._file.read(self._source_name(name)).reshape(record.shape)

    def _folded(self, dtype: torch.dtype) -> torch.Tensor:
        """The entries (K, D): rows of the table times the linear map, in float64, rounded once."""
        entries, weight, bias = (self._file.read(self._source_name(name)) for name in _QUANTIZER)
        entries, weight, bias = entries.to(dtype), weight.double(), bias.double()
        for rows in entries.split(_ROWS_AT_ONCE):  # in place: the largest table alone is half a gigabyte
            rows.copy_(torch.addmm(bias, rows.double(), weight.T))
        return entries

    def _source(self, name: str) -> TensorRecord:
        return self._file.record(self._source_name(name))

    def _source_name(self, name: str) -> str:
        average = _average_of(name)
        return average if average in self._found else name


def _average_of(name: str) -> str:
    return _AVERAGES + name.replace(".", "")


Checkpoint = OriginalCheckpoint | SimVQCheckpoint


def recognise(file: OriginalCheckpoint) -> tuple[Layout, Checkpoint]:
    """Which original an open file is of, told by its keys, and the file as it is to be read."""
    if any(name in _QUANTIZER for name in file.names):
        return SIMVQ, SimVQCheckpoint(file)
    return WAVTOKENIZER, file


def causality(
    layout: Layout, is_causal: bool | None = None, yaml: str | os.PathLike[str] | None = None
) -> tuple[bool, str | None]:
    """Whether a checkpoint's encoder pads on the left only, and a remark where that was assumed.

    Args:
        layout: The checkpoint's.
        is_causal: What the caller says, if anything.
        yaml: The original's YAML file.

    Raises:
        UsageError: If the two contradict each other or the layout, or the file cannot be read.
        ConversionError: If the file is no YAML, or asks for a level of the input that a model here does not set.
    """
    if layout is not SIMVQ:
        if is_causal:
            raise UsageError("--causal is for checkpoints of SimVQ; the encoder of WavTokenizer's is never causal")
        return False, None
    content = read_yaml(yaml) if yaml is not None else None
    if yaml_setting(content, "audio_normalize"):
        raise ConversionError(
            f"{os.fspath(yaml or '')} has audio_normalize: true. Such a codec divides each clip by its level and "
            "multiplies by it after decoding, so that codes alone do not decode; only audio_normalize: false converts"
        )
    stated = yaml_setting(content, "ddconfig.causal")
    if stated is not None and is_causal is not None and stated is not is_causal:
        raise UsageError(
            f"{'--causal' if is_causal else '--no-causal'} contradicts {os.fspath(yaml or '')}, where ddconfig.causal "
            f"is {stated}; leave one of the two out"
        )
    known = is_causal if is_causal is not None else stated
    if known is None:
        return True, (
            "No tensor shows whether the encoder is causal. It was taken to be, as SimVQ published it; "
            "--yaml or --no-causal says otherwise."
        )
    return bool(known), None
