"""Decoding clips of any length in bounded memory."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import overload

import numpy as np
import torch
from tqdm.auto import tqdm

from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.audio.files import write_audio_blocks
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerDecodingModel
from wavtokenizer_hf.streaming.decoder import ChunkedDecoder

# Nobody waits for the first sample of a file, so context and look-ahead may weigh little. Yet longer chunks are not
# nearer to the recording: where voices change, norms over a few seconds are better (docs/streaming.md).
LONG_CHUNK_FRAMES = 375
LONG_CONTEXT_FRAMES = 150
LONG_LOOKAHEAD_FRAMES = 40

_CODES_AT_ONCE = 1500


@overload
def decode_long(
    model: WavTokenizerDecodingModel,
    codes: torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: None = None,
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Iterator[torch.Tensor]: ...


@overload
def decode_long(
    model: WavTokenizerDecodingModel,
    codes: torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: str | os.PathLike[str],
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Path: ...


def decode_long(
    model: WavTokenizerDecodingModel,
    codes: torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Path | Iterator[torch.Tensor]:
    """Decodes one clip with a `ChunkedDecoder`, in memory that does not depend on its length.

    A clip of up to `chunk_frames + lookahead_frames` codes is decoded as `model.decode` does, a longer one of the
    ordinary codec approximately, and one of a causal codec always exactly.

    Args:
        model: A model with a decoder, in eval mode.
        codes: Codes (1, 1, L); or an iterable of blocks (1, 1, k) of any lengths; or a file of codes as `CodeFile`
            writes it (`.npz`, `.json`), whose clip comes out at its own length, or of a plain array (`.npy`).
        output: The sound file to write as the samples come, `.wav`, `.flac`, `.ogg` or `.mp3`; it gets its name when
            it is whole. With `None`, the samples are returned.
        chunk_frames: As in `ChunkedDecoder`. `None` takes this module's default, as for the next two, which is longer
            than that of a stream.
        context_frames: As in `ChunkedDecoder`.
        lookahead_frames: As in `ChunkedDecoder`.
        bandwidth_id: As in `model.decode`.
        progress: Whether to show a progress bar.

    Returns:
        The path of `output`; without it an iterator over blocks of samples, float32 (1, 1, n), which are decoded as
        they are asked for.

    Raises:
        FileNotFoundError: If there is no such file of codes, or no folder for `output`.
        ValueError: If there are no codes, they do not fit the model, or `output` cannot be written.

    Example:

    ```python
    >>> decode_long(model, encode_long(model, "audiobook.flac"), "copy.flac")
    ```
    """
    if not model.config.is_causal:
        chunk_frames = LONG_CHUNK_FRAMES if chunk_frames is None else chunk_frames
        context_frames = LONG_CONTEXT_FRAMES if context_frames is None else context_frames
        lookahead_frames = LONG_LOOKAHEAD_FRAMES if lookahead_frames is None else lookahead_frames
    decoder = ChunkedDecoder(model, chunk_frames, context_frames, lookahead_frames, bandwidth_id)
    num_samples = None
    if isinstance(codes, (str, os.PathLike)):
        codes, num_samples = _read_codes(model, Path(codes))
    num_codes = codes.shape[-1] if isinstance(codes, torch.Tensor) else None
    blocks = [codes] if isinstance(codes, torch.Tensor) else codes
    total_s = None if num_codes is None else num_codes / model.config.frame_rate
    samples = _decode(decoder, blocks, num_samples, total_s, progress)
    if output is None:
        return samples
    arrays = (block[0].cpu().numpy() for block in samples)  # (1, 1, n) -> (1, n)
    num_clipped = write_audio_blocks(output, arrays, model.config.sampling_rate)
    if num_clipped:
        warnings.warn(f"{num_clipped} samples of {output} went beyond full scale and were clipped.", stacklevel=2)
    return Path(output)


def _decode(
    decoder: ChunkedDecoder,
    blocks: Iterable[torch.Tensor],
    num_samples: int | None,
    total_s: float | None,
    progress: bool,
) -> Iterator[torch.Tensor]:
    """Blocks of samples, of `num_samples` in all."""
    sampling_rate = decoder.model.config.sampling_rate
    num_done = 0
    with tqdm(total=total_s, unit="s", desc="Decoding", disable=not progress, unit_scale=True) as bar:
        for samples in _push_all(decoder, blocks):
            if num_samples is not None:
                samples = samples[..., : num_samples - num_done]
            num_done += samples.shape[-1]
            seconds = samples.shape[-1] / sampling_rate
            bar.update(seconds if total_s is None else min(seconds, total_s - bar.n))  # sums of floats overshoot
            if samples.shape[-1]:
                yield samples
    if not num_done:
        raise ValueError("There are no codes to decode; a clip has at least one.")


def _push_all(decoder: ChunkedDecoder, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for block in blocks:
        is_codes = isinstance(block, torch.Tensor) and block.ndim == 3  # the decoder refuses what is not
        for piece in block.split(_CODES_AT_ONCE, dim=-1) if is_codes else [block]:
            yield decoder.push(piece)
    yield decoder.flush()


def _read_codes(model: WavTokenizerDecodingModel, path: Path) -> tuple[torch.Tensor, int | None]:
    """Codes (1, 1, L) of a file, and the length of the clip in samples where the file says it."""
    if path.suffix.lower() == ".npy":
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "iu" or array.shape[-1:] != (array.size,):
            raise ValueError(f"{path} must hold whole numbers (L,) or (1, 1, L), got {array.dtype} {array.shape}")
        return torch.from_numpy(array.astype(np.int64)).reshape(1, 1, -1), None
    file = CodeFile.load(path)
    for name in ("hop_length", "sampling_rate", "codebook_size"):
        if getattr(file, name) != getattr(model.config, name):
            raise ValueError(
                f"{path} was made with {name} {getattr(file, name)}, and the model has "
                f"{getattr(model.config, name)}: decode it with the model that made it ({file.model or 'unknown'})"
            )
    return torch.from_numpy(file.audio_codes)[None], file.num_samples  # (1, L) -> (1, 1, L)
