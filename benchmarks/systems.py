"""The codecs that are compared, at their released sizes, with random weights."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from benchmarks.plain import PlainCodec
from benchmarks.precision import multiplies_bfloat16
from benchmarks.recordings import SAMPLING_RATE
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel

RELEASED_75 = (8, 5, 4, 2)
RELEASED_40 = (6, 5, 5, 4)
BASELINE = "plain path 75"


@dataclass(frozen=True)
class System:
    """A codec under test.

    Args:
        name: What tables call it.
        note: What it is.
        num_parameters: Parameters and buffers, since a codebook may be either.
        codes_per_second: Codes of one codebook.
        bits_per_code: Of each.
        decode: Maps what `encode` returns to a waveform.
        encode: Maps (B, 1, T) to what `decode` takes; `None` where it decodes the codes of another system.
        codes_of: The name of that other system.
        dtype: Type of the large products of `decode`.
        baseline: The system that its speed is compared with.
        config: Of a WavTokenizer, whose arithmetic can be counted.
        max_audio_s: The longest clips, a batch's together, that it takes part with.
        min_rounds: How many rounds it runs, however slow it is.
    """

    name: str
    note: str
    num_parameters: int
    codes_per_second: float
    bits_per_code: int
    decode: Callable[[Any], torch.Tensor]
    encode: Callable[[torch.Tensor], Any] | None = None
    codes_of: str | None = None
    dtype: str = "float32"
    baseline: str = BASELINE
    config: WavTokenizerConfig | None = None
    max_audio_s: float = float("inf")
    min_rounds: int = 1


def wavtokenizer(upsampling_ratios: Sequence[int], max_audio_s: float = float("inf")) -> list[System]:
    """The codec as loaded, its decoder in bfloat16, the plain path, and transformers' own, all with the same weights.

    The second is left out where the processor has no bfloat16, the last where transformers is older than 5.24.
    """
    config = WavTokenizerConfig(upsampling_ratios=list(upsampling_ratios))
    model = WavTokenizerModel(config).eval()
    plain = PlainCodec(model)
    rate = f"{config.frame_rate:g}"
    alike: dict[str, Any] = {
        "num_parameters": num_parameters(model),
        "codes_per_second": config.frame_rate,
        "bits_per_code": (config.codebook_size - 1).bit_length(),
        "baseline": f"plain path {rate}",
        "config": config,
        "max_audio_s": max_audio_s,
        "min_rounds": 2,
    }
    systems = [
        System(
            name=f"WavTokenizer {rate}",
            note="as loaded",
            encode=lambda audio: model.encode(audio).audio_codes,
            decode=lambda codes: model.decode(codes).audio_values,
            **alike,
        ),
        System(
            name=f"plain path {rate}",
            note="the original's arithmetic, step by step",
            encode=plain.encode,
            decode=plain.decode,
            **alike,
        ),
    ]
    if multiplies_bfloat16():
        half = WavTokenizerModel(config).eval()
        half.load_state_dict(model.state_dict())
        half.backbone.to(torch.bfloat16)
        half.head.to(torch.bfloat16)
        in_bfloat16 = System(
            name=f"WavTokenizer {rate}, bfloat16",
            note="backbone and head in bfloat16; encodes in float32, as the above",
            decode=lambda codes: half.decode(codes).audio_values,
            codes_of=f"WavTokenizer {rate}",
            dtype="bfloat16",
            **alike,
        )
        systems.insert(1, in_bfloat16)
    if hasattr(transformers, "WavTokenizerModel"):
        port = transformers.WavTokenizerModel(transformers.WavTokenizerConfig(**_shared_fields(config))).eval()
        missing = port.load_state_dict(model.state_dict(), strict=False).missing_keys
        if any(name.endswith(("weight", "bias", "embed")) for name in missing):
            raise RuntimeError(f"transformers' own codec wants other weights: {', '.join(missing)}")
        in_transformers = System(
            name=f"transformers' own {rate}",
            note="the port of WavTokenizer in transformers",
            encode=lambda audio: port.encode(audio).audio_codes,
            decode=lambda codes: port.decode(codes).audio_values,
            **alike | {"config": None, "max_audio_s": 60, "min_rounds": 1},
        )
        systems.append(in_transformers)
    return systems


def _shared_fields(config: WavTokenizerConfig) -> dict[str, Any]:
    """What a configuration says of the geometry, by the names that transformers' own knows."""
    known = transformers.WavTokenizerConfig.__dataclass_fields__
    return {name: value for name, value in config.to_diff_dict().items() if name in known and name != "dtype"}


def encodec() -> System:
    """facebook/encodec_24khz (the config's defaults); its list of bandwidths gets that of one codebook, 0.75 kbps."""
    config = EncodecConfig(target_bandwidths=[0.75, 1.5, 3.0, 6.0, 12.0, 24.0])
    model = EncodecModel(config).eval()
    return System(
        name="EnCodec",
        note="24 kHz; weight norm computed in every call",
        num_parameters=num_parameters(model),
        codes_per_second=SAMPLING_RATE / config.hop_length,
        bits_per_code=10,
        encode=lambda audio: model.encode(audio, bandwidth=0.75),
        decode=lambda encoded: model.decode(encoded.audio_codes, encoded.audio_scales).audio_values,
    )


def dac() -> System:
    """descript/dac_24khz."""
    config = DacConfig(
        encoder_hidden_size=64,
        downsampling_ratios=[2, 4, 5, 8],
        decoder_hidden_size=1536,
        n_codebooks=32,
        codebook_size=1024,
        codebook_dim=8,
        sampling_rate=SAMPLING_RATE,
    )
    model = DacModel(config).eval()
    return System(
        name="DAC",
        note="24 kHz; without weight norm, as it is released; slow, so in short clips only",
        num_parameters=num_parameters(model),
        codes_per_second=SAMPLING_RATE / config.hop_length,
        bits_per_code=10,
        encode=lambda audio: model.encode(audio, n_quantizers=1).audio_codes,
        decode=lambda codes: model.decode(audio_codes=codes).audio_values,
        max_audio_s=10,
    )


def mimi() -> System:
    """kyutai/mimi (the config's defaults)."""
    config = MimiConfig()
    model = MimiModel(config).eval()
    return System(
        name="Mimi",
        note="24 kHz; without weight norm, as it is released",
        num_parameters=num_parameters(model),
        codes_per_second=config.frame_rate,
        bits_per_code=11,
        encode=lambda audio: model.encode(audio, num_quantizers=1).audio_codes,
        decode=lambda codes: model.decode(codes).audio_values,
    )


def all_systems() -> list[System]:
    torch.manual_seed(0)
    return [*wavtokenizer(RELEASED_75), *wavtokenizer(RELEASED_40, max_audio_s=60), encodec(), dac(), mimi()]


def num_parameters(model: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in itertools.chain(model.parameters(), model.buffers()))
