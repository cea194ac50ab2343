# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""From the samples of a recording to those that a codec takes: floats, one channel, the codec's rate."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from .audio_input import MAX_CHANNELS, MIN_RATE, check_rate, import_for

_LITTLE = 1 << 20

# torchaudio tabulates a filter of about this many taps per pair of rates; coprime rates would need gigabytes.
_MAX_RESAMPLING_TAPS = 50_000_000

# torchaudio's defaults: zero crossings of the windowed sinc on either side, and its cutoff as a part of Nyquist's.
_FILTER_ZERO_CROSSINGS, _FILTER_ROLLOFF = 6, 0.99


def as_float(clip: Any, name: str) -> np.ndarray:
    """An array, a tensor or a list of numbers as float32; integer arrays by their type's range, lists as they are.

    Raises:
        ValueError: For anything else; the message begins with `name`.
    """
    if isinstance(clip, torch.Tensor):
        clip = clip.detach().cpu()
        array = (clip.float() if clip.is_floating_point() else clip).numpy()
    elif isinstance(clip, np.ndarray):
        array = clip
    elif isinstance(clip, (list, tuple)):
        try:
            array = np.asarray(clip, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected a list of numbers, got {str(clip)[:80]}.") from error
    else:
        raise ValueError(
            f"{name}: expected a path, a NumPy array, a torch tensor or a list of numbers, got {type(clip).__name__}."
        )
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        half_range = 2.0 ** (info.bits - 1)
        offset = half_range if array.dtype.kind == "u" else 0.0
        return ((array.astype(np.float64) - offset) / half_range).astype(np.float32)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: expected real numbers, got an array of {array.dtype}.")
    return array.astype(np.float32, copy=False)


def as_mono(samples: np.ndarray, name: str) -> np.ndarray:
    """Averages the channels of (N,) or (channels, N).

    Raises:
        ValueError: For another shape, no samples, NaN or infinity; the message begins with `name`.
    """
    if samples.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape (num_samples,) or (channels, num_samples), got {samples.shape}.")
    if samples.size == 0:
        raise ValueError(f"{name} is empty (shape {samples.shape}); a clip needs at least one sample.")
    if samples.ndim == 2:
        if samples.shape[0] > MAX_CHANNELS:  # the axes are swapped
            raise ValueError(
                f"{name} has shape {samples.shape}, read as (channels, num_samples): {samples.shape[0]} channels. "
                "Pass its transpose if the first axis is time, or a list of clips if it is a batch."
            )
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused below
            samples = samples.mean(axis=0, dtype=np.float32)
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples)))
        raise ValueError(f"{name} holds NaN or infinity, first at sample {first}; repair or drop the clip.")
    return samples


def resample(samples: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Resamples (N,) to (ceil(N * target_rate / sampling_rate),) with torchaudio's default windowed sinc."""
    # Nobody hears rates below `MIN_RATE`: they are mistakes, and harmless where little becomes of them.
    becomes_little = len(samples) * target_rate <= _LITTLE * sampling_rate
    sampling_rate = check_rate(sampling_rate, "The clip", least=1 if becomes_little else MIN_RATE)
    divisor = math.gcd(sampling_rate, target_rate)
    if (sampling_rate // divisor) * (target_rate // divisor) > _MAX_RESAMPLING_TAPS:
        raise ValueError(
            f"Resampling from {sampling_rate} to {target_rate} Hz needs a filter of gigabytes, because the rates have "
            "no large common divisor. Bring the clip to a common rate (such as 44100 or 48000 Hz) with another tool "
            "first."
        )
    functional = import_for("resampling", "torchaudio.functional")
    resampled = functional.resample(torch.from_numpy(np.ascontiguousarray(samples)), sampling_rate, target_rate)
    return resampled.numpy()


def prepare(samples: Any, sampling_rate: int, target_rate: int, name: str = "The recording") -> np.ndarray:
    """A whole recording as `prepare_blocks` gives it in blocks, float32 (N',).

    Raises:
        ValueError: As there.
    """
    mono = as_mono(as_float(samples, name), name)
    return mono if sampling_rate == target_rate else resample(mono, sampling_rate, target_rate)


def prepare_blocks(
    blocks: Iterable[Any], sampling_rate: int, target_rate: int, name: str = "The recording"
) -> Iterator[np.ndarray]:
    """What the feature extractor makes of a recording that comes in blocks: mono, at the codec's rate.

    Args:
        blocks: Arrays or tensors (N,) or (channels, N) of any lengths; integers are scaled by their type's range.
        sampling_rate: Of the blocks, in Hz.
        target_rate: In Hz.
        name: What errors call the recording.

    Returns:
        Blocks, float32 (N',).

    Raises:
        ValueError: For a wrong shape or type, NaN or infinity; the message has the number of the block.
    """
    numbered = ((f"{name}, block {number}", block) for number, block in enumerate(blocks))
    arrays = ((place, as_float(block, place)) for place, block in numbered)
    mono = (as_mono(array, place) for place, array in arrays if array.size)
    return resample_blocks(mono, sampling_rate, target_rate)


def resample_blocks(blocks: Iterable[np.ndarray], sampling_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Resamples a signal that comes in blocks to what resampling it whole would give, in the memory of a few blocks.

    The filter repeats after `sampling_rate / gcd` samples, so a block that begins at a multiple of them, with as many
    samples on either side as the filter reaches, gives the same samples as the whole signal.

    Args:
        blocks: Float32 (N,) each, of any lengths.
        sampling_rate: Of the blocks, in Hz.
        target_rate: In Hz.

    Returns:
        Blocks, float32 (N',); none where there are no samples.

    Raises:
        ValueError: If the rates have no useful common divisor.
    """
    if sampling_rate == target_rate:
        yield from blocks
        return
    divisor = math.gcd(int(sampling_rate), target_rate)
    period, target_period = int(sampling_rate) // divisor, target_rate // divisor
    reach = math.ceil(_FILTER_ZERO_CROSSINGS * period / (min(period, target_period) * _FILTER_ROLLOFF))
    context = period * (1 + -(-reach // period))
    held = np.zeros(0, dtype=np.float32)  # from a multiple of the period on
    done = 0  # periods at the start of `held` that were put out
    for block in blocks:
        held = np.concatenate([held, block])
        until = (len(held) - context) // period
        if until > done:
            resampled = resample(held[: until * period + context], sampling_rate, target_rate)
            yield resampled[done * target_period : until * target_period]
            dropped = max(0, until - context // period)
            held, done = held[dropped * period :], until - dropped
    if len(held) > done * period:
        yield resample(held, sampling_rate, target_rate)[done * target_period :]


__all__ = ["as_float", "as_mono", "prepare", "prepare_blocks", "resample", "resample_blocks"]
