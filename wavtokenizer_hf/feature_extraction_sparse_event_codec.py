# Copyright 2026 The wavtokenizer_hf authors. All rights reserved.
#
# Licensed under the MIT License; see the LICENSE file of the project.
"""Feature extractor of the codec of sparse events: from recordings of any kind to 22,050 Hz mono batches."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from .feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor

_PEAK_EPS = 1e-12


class SparseEventCodecFeatureExtractor(WavTokenizerFeatureExtractor):
    """Turns recordings into padded mono batches, as `WavTokenizerFeatureExtractor` does, at the rate of this codec.

    Args:
        feature_size: Channels of the output; only 1 is valid.
        sampling_rate: The codec's rate in Hz.
        padding_value: Value of the samples after a clip's end.
        hop_length: Samples per frame.
        normalize: Whether each clip is divided by its highest sample, as the original does before it encodes; what it
            was divided by is then returned as `audio_scale`, float32 (B,), by which decoded audio is to be multiplied.
        peak_db: As in `WavTokenizerFeatureExtractor`.

    Source: The original's normalisation takes the highest sample, not the highest magnitude.
    """

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 22050,
        padding_value: float = 0.0,
        hop_length: int = 256,
        normalize: bool = False,
        peak_db: float | None = None,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, hop_length, peak_db, **kwargs)
        self.normalize = normalize

    def __call__(self, audio: Any, *args, **kwargs) -> BatchFeature:
        """Prepares one clip or a batch of clips; arguments as in `WavTokenizerFeatureExtractor`."""
        features = super().__call__(audio, *args, **kwargs)
        if not self.normalize:
            return features
        scales = [np.float32(abs(float(clip.max())) + _PEAK_EPS) for clip in features["input_values"]]
        if isinstance(features["input_values"], list):
            features["input_values"] = [
                clip / scale for clip, scale in zip(features["input_values"], scales, strict=True)
            ]
            features["audio_scale"] = scales
            return features
        scale: Any = np.array(scales)
        if isinstance(features["input_values"], torch.Tensor):
            scale = torch.from_numpy(scale)
        features["input_values"] = features["input_values"] / scale[:, None, None]
        features["audio_scale"] = scale
        return features

    def get_num_audio_codes(self, num_samples: int) -> int:
        """Refuses: how many events a clip has is not known from its length."""
        raise NotImplementedError("The number of events depends on the clip; `encode` says it in `event_mask`.")


__all__ = ["SparseEventCodecFeatureExtractor"]
