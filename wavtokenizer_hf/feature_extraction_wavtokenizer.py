# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""Feature extractor of WavTokenizer: from recordings of any kind to 24 kHz mono batches."""

import math
import numbers
import os
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .audio_input import MAX_RATE, read_audio, read_blocks, warn_of_level
from .audio_preparation import as_float, as_mono
from .audio_preparation import resample as at_rate
from .codec_files import copy_code_files, stored_form

# In preprocessor_config.json, `peak_db` goes by the names that the transformers port has for it.
_IS_NORMALIZED, _NORMALIZED_PEAK = "normalize_audio", "target_peak_dB_FS"

_MAX_PEAK_DB = 200


class WavTokenizerFeatureExtractor(SequenceFeatureExtractor):
    """Turns recordings into the padded mono batches that WavTokenizer encodes.

    A clip is a path, a NumPy array, a torch tensor or a list of numbers; a batch is a list of clips or an array of
    shape (B, channels, N). One array is one clip: of shape (N,), or (channels, N). Channels are averaged, then the
    clip is brought to the codec's rate, as the original does. Integer arrays are scaled by their type's range to ±1; a
    list of numbers is taken as it is.

    Args:
        feature_size: Channels of the output; the codec is mono, so only 1 is valid.
        sampling_rate: The codec's rate in Hz.
        padding_value: Value of the samples after a clip's end.
        hop_length: Samples per code.
        peak_db: Peak to which each clip is scaled after resampling, in dB relative to full scale (for example -3.0);
            `None` leaves the level alone. Silence stays silence. The port's `normalize_audio` and `target_peak_dB_FS`
            are taken for it.

    Raises:
        ValueError: If `padding_side` is not `"right"`: padding on the left would shift the frames and change the
            codes.

    Source: `encoder/utils.py: convert_audio` of the original (mean over channels, then torchaudio's resampling).
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 24000,
        padding_value: float = 0.0,
        hop_length: int = 600,
        peak_db: float | None = None,
        **kwargs,
    ):
        if feature_size != 1:
            raise ValueError(f"WavTokenizer is a mono codec: `feature_size` must be 1, got {feature_size}.")
        for name, value in (("hop_length", hop_length), ("sampling_rate", sampling_rate)):
            if not isinstance(value, (int, np.integer)) or not 1 <= value <= MAX_RATE:
                raise ValueError(f"`{name}` must be an integer from 1 to {MAX_RATE}, got {value!r}.")
        is_normalized, peak = kwargs.pop(_IS_NORMALIZED, False), kwargs.pop(_NORMALIZED_PEAK, -3.0)
        if peak_db is None and is_normalized:
            peak_db = peak
        if peak_db is not None and not (isinstance(peak_db, (int, float, np.number)) and abs(peak_db) <= _MAX_PEAK_DB):
            raise ValueError(
                f"`peak_db` must be a number from {-_MAX_PEAK_DB} to {_MAX_PEAK_DB} or None, got {peak_db!r}."
            )
        if not (isinstance(padding_value, (int, float, np.number)) and math.isfinite(padding_value)):
            raise ValueError(f"`padding_value` must be a finite number, got {padding_value!r}.")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length
        self.peak_db = peak_db
        self._refuse_left_padding()

    def __call__(
        self,
        audio: Any,
        padding: bool | str | PaddingStrategy | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | TensorType | None = None,
        sampling_rate: int | None = None,
        resample: bool = False,
        allow_incomplete: bool = False,
    ) -> BatchFeature:
        """Prepares one clip or a batch of clips.

        Args:
            audio: A clip, or a batch of clips; see the class.
            padding: `None`, `True` or `"longest"` pad a batch to its longest clip; `"max_length"` pads to
                `max_length`; `False` or `"do_not_pad"` pads nothing, which gives lists where the clips differ in
                length.
            truncation: Whether to cut clips to `max_length`.
            max_length: Samples at the codec's rate.
            return_tensors: `"pt"` for torch tensors, `"np"` or `None` for NumPy arrays.
            sampling_rate: Rate of the given arrays in Hz; `None` takes them to be at the codec's rate. A path brings
                its own rate.
            resample: Whether to resample clips of another rate; without it they are an error.
            allow_incomplete: Whether to take what there is of a file that breaks off or lacks something, with a
                warning; without it, it is an error.

        Returns:
            `input_values`, float32 (B, 1, T), and `padding_mask`, int32 (B, T), 1 where a sample belongs to the clip.

        Raises:
            ValueError: For an empty clip, NaN or infinity, a wrong shape or type, or a rate that differs while
                `resample` is off. The message names the clip's index in the batch.
            ImportError: If resampling is asked for and torchaudio does not load.
        """
        self._refuse_left_padding()
        strategy = self._padding_strategy(padding)
        needs_max_length = truncation or strategy == PaddingStrategy.MAX_LENGTH
        if needs_max_length and (max_length is None or max_length < 1):
            raise ValueError(
                f"`truncation` and `padding='max_length'` need `max_length`, a number of samples of 1 or more, got "
                f"{max_length}."
            )
        clips = [
            self._prepare(clip, index, sampling_rate, resample, allow_incomplete)
            for index, clip in enumerate(self._as_batch(audio))
        ]
        if truncation:
            clips = [clip[:max_length] for clip in clips]
        lengths = [clip.shape[0] for clip in clips]
        target = max(lengths)
        if strategy == PaddingStrategy.MAX_LENGTH:
            if target > max_length:
                raise ValueError(
                    f"Clip {lengths.index(target)} has {target} samples at {self.sampling_rate} Hz, more than "
                    f"`max_length` = {max_length}. Pass `truncation=True` to cut it."
                )
            target = max_length
        if strategy == PaddingStrategy.DO_NOT_PAD and min(lengths) != target:
            if return_tensors is not None:
                raise ValueError(
                    f"Clips of different lengths ({min(lengths)} to {target} samples) make no tensor without padding. "
                    "Leave `padding` at its default, or `return_tensors` at None."
                )
            return BatchFeature(
                {
                    "input_values": [clip[None] for clip in clips],
                    "padding_mask": [np.ones(length, dtype=np.int32) for length in lengths],
                }
            )
        input_values = np.full((len(clips), 1, target), self.padding_value, dtype=np.float32)
        padding_mask = np.zeros((len(clips), target), dtype=np.int32)
        for row, clip in enumerate(clips):
            input_values[row, 0, : clip.shape[0]] = clip
            padding_mask[row, : clip.shape[0]] = 1
        return BatchFeature({"input_values": input_values, "padding_mask": padding_mask}, tensor_type=return_tensors)

    def get_num_audio_codes(self, num_samples: int) -> int:
        """Number of codes of a clip of `num_samples` samples at the codec's rate: ceil(num_samples / hop_length)."""
        if num_samples < 0:
            raise ValueError(f"`num_samples` must be 0 or more, got {num_samples}.")
        return -(-num_samples // self.hop_length)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, in the form that the port reads and writes; see `stored_form`."""
        values = super().to_dict()
        peak_db = values.pop("peak_db", None)
        if peak_db is not None:
            values |= {_IS_NORMALIZED: True, _NORMALIZED_PEAK: peak_db}
        return stored_form(values, {})

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers; a feature extractor that names its code in `auto_map` takes the files along."""
        copy_code_files(save_directory, getattr(self, "auto_map", None))
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _refuse_left_padding(self) -> None:
        if self.padding_side != "right":
            raise ValueError(
                f"WavTokenizer pads on the right only, got padding_side={self.padding_side!r}: padding on the left "
                "would shift the frames and change the codes."
            )

    @staticmethod
    def _padding_strategy(padding: bool | str | PaddingStrategy | None) -> PaddingStrategy:
        if padding is None or padding is True:
            return PaddingStrategy.LONGEST
        if padding is False:
            return PaddingStrategy.DO_NOT_PAD
        return PaddingStrategy(padding)

    @staticmethod
    def _as_batch(audio: Any) -> list:
        """Splits the argument into clips."""
        if isinstance(audio, (str, os.PathLike)):
            return [audio]
        if isinstance(audio, (np.ndarray, torch.Tensor)):
            batch = list(audio) if audio.ndim == 3 else [audio]
        elif isinstance(audio, (list, tuple)):
            batch = [audio] if audio and all(isinstance(item, numbers.Real) for item in audio) else list(audio)
        else:
            raise ValueError(
                "Expected a path, a NumPy array, a torch tensor, a list of numbers, or a list of these, got "
                f"{type(audio).__name__}."
            )
        if not batch:
            raise ValueError("Expected at least one clip, got an empty batch.")
        return batch

    def _prepare(
        self, clip: Any, index: int, sampling_rate: int | None, resample: bool, allow_incomplete: bool
    ) -> np.ndarray:
        """Brings one clip to the codec's rate, mono, float32, (N,)."""
        if isinstance(clip, (str, os.PathLike)):
            samples, sampling_rate = read_audio(clip, allow_incomplete=allow_incomplete)
        else:
            samples = as_float(clip, f"Clip {index}")
            warn_of_level(f"Clip {index}", float(np.abs(samples).max(initial=0.0)))
        if sampling_rate is None:
            sampling_rate = self.sampling_rate
        samples = as_mono(samples, f"Clip {index}")
        if sampling_rate != self.sampling_rate:
            if not resample:
                raise ValueError(
                    f"Clip {index} is at {sampling_rate} Hz and the codec works at {self.sampling_rate} Hz. Pass "
                    "`resample=True` to have it resampled."
                )
            samples = at_rate(samples, sampling_rate, self.sampling_rate)
        if self.peak_db is not None:
            peak = np.abs(samples).max()
            samples = samples * np.float32(10 ** (self.peak_db / 20) / peak) if peak > 0 else samples
        return samples


__all__ = ["WavTokenizerFeatureExtractor", "read_audio", "read_blocks"]
