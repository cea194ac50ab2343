"""Decoding clips of any length in bounded memory."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from tqdm.auto import tqdm

from wavtokenizer_hf.audio.codes import CodeFile
from wavtokenizer_hf.audio.files import write_audio_blocks
from wavtokenizer_hf.codecs.codec import StreamDecoder
from wavtokenizer_hf.codecs.registry import codec_of
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.streaming.long_encoding import LongCodes

_CODES_AT_ONCE = 1500


@overload
def decode_long(
    model: Any,
    codes: LongCodes | torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: None = None,
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Iterator[torch.Tensor]: ...


@overload
def decode_long(
    model: Any,
    codes: LongCodes | torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: str | os.PathLike[str],
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Path: ...


def decode_long(
    model: Any,
    codes: LongCodes | torch.Tensor | Iterable[torch.Tensor] | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    chunk_frames: int | None = None,
    context_frames: int | None = None,
    lookahead_frames: int | None = None,
    bandwidth_id: int | torch.Tensor | None = None,
    progress: bool = True,
) -> Path | Iterator[torch.Tensor]:
    """Decodes one clip by its codec's stream, in memory that does not depend on its length.

    With WavTokenizer that is a `ChunkedDecoder`: a clip of up to `chunk_frames + lookahead_frames` codes is decoded as
    `model.decode` does, a longer one of the ordinary codec approximately, and one of a causal codec always exactly.

    Args:
        model: Of any family, in eval mode, with a decoder; or a `Codec`.
        codes: Codes (1, Q, L), or what `encode_long` gives; or an iterable of blocks (1, Q, k) of any lengths; or a
            file of codes as `CodeFile` writes it (`.npz`, `.json`), or of a plain array (`.npy`). Where the length of
            the clip is known, it comes out at that.
        output: The sound file to write as the samples come, `.wav`, `.flac`, `.ogg` or `.mp3`; it gets its name when
            it is whole. With `None`, the samples are returned.
        chunk_frames: As in `ChunkedDecoder`. `None` takes a default that is longer than that of a stream, as for the
            next two.
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
    options = {
        "chunk_frames": chunk_frames,
        "context_frames": context_frames,
        "lookahead_frames": lookahead_frames,
        "bandwidth_id": bandwidth_id,
    }
    codec = codec_of(model)
    decoder = codec.stream_decoder(
        is_long=True, **{name: value for name, value in options.items() if value is not None}
    )
    num_samples = None
    if isinstance(codes, (str, os.PathLike)):
        codes, num_samples = _read_codes(codec.spec, Path(codes))
    elif isinstance(codes, LongCodes):
        codes, num_samples = codes
    num_codes = codes.shape[-1] if isinstance(codes, torch.Tensor) else None
    blocks = [codes] if isinstance(codes, torch.Tensor) else codes
    frame_rate, sampling_rate = codec.spec.frame_rate, codec.spec.sampling_rate
    total_s = None if num_codes is None or frame_rate is None else num_codes / frame_rate
    samples = _decode(decoder, blocks, num_samples, sampling_rate, total_s, progress)
    if output is None:
        return samples
    arrays = (block[0].cpu().numpy() for block in samples)  # (1, 1, n) -> (1, n)
    num_clipped = write_audio_blocks(output, arrays, sampling_rate)
    if num_clipped:
        warnings.warn(f"{num_clipped} samples of {output} went beyond full scale and were clipped.", stacklevel=2)
    return Path(output)


def _decode(
    decoder: StreamDecoder,
    blocks: Iterable[torch.Tensor],
    num_samples: int | None,
    sampling_rate: int,
    total_s: float | None,
    progress: bool,
) -> Iterator[torch.Tensor]:
    """Blocks of samples, of `num_samples` in all."""
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


def _push_all(decoder: StreamDecoder, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for block in blocks:
        is_codes = isinstance(block, torch.Tensor) and block.ndim == 3  # the decoder refuses what is not
        for piece in block.split(_CODES_AT_ONCE, dim=-1) if is_codes else [block]:
            yield decoder.push(piece)
    yield decoder.flush()


def _read_codes(spec: CodecSpec, path: Path) -> tuple[torch.Tensor, int | None]:
    """Codes (1, Q, L) of a file, and the length of the clip in samples where the file says it."""
    if path.suffix.lower() == ".npy":
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        array = np.load(path, allow_pickle=False)
        num_codebooks = spec.num_codebooks
        if array.dtype.kind not in "iu" or array.size != num_codebooks * max(array.shape[-1:], default=0):
            expected = "(L,) or (1, 1, L)" if num_codebooks == 1 else f"({num_codebooks}, L)"
            raise ValueError(f"{path} must hold whole numbers {expected}, got {array.dtype} {array.shape}")
        return torch.from_numpy(array.astype(np.int64)).reshape(1, num_codebooks, -1), None
    file = CodeFile.load(path)
    spec.check_fits(file.spec, str(path))
    return torch.from_numpy(file.audio_codes)[None], file.num_samples  # (Q, L) -> (1, Q, L)
