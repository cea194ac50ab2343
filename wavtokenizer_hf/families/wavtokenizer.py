"""WavTokenizer, SimVQ's codecs and the causal codec: one codebook, one code per hop."""

import copy
from collections.abc import Mapping, Set
from typing import Any

import torch
from transformers import PreTrainedModel

from wavtokenizer_hf.codecs.codec import Codec, Codes, Part, StreamDecoder, StreamEncoder, num_samples_of
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerConfig, fingerprint
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor
from wavtokenizer_hf.modeling_wavtokenizer import (
    WavTokenizerCausalModel,
    WavTokenizerDecoderModel,
    WavTokenizerEncoderModel,
    WavTokenizerModel,
)
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
    config_class = WavTokenizerConfig
    whole_class = WavTokenizerModel
    extractor_class = WavTokenizerFeatureExtractor
    card_template = "wavtokenizer_card.md.j2"

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

    def take_fingerprint(self) -> str | None:
        return None if isinstance(self.model, WavTokenizerDecoderModel) else fingerprint(self.model)

    def encode(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Codes:
        encoded = self.model.encode(input_values, padding_mask)
        mask = None if encoded.audio_codes_mask is None else encoded.audio_codes_mask[:, 0] != 0
        return Codes(encoded.audio_codes, mask, num_samples_of(input_values, padding_mask))

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
    def model_class(cls, config: WavTokenizerConfig, part: Part) -> type[PreTrainedModel]:
        stored = next(iter(config.architectures or ()), "")
        is_encoder, is_decoder = (
            stored == half.__name__ for half in (WavTokenizerEncoderModel, WavTokenizerDecoderModel)
        )
        if part in ("encoder", "whole") and is_decoder:
            raise ValueError(f"{config.name_or_path} holds a decoder alone: it can decode, and nothing else")
        if part in ("decoder", "whole") and is_encoder:
            raise ValueError(f"{config.name_or_path} holds an encoder alone: it can encode, and nothing else")
        if part == "encoder" or is_encoder:
            return WavTokenizerEncoderModel
        return WavTokenizerDecoderModel if is_decoder else WavTokenizerModel

    @classmethod
    def auto_map(cls, config: WavTokenizerConfig) -> dict[str, str]:
        model_class = WavTokenizerCausalModel if config.is_causal else WavTokenizerModel
        return {
            "AutoConfig": f"configuration_wavtokenizer.{type(config).__name__}",
            "AutoModel": f"modeling_wavtokenizer.{model_class.__name__}",
            "AutoModelForAudioTokenization": f"modeling_wavtokenizer.{model_class.__name__}",
            "AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor",
        }

    def check_exportable(self) -> None:
        super().check_exportable()
        if self.model.is_fused:
            raise RuntimeError(
                "a fused model cannot be exported: its weight norm is gone, and the saved folder would not load; load "
                "the checkpoint again and export it before fuse()"
            )

    @classmethod
    def describe_keys(cls, keys: Set[str]) -> dict[str, Any]:
        """`layout`: `"current"`; `"earlier"`, a whole codec whose keys lack the `encoder_model.` prefix; `"encoder
        alone"`; or `"decoder alone"`. `fused`: whether the encoder's weight norm was folded into its weights."""
        in_encoder = {key.removeprefix("encoder_model.") for key in keys}
        if in_encoder != keys:
            layout = "current"
        elif any(key.startswith("encoder.") for key in keys):
            layout = "earlier" if any(key.startswith("backbone.") for key in keys) else "encoder alone"
        else:
            layout = "decoder alone"
        is_fused = any(key.startswith("encoder.") and key.endswith(".conv.weight") for key in in_encoder)
        return {"layout": layout, "fused": is_fused}

    def check_options(self, options: Mapping[str, Any]) -> None:
        bandwidth_id, most = options.get("bandwidth_id", 0), self.config.adanorm_num_embeddings - 1
        if not 0 <= bandwidth_id <= most:
            raise ValueError(f"bandwidth_id must lie from 0 to {most} for this model, got {bandwidth_id}")
        super().check_options({name: value for name, value in options.items() if name != "bandwidth_id"})
