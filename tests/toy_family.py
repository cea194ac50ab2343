"""A family of codecs that the package knows nothing of: no codebook, two streams of codes, no fixed hop.

A clip is told by its turning points: how many samples each run of one direction lasts, and the level it ends at.
"""

import dataclasses

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, PreTrainedModel

from wavtokenizer_hf.codec_files import copy_code_files, digest_of, stored_form
from wavtokenizer_hf.codecs.codec import Codec, Codes, num_samples_of
from wavtokenizer_hf.codecs.registry import register
from wavtokenizer_hf.codecs.spec import CodecSpec
from wavtokenizer_hf.feature_extraction_wavtokenizer import WavTokenizerFeatureExtractor

LEVELS, LONGEST = 32, 64


class ToyConfig(PreTrainedConfig):
    model_type = "toy_turns"
    sampling_rate = 8000
    hop_length = 1

    def to_dict(self):
        return stored_form(super().to_dict(), {})

    def save_pretrained(self, save_directory, *args, **kwargs):
        copy_code_files(save_directory, getattr(self, "auto_map", None))
        super().save_pretrained(save_directory, *args, **kwargs)


class ToyModel(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.tensor([1.0]))
        self.post_init()

    def _init_weights(self, module):
        pass

    def turns(self, clip: torch.Tensor) -> torch.Tensor:
        """Codes (2, L) of a clip (T,)."""
        levels = ((clip * self.scale).clamp(-1, 1) * (LEVELS / 2 - 1) + LEVELS / 2).round().long()
        rises = torch.diff(levels, prepend=levels[:1]).sign()
        codes, length = [], 0
        for place, level in enumerate(levels.tolist()):
            length += 1
            is_last = place + 1 == len(levels) or rises[place + 1] not in (0, rises[place])
            if is_last or length == LONGEST:
                codes.append((length - 1, level))
                length = 0
        return torch.tensor(codes).T.reshape(2, -1)

    def lines(self, codes: torch.Tensor) -> torch.Tensor:
        """Samples (T,) of codes (2, L)."""
        parts, level = [], 0.0
        for length, goal in codes.T.tolist():
            goal = (goal - LEVELS / 2) / (LEVELS / 2 - 1)
            parts.append(torch.linspace(level, goal, length + 2)[1:])
            level = goal
        return torch.cat(parts)[: int((codes[0] + 1).sum())] / self.scale


@dataclasses.dataclass
class ToyStream:
    """Holds all until the end, which is what a stream may do."""

    whole: object
    held: list = dataclasses.field(default_factory=list)

    def push(self, piece: torch.Tensor) -> torch.Tensor:
        self.held.append(piece)
        return self.whole(torch.cat(self.held, dim=-1))[..., :0]

    def reset(self) -> None:
        self.held = []

    def flush(self) -> torch.Tensor:
        return self.whole(torch.cat(self.held, dim=-1))


class ToyCodec(Codec):
    model_types = (ToyConfig.model_type,)
    config_class = ToyConfig
    whole_class = ToyModel
    extractor_class = WavTokenizerFeatureExtractor

    @classmethod
    def spec_of(cls, config, name="", fingerprint=None):
        return CodecSpec(config.sampling_rate, None, (LONGEST, LEVELS), config.model_type, fingerprint or "", name)

    @classmethod
    def auto_map(cls, config):
        return {"AutoFeatureExtractor": "feature_extraction_wavtokenizer.WavTokenizerFeatureExtractor"}

    def take_fingerprint(self):
        return digest_of({"levels": LEVELS}, self.model.state_dict())

    def encode(self, input_values, padding_mask=None):
        lengths = num_samples_of(input_values, padding_mask)
        clips = [self.model.turns(clip[0, :length]) for clip, length in zip(input_values, lengths, strict=True)]
        longest = max(clip.shape[-1] for clip in clips)
        padded = torch.stack([torch.nn.functional.pad(clip, (0, longest - clip.shape[-1])) for clip in clips])
        mask = torch.arange(longest) < torch.tensor([clip.shape[-1] for clip in clips])[:, None]
        return Codes(padded, mask, lengths)

    def decode(self, audio_codes, mask=None, num_samples=None, **options):
        codes = Codes(audio_codes, mask, [])
        clips = [self.model.lines(codes.of_clip(row)) for row in range(len(audio_codes))]
        return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)[:, None, :num_samples]

    def stream_encoder(self, batch_size=1):
        return ToyStream(lambda samples: self.encode(samples).audio_codes)

    def stream_decoder(self, is_long=False, **options):
        return ToyStream(self.decode)


def register_toy() -> None:
    AutoConfig.register(ToyConfig.model_type, ToyConfig, exist_ok=True)
    AutoModel.register(ToyConfig, ToyModel, exist_ok=True)
    AutoFeatureExtractor.register(ToyConfig, WavTokenizerFeatureExtractor, exist_ok=True)
    register(ToyCodec)


def toy_codec() -> ToyCodec:
    return ToyCodec(ToyModel(ToyConfig()).eval(), name="toy")


def tune(num_samples: int, seed: int = 0) -> np.ndarray:
    time = np.arange(num_samples) / 8000
    return 0.5 * np.sin(2 * np.pi * (200 + 50 * seed) * time)
