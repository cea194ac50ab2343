"""How long do encoding and decoding take, beside transformers' EnCodec, DAC and Mimi at their released sizes?

All systems carry random weights, take the same recording, and keep one codebook: what a peer would do for its further
codebooks is left out, in its favour. Clips of 10 s and 30 s, batch 1, float32. Within a round every system runs once,
in an order that rotates from round to round, so that a slow moment of the machine strikes all of them alike; the ratio
of two systems is the median over rounds of their ratio within a round.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel
from wavtokenizer_hf.audio.files import find_files

SAMPLING_RATE = 24000
BASELINE = "EnCodec"
DEFAULT_AUDIO = REPOSITORY / "conversion" / "LJ001-0002.flac"
RELEASED_75 = (8, 5, 4, 2)
RELEASED_40 = (6, 5, 5, 4)
UNBOUNDED = 1000


@dataclass(frozen=True)
class System:
    """A codec under test. `encode` maps (1, 1, T) to what `decode` takes, and `decode` maps that to a waveform.

    `max_rounds` bounds the time that a slow system takes from the run.
    """

    name: str
    note: str
    num_parameters: int
    codes_per_second: float
    bits_per_code: int
    max_rounds: int
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any], torch.Tensor]


def wavtokenizer(upsampling_ratios: Sequence[int]) -> list[System]:
    """The codec as it is loaded, and with its weight norm fused; the weights are the same."""
    config = WavTokenizerConfig(upsampling_ratios=list(upsampling_ratios))
    plain, fused = WavTokenizerModel(config).eval(), WavTokenizerModel(config).eval()
    fused.load_state_dict(plain.state_dict())
    num_parameters = _num_parameters(plain)
    fused.fuse()

    def system(model: WavTokenizerModel, suffix: str, note: str) -> System:
        return System(
            f"WavTokenizer {config.frame_rate:g}{suffix}",
            note,
            num_parameters,
            config.frame_rate,
            (config.codebook_size - 1).bit_length(),
            UNBOUNDED,
            encode=lambda audio: model.encode(audio).audio_codes,
            decode=lambda codes: model.decode(codes).audio_values,
        )

    return [
        system(plain, "", "as loaded: weight norm computed in every call"),
        system(fused, " fused", "after `fuse()`"),
    ]


def encodec() -> System:
    """facebook/encodec_24khz (the config's defaults); its list of bandwidths gets that of one codebook, 0.75 kbps."""
    config = EncodecConfig(target_bandwidths=[0.75, 1.5, 3.0, 6.0, 12.0, 24.0])
    model = EncodecModel(config).eval()
    return System(
        BASELINE,
        "24 kHz; weight norm computed in every call",
        _num_parameters(model),
        SAMPLING_RATE / config.hop_length,
        10,
        UNBOUNDED,
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
        "DAC",
        "24 kHz; without weight norm, as it is released",
        _num_parameters(model),
        SAMPLING_RATE / config.hop_length,
        10,
        3,
        encode=lambda audio: model.encode(audio, n_quantizers=1).audio_codes,
        decode=lambda codes: model.decode(audio_codes=codes).audio_values,
    )


def mimi() -> System:
    """kyutai/mimi (the config's defaults)."""
    config = MimiConfig()
    model = MimiModel(config).eval()
    return System(
        "Mimi",
        "24 kHz; without weight norm, as it is released",
        _num_parameters(model),
        config.frame_rate,
        11,
        UNBOUNDED,
        encode=lambda audio: model.encode(audio, num_quantizers=1).audio_codes,
        decode=lambda codes: model.decode(codes).audio_values,
    )


def all_systems() -> list[System]:
    torch.manual_seed(0)
    return [*wavtokenizer(RELEASED_75), *wavtokenizer(RELEASED_40), encodec(), dac(), mimi()]


def load_audio(path: Path) -> np.ndarray:
    """The recordings below a path in a row, as (T,) at 24 kHz."""
    feature_extractor = WavTokenizerFeatureExtractor()
    return np.concatenate(
        [
            np.asarray(feature_extractor(str(file.path), resample=True)["input_values"][0]).reshape(-1)
            for file in find_files([path])
        ]
    )


def looped(audio: np.ndarray, num_samples: int) -> torch.Tensor:
    """(T,) -> (1, 1, num_samples), starting over where it ends."""
    return torch.from_numpy(np.resize(audio, num_samples).astype(np.float32))[None, None]


def measure(
    systems: Sequence[System], audio: np.ndarray, durations_s: Sequence[float], num_rounds: int
) -> list[dict[str, Any]]:
    """Times every system at every duration, after one untimed run of each on the shortest clip.

    Returns:
        One record for each system, duration and operation, with the wall time in seconds and its ratio to the
        baseline's in the same round.
    """
    clips = {seconds: looped(audio, round(seconds * SAMPLING_RATE)) for seconds in sorted(durations_s)}
    walls: dict[tuple[str, float, str], list[float]] = {}
    with torch.inference_mode():
        for system in systems:
            shortest = next(iter(clips.values()))
            _check(system, system.decode(system.encode(shortest)), shortest.shape[-1])
        for round_index, (seconds, clip) in itertools.product(range(num_rounds), clips.items()):
            print(f"round {round_index + 1} of {num_rounds}, {seconds:g} s", file=sys.stderr, flush=True)
            turn = round_index % len(systems)
            for system in (*systems[turn:], *systems[:turn]):
                if round_index >= system.max_rounds:
                    continue
                encode_s, encoded = _timed(system.encode, clip)
                decode_s, _ = _timed(system.decode, encoded)
                walls.setdefault((system.name, seconds, "encode"), []).append(encode_s)
                walls.setdefault((system.name, seconds, "decode"), []).append(decode_s)
    return [
        {
            "system": name,
            "audio_s": seconds,
            "operation": operation,
            "wall_s": _summary(times),
            "times_real_time": round(seconds / statistics.median(times), 2),
            "ratio_to_baseline": _summary(
                # a slow system stands in the first rounds only
                [own / other for own, other in zip(times, walls[BASELINE, seconds, operation], strict=False)]
            ),
        }
        for (name, seconds, operation), times in sorted(
            walls.items(), key=lambda item: [system.name for system in systems].index(item[0][0])
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30], help="lengths of the clips")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each system, DAC at most 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    systems = all_systems()
    audio = load_audio(arguments.audio)
    measurements = measure(systems, audio, arguments.seconds, arguments.rounds)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "rounds": arguments.rounds,
            "warm_up": "one untimed run of each system on the shortest clip",
            "batch_size": 1,
            "dtype": "float32",
            "weights": "random, seed 0",
            "codebooks": 1,
            "audio": f"{arguments.audio.name}: {len(audio) / SAMPLING_RATE:.1f} s, looped",
        },
        "baseline": BASELINE,
        "systems": {
            system.name: {
                "note": system.note,
                "num_parameters": system.num_parameters,
                "codes_per_second": system.codes_per_second,
                "kbps": round(system.codes_per_second * system.bits_per_code / 1000, 4),
            }
            for system in systems
        },
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def _num_parameters(model: torch.nn.Module) -> int:
    """Parameters and buffers, since a codebook may be either."""
    return sum(tensor.numel() for tensor in itertools.chain(model.parameters(), model.buffers()))


def _timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def _check(system: System, decoded: torch.Tensor, num_samples: int) -> None:
    """A run that fails quietly would be fast: the output must be a whole and finite waveform that is not silent."""
    # DAC gives back eight samples less than it got
    if decoded.shape[-1] < 0.99 * num_samples or not decoded.isfinite().all() or not decoded.any():
        raise RuntimeError(
            f"{system.name} gave shape {tuple(decoded.shape)} for {num_samples} samples, or silence, NaN or infinity:"
            " its time would mean nothing"
        )


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "all": [round(value, 4) for value in values],
    }


if __name__ == "__main__":
    main()
