"""Clips that are too long for a batch: through the streaming encoder, in memory that does not grow with them."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from wavtokenizer_hf.corpus.clip import PlannedClip
from wavtokenizer_hf.corpus.reader import ClipReader, Failure, LongClip, failure_of, silence_of
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerPreTrainedModel
from wavtokenizer_hf.streaming import encode_long

BLOCK_S = 10.0


@torch.inference_mode()
def encode_long_clip(
    model: WavTokenizerPreTrainedModel,
    reader: ClipReader,
    clip: PlannedClip,
    found: LongClip,
    read_blocks: Iterable[np.ndarray],
) -> tuple[np.ndarray, int] | Failure:
    """Codes (L,) of a clip, those of encoding it in one piece; and its number of samples at the codec's rate.

    Args:
        reader: What the clip was found with.
        read_blocks: The clip, in pieces (C, n) of any lengths at its own rate.
    """
    num_frames, peak, mono_peak = 0, 0.0, 0.0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal num_frames, peak, mono_peak
        for block in read_blocks:
            num_frames += block.shape[-1]
            peak = max(peak, float(np.abs(block).max()))
            with np.errstate(invalid="ignore", over="ignore"):
                mono_peak = max(mono_peak, float(np.abs(block.mean(axis=0)).max()))
            yield block

    try:
        audio_codes = encode_long(model, blocks(), found.sampling_rate, progress=False)
    except torch.OutOfMemoryError:
        return Failure("out of memory", "there was not enough memory to encode it")
    except RuntimeError:  # the model's, not the recording's
        raise
    except Exception as error:
        return failure_of(clip, error)
    silence = silence_of(peak, mono_peak)
    if silence is not None and not reader.keep_silent:
        return silence
    num_samples = -(-num_frames * reader.feature_extractor.sampling_rate // found.sampling_rate)
    return audio_codes[0, 0].numpy(), num_samples
