"""Clips that are too long for a batch: through the streaming encoder, in memory that does not grow with them."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from wavtokenizer_hf.codecs.codec import Codec
from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, LongClip, failure_of, silence_of
from wavtokenizer_hf.streaming import encode_long

BLOCK_S = 10.0


@torch.inference_mode()
def encode_long_clip(
    codec: Codec,
    reader: ClipReader,
    clip: PlannedClip,
    found: LongClip,
    read_blocks: Iterable[np.ndarray],
) -> tuple[np.ndarray, int] | Failure:
    """Codes (L * Q,) of a clip, those of encoding it in one piece; and its number of samples at the codec's rate.

    Args:
        reader: What the clip was found with.
        read_blocks: The clip, in blocks (C, n) of any lengths at its own rate.
    """
    peak, mono_peak = 0.0, 0.0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal peak, mono_peak
        for block in read_blocks:
            peak = max(peak, float(np.abs(block).max()))
            with np.errstate(invalid="ignore", over="ignore"):
                mono_peak = max(mono_peak, float(np.abs(block.mean(axis=0)).max()))
            yield block

    try:
        encoded = encode_long(codec, blocks(), found.sampling_rate, progress=False)
    except torch.OutOfMemoryError:
        return Failure("out of memory", "there was not enough memory to encode it")
    except RuntimeError:  # the model's, not the recording's
        raise
    except Exception as error:
        return failure_of(clip, error)
    silence = silence_of(peak, mono_peak)
    if silence is not None and not reader.keep_silent:
        return silence
    return codec.spec.flatten(encoded.audio_codes[0].numpy()), encoded.num_samples
