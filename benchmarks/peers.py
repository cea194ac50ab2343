"""How long do encoding and decoding take, beside transformers' EnCodec, DAC and Mimi at their released sizes?

All systems carry random weights, take the same recording, and keep one codebook: what a peer would do for its further
codebooks is left out, in its favour. Clips of 10 s and 30 s, batch 1, float32. Within a round every system runs once, in
an order that rotates from round to round, so that a slow moment of the machine strikes all of them alike; the ratio of
two systems is the median over rounds of their ratio within a round.
"""

import argparse
import copy
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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
DEFAULT_AUDIO = REPOSITORY / "tests" / "golden"
RELEASED_75 = (8, 5, 4, 2)
RELEASED_40 = (6, 5, 5, 4)


@dataclass(frozen=True)
class System:
    """A codec under test. `encode` maps (1, 1, T) to what `decode` takes, and `decode` maps that to a waveform."""

    name: str
    note: str
    num_parameters: int
    codes_per_second: float
    bits_per_code: int
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any], torch.Tensor]


def wavtokenizer(upsampling_ratios: Sequence[int]) -> Iterator[System]:
    """The codec as it is loaded, and with its weight norm fused; the weights are the same."""
    config = WavTokenizerConfig(upsampling_ratios=list(upsampling_ratios))
    plain = WavTokenizerModel(config).eval()
    fused = copy.deepcopy(plain)
    fused.fuse()
    for model, name, note in (
        (plain, f"WavTokenizer {config.frame_rate:g}", "as loaded: weight norm computed in every call"),
        (fused, f"WavTokenizer {config.frame_rate:g} fused", "after `fuse()`"),
    ):
        yield System(
            name,
            note,
            _num_parameters(plain),
            config.frame_rate,
            (config.codebook_size - 1).bit_length(),
            encode=lambda audio, model=model: model.encode(audio).audio_codes,
            decode=lambda codes, model=model: model.decode(codes).audio_values,
        )


def encodec() -> System:
    """facebook/encodec_24khz (the config's defaults), with a bandwidth of one codebook, 0.75 kbps, added to its list."""
    config = EncodecConfig(target_bandwidths=[0.75, 1.5, 3.0, 6.0, 12.0, 24.0])
    model = EncodecModel(config).eval()
    return System(
        BASELINE,
        "24 kHz; weight norm computed in every call",
        _num_parameters(model),
        SAMPLING_RATE / config.hop_length,
        10,
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
    """Times every system at every duration, after one warm-up each.

    Returns:
        One record for each system, duration and operation, with the wall time in seconds and its ratio to the
        baseline's in the same round.
    """
    clips = {seconds: looped(audio, round(seconds * SAMPLING_RATE)) for seconds in durations_s}
    cells = list(itertools.product(durations_s, systems))
    walls: dict[tuple[str, float, str], list[float]] = {}
    with torch.inference_mode():
        for round_index in range(-1, num_rounds):
            turn = max(round_index, 0) % len(systems)
            for seconds, system in sorted(cells, key=lambda cell: (cell[0], (systems.index(cell[1]) - turn) % len(systems))):
                encode_s, encoded = _timed(system.encode, clips[seconds])
                decode_s, decoded = _timed(system.decode, encoded)
                if round_index < 0:
                    _check(system, decoded, clips[seconds].shape[-1])
                    continue
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
                [own / other for own, other in zip(times, walls[BASELINE, seconds, operation], strict=True)]
            ),
        }
        for (name, seconds, operation), times in walls.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30], help="lengths of the clips")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each system, after one warm-up")
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
            "warm_up_rounds": 1,
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
    if decoded.shape[-1] < num_samples or not decoded.isfinite().all() or not decoded.any():
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
