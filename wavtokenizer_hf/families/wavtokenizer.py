"""WavTokenizer, SimVQ's codecs and the causal codec: one codebook, one code per hop."""

import copy
from typing import Any

import torch

from wavtokenizer_hf.codecs.codec import Codec, Codes, StreamDecoder, StreamEncoder
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerConfig, check_same_codec, fingerprint
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.streaming.decoder import (
    LONG_CHUNK_FRAMES,
    LONG_CONTEXT_FRAMES,
    LONG_LOOKAHEAD_FRAMES,
    ChunkedDecoder,
)
from wavtokenizer_hf.streaming.encoder import StreamingEncoder

_LONG = {
    "chunk_frames": LONG_CHUNK_FRAMES,
    "context_frames": LONG_CONTEXT_FRAMES,
    "lookahead_frames": LONG_LOOKAHEAD_FRAMES,
}


class WavTokenizerCodec(Codec):
    """Of a whole model, an encoder or a decoder alone."""

    model_types = ("wavtokenizer", "wavtokenizer_causal", "wavtokenizer_encoder")

    # Encoding holds about so many values at once for each sample and filter of the first layer.
    _VALUES_PER_FILTER = 4

    @classmethod
    def spec_of(cls, config: WavTokenizerConfig, name: str = "", fingerprint: str | None = None) -> CodecSpec:
        return CodecSpec(
            sampling_rate=config.sampling_rate,
            hop_length=config.hop_length,
            codebook_sizes=(config.codebook_size,),
            model_type=config.model_type,
            fingerprint=fingerprint or "",
            name=name,
        )

    def take_fingerprint(self) -> str:
        return fingerprint(self.model)

    def encode(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Codes:
        encoded = self.model.encode(input_values, padding_mask)
        mask = None if encoded.audio_codes_mask is None else encoded.audio_codes_mask[:, 0] != 0
        if padding_mask is None:
            return Codes(encoded.audio_codes, mask, [input_values.shape[-1]] * len(input_values))
        lengths = padding_mask.reshape(len(input_values), -1).sum(dim=-1)
        return Codes(encoded.audio_codes, mask, lengths.tolist())

    def decode(
        self,
        audio_codes: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        **options: Any,
    ) -> torch.Tensor:
        decoded = self.model.decode(audio_codes, audio_codes_mask=mask, **options)
        return decoded.audio_values[..., :num_samples]

    def stream_encoder(self, batch_size: int = 1) -> StreamEncoder:
        return StreamingEncoder(self.model, batch_size)

    def stream_decoder(self, is_long: bool = False, **options: Any) -> StreamDecoder:
        return ChunkedDecoder(self.model, **(_LONG if is_long and not self.config.is_causal else {}) | options)

    def for_encoding(self) -> Codec:
        """The encoder alone, as a copy whose weight norm is merged away; or the model itself if it is fused."""
        if self.model.is_fused:
            return self
        encoder: Any = self.model.base_model
        fused = copy.deepcopy(encoder).fuse()
        return WavTokenizerCodec(fused, self.feature_extractor, name=self.name, fingerprint=self.fingerprint)

    @property
    def values_per_sample(self) -> float:
        return self._VALUES_PER_FILTER * self.config.num_filters

    @classmethod
    def extractor_for(cls, config: WavTokenizerConfig) -> WavTokenizerFeatureExtractor:
        return WavTokenizerFeatureExtractor(sampling_rate=config.sampling_rate, hop_length=config.hop_length)

    @classmethod
    def check_extractor(cls, feature_extractor: Any, config: Any) -> None:
        check_same_codec(feature_extractor, config)
