"""Encoding of recordings of any length in bounded memory."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from wavtokenizer_hf.audio_input import Recording, open_audio, warn_of_level
from wavtokenizer_hf.audio_preparation import as_float, prepare_blocks
from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.codecs.registry import codec_of


class LongCodes(NamedTuple):
    """The codes of a recording, int64 (1, Q, L) on the CPU, and its length in samples at the codec's rate.

    Indexed as a tensor of three axes, it is the codes: `encoded[0, 0]` are those of the first codebook.
    """

    audio_codes: torch.Tensor
    num_samples: int

    def __getitem__(self, index: Any) -> Any:
        return self.audio_codes[index] if isinstance(index, tuple) else tuple.__getitem__(self, index)


def encode_long(
    model: Any,
    source: str | os.PathLike | Recording | Iterable[Any],
    sampling_rate: int | None = None,
    block_s: float = 10.0,
    progress: bool = True,
    *,
    allow_incomplete: bool = False,
) -> LongCodes:
    """Encodes a recording of any length to the codes that it would get in one piece.

    It is read, downmixed, resampled and encoded a block at a time: memory does not grow with the length, but for the
    codes themselves.

    Args:
        model: Of any family, in eval mode, with an encoder; or a `Codec`.
        source: A sound file, by its path or as a `Recording` that is open; or an iterable of blocks, arrays or tensors
            (num_samples,) or (channels, num_samples) of any lengths, integers scaled by their type's range.
        sampling_rate: Of an iterable's blocks, in Hz; `None` means the codec's. A file brings its own.
        block_s: Seconds that are read from a file and encoded at once.
        progress: Whether to show a progress bar.
        allow_incomplete: Take what there is of a file that breaks off or lacks something, with a warning.

    Returns:
        Codes, int64 (1, Q, L) on the CPU, and the number of samples at the codec's rate.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not readable audio, or if there are no samples, NaN or infinity.
        ImportError: If a package that reading or resampling needs does not load.

    Example:

    ```python
    >>> audio_codes, num_samples = encode_long(model, "audiobook.flac")
    ```
    """
    total_s, name = None, "The recording"
    codec = codec_of(model)
    target_rate = codec.spec.sampling_rate
    stream = codec.stream_encoder()
    codes, num_samples = [], 0
    with contextlib.ExitStack() as stack:
        blocks: Iterable[Any]
        if isinstance(source, (str, os.PathLike)):
            source = stack.enter_context(open_audio(source, allow_incomplete=allow_incomplete))
        if isinstance(source, Recording):
            recording = source
            sampling_rate, name = recording.sampling_rate, recording.name
            if not codec.prepares_blocks:
                return _encode_whole(codec, recording)
            total_s = recording.duration_s if progress else None
            blocks = recording.blocks(max(1, round(block_s * sampling_rate)))
        else:
            blocks = _heard(source, name)
        bar = stack.enter_context(
            tqdm(total=total_s, unit="s", desc="Encoding", disable=not progress, unit_scale=True)
        )
        for samples in prepare_blocks(blocks, sampling_rate or target_rate, target_rate, name):
            codes.append(stream.push(torch.from_numpy(samples)[None, None].to(codec.device)).cpu())
            num_samples += len(samples)
            seconds = len(samples) / target_rate
            bar.update(seconds if total_s is None else min(seconds, total_s - bar.n))  # sums of floats overshoot
    codes.append(stream.flush().cpu())
    if not num_samples:
        raise ValueError(f"{name} holds no samples; a recording needs at least one.")
    return LongCodes(torch.cat(codes, dim=-1), num_samples)


def _encode_whole(codec: Codec, recording: Recording) -> LongCodes:
    """Of a recording whose level has to be known before its first sample."""
    clip = codec.feature_extractor(
        recording.read(), sampling_rate=recording.sampling_rate, resample=True, return_tensors="pt"
    )["input_values"]
    with torch.inference_mode():
        codes = codec.encode(clip.to(codec.device))
    return LongCodes(codes.of_clip(0)[None].cpu(), clip.shape[-1])


def _heard(blocks: Iterable[Any], name: str) -> Iterator[np.ndarray]:
    """Blocks as floats, with one warning if they are far above full scale."""
    is_told = False
    for number, block in enumerate(blocks):
        samples = as_float(block, f"{name}, block {number}")
        if not is_told and np.abs(samples).max(initial=0.0) > 1:
            is_told = warn_of_level(name, float(np.abs(samples).max()))
        yield samples
