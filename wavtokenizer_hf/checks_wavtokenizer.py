# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""What the models of `modeling_wavtokenizer` refuse, with what was expected, what came, and what to do.

Values are looked at where that costs no time: not while a compiler or an export traces, and samples on a CPU only.
"""

import math

import torch

from .arithmetic_wavtokenizer import can_look_at


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; the sum is both faster than looking at each and of the size of one."""
    return math.isfinite(tensor.sum(dtype=torch.float64))


def check_input_values(input_values: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Refuses what is no batch of clips (B, 1, T); returns the mask as `check_mask` does.

    Raises:
        ValueError: For a wrong shape or type, no samples, padding that is not on the right, or values that are not
            finite.
    """
    if not isinstance(input_values, torch.Tensor):
        raise ValueError(
            f"`input_values` must be a torch tensor (B, 1, T), got {type(input_values).__name__}. The feature "
            "extractor makes it from files and arrays: "
            'encode(**feature_extractor(audio, resample=True, return_tensors="pt")).'
        )
    if input_values.ndim != 3 or input_values.shape[1] != 1:
        raise ValueError(
            f"`input_values` must have shape (B, 1, T), got {tuple(input_values.shape)}. The feature extractor makes "
            "it from recordings of any shape."
        )
    batch_size, _, num_samples = input_values.shape
    if batch_size == 0 or num_samples == 0:
        raise ValueError(f"`input_values` is empty, shape {tuple(input_values.shape)}; a clip needs 1 sample or more.")
    mask = check_mask(padding_mask, (batch_size, num_samples), "padding_mask")
    if input_values.device.type == "cpu" and can_look_at(input_values) and not is_finite(input_values.detach()):
        _refuse_unfinite(input_values, mask)
    return mask


def _refuse_unfinite(input_values: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Refuses NaN and infinity among the samples (B, 1, T) that belong to a clip."""
    wrong = ~input_values[:, 0].isfinite()
    if mask is not None:
        wrong &= mask.to(wrong.device)
    if wrong.any():
        index, sample = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"`input_values` must be finite, and clip {index} holds {input_values[index, 0, sample].item()} at sample "
            f"{sample}. Its codes would mean nothing; drop the clip, or mend what made it."
        )


def check_mask(mask: torch.Tensor | None, shape: tuple[int, int], name: str) -> torch.Tensor | None:
    """Checks a mask of right padding and drops its channel axis.

    Args:
        mask: (B, length) or (B, 1, length) of any dtype, non-zero where valid; or None.
        shape: The expected (B, length).
        name: What the caller calls it, for errors.

    Returns:
        Boolean (B, length), or None where nothing is padded.

    Raises:
        ValueError: For a wrong shape or type, padding that is not on the right, or a clip that is padding only.
    """
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"`{name}` must be a torch tensor of shape {shape}, got {type(mask).__name__}.")
    flat = mask[:, 0] if mask.ndim == 3 and mask.shape[1] == 1 else mask
    if tuple(flat.shape) != shape:
        raise ValueError(
            f"`{name}` must have shape {shape} or {(shape[0], 1, shape[1])}, one value per position, got "
            f"{tuple(mask.shape)}."
        )
    flat = flat != 0
    if can_look_at(flat):
        if flat.all():
            return None
        empty = ~flat[:, 0]
        gaps = (flat[:, 1:] & ~flat[:, :-1]).any(dim=-1)
        if (gaps | empty).any():
            index = int((gaps | empty).nonzero()[0])
            raise ValueError(
                f"`{name}` of clip {index} does not start with a valid position and end in padding. Only padding on "
                "the right keeps the frames where they are; pad there, and drop empty clips."
            )
    return flat


def check_codes(
    audio_codes: torch.Tensor, codebook_size: int, audio_codes_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Refuses what is no batch of codes (B, 1, L); returns them as int64, 0 where the mask (B, 1, L) is false.

    Raises:
        ValueError: For a wrong shape or type, no codes, or codes out of range.
    """
    if not isinstance(audio_codes, torch.Tensor):
        raise ValueError(f"`audio_codes` must be a torch tensor (B, 1, L), got {type(audio_codes).__name__}.")
    if audio_codes.ndim != 3 or audio_codes.shape[1] != 1:
        raise ValueError(
            f"`audio_codes` must have shape (B, 1, L), got {tuple(audio_codes.shape)}. Add the axes of batch and "
            "codebook with `audio_codes.reshape(batch_size, 1, -1)`."
        )
    if audio_codes.dtype == torch.bool or audio_codes.is_floating_point() or audio_codes.is_complex():
        raise ValueError(f"`audio_codes` must be integers, got {audio_codes.dtype}.")
    if audio_codes.numel() == 0:
        raise ValueError(f"`audio_codes` is empty, shape {tuple(audio_codes.shape)}; decoding takes 1 code or more.")
    audio_codes = audio_codes.long()
    if audio_codes_mask is not None:
        audio_codes = audio_codes.masked_fill(~audio_codes_mask, 0)
    if can_look_at(audio_codes):
        wrong = (audio_codes < 0) | (audio_codes >= codebook_size)
        if wrong.any():
            index, _, frame = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"Codes must lie in 0..{codebook_size - 1} (`codebook_size` - 1); clip {index} holds "
                f"{audio_codes[index, 0, frame].item()} at frame {frame}."
            )
    return audio_codes


def check_bandwidth_ids(
    bandwidth_id: int | torch.Tensor, num_ids: int, batch_size: int, device: torch.device
) -> torch.Tensor:
    """Ids as int64 (B, 1), or (1, 1) where all clips share one.

    Raises:
        ValueError: For a wrong shape or type, or ids out of 0..`num_ids` - 1.
    """
    if isinstance(bandwidth_id, bool) or not isinstance(bandwidth_id, (int, torch.Tensor)):
        raise ValueError(
            f"`bandwidth_id` must be an int or an integer tensor (B,), got {type(bandwidth_id).__name__}."
        )
    if isinstance(bandwidth_id, int):
        ids = torch.full((1, 1), bandwidth_id, dtype=torch.int64, device=device)
        lowest = highest = bandwidth_id
    else:
        if bandwidth_id.dtype == torch.bool or bandwidth_id.is_floating_point() or bandwidth_id.is_complex():
            raise ValueError(f"`bandwidth_id` must hold integers, got {bandwidth_id.dtype}.")
        if bandwidth_id.ndim > 1 or bandwidth_id.numel() not in (1, batch_size):
            raise ValueError(
                f"`bandwidth_id` must have one element or shape ({batch_size},), one per clip, got "
                f"{tuple(bandwidth_id.shape)}."
            )
        ids = bandwidth_id.reshape(-1, 1).to(device=device, dtype=torch.int64)
        if not can_look_at(ids):
            return ids
        lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= num_ids:
        raise ValueError(
            f"`bandwidth_id` must lie in 0..{num_ids - 1} (`adanorm_num_embeddings` - 1), got "
            f"{lowest if lowest < 0 else highest}."
        )
    return ids
