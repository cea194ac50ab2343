"""How fast does it encode and decode on a CPU, beside the plain path and transformers' EnCodec, DAC and Mimi?

All systems carry random weights, take the same recordings, and keep one codebook: what a peer would do for its further
codebooks is left out, in its favour. Within a round every system runs once, in an order that rotates. A slow system
takes part in fewer rounds. What large products of matrices reach on the machine is measured in the same run.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.arithmetic import Arithmetic, MatrixPeak
from benchmarks.record import RESULTS, conditions, write_result
from benchmarks.recordings import DEFAULT_AUDIO, clips, described, read_recordings
from benchmarks.rounds import in_rounds, significant, speedup, summary
from benchmarks.systems import BASELINE, System, all_systems

WARM_UP_S = 1.0
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Batch:
    """What one call takes."""

    seconds: float
    size: int = 1

    @property
    def audio_s(self) -> float:
        return self.seconds * self.size


def measure(
    systems: Sequence[System], audio: np.ndarray, batches: Sequence[Batch], num_rounds: int, peak: MatrixPeak
) -> list[dict[str, Any]]:
    """Times every system with every batch, after one untimed run of each on a short clip.

    Returns:
        One record for each batch, operation and system.
    """
    arithmetic = {system.baseline: Arithmetic(system.config) for system in systems if system.config is not None}
    records = []
    with torch.inference_mode():
        _warm_up(systems, clips(audio, WARM_UP_S))
        for batch in batches:
            peak.measure()
            clip = clips(audio, batch.seconds, batch.size)
            present = [system for system in systems if batch.audio_s <= system.max_audio_s]
            encoded: dict[str, Any] = {}
            for operation in ("encode", "decode"):
                print(f"{operation}: {batch.size} x {batch.seconds:g} s", file=sys.stderr, flush=True)
                functions = _calls(operation, present, clip, encoded)
                least = {system.name: system.min_rounds for system in present}
                times = in_rounds(functions, num_rounds, PATIENCE_S, least)
                for system in (system for system in present if system.name in times):
                    own = times[system.name]
                    record = {
                        "system": system.name,
                        "operation": operation,
                        "audio_s": batch.seconds,
                        "batch_size": batch.size,
                        "wall_s": summary(own),
                        "times_real_time": significant(batch.audio_s / statistics.median(own)),
                        "speedup": speedup(own, times[system.baseline]),
                    }
                    if system.config is not None:
                        counted = arithmetic[system.baseline]
                        count = counted.encoding if operation == "encode" else counted.decoding
                        record["gflop_per_audio_s"] = significant(count(batch.seconds) / batch.seconds / 1e9)
                    records.append(record)
        peak.measure()
    _add_shares_of_peak(records, systems, peak)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--seconds", type=float, nargs="*", default=[10, 30, 60, 300], help="lengths of single clips")
    parser.add_argument("--batch", type=int, default=16, help="clips of the batch; 0 leaves it out")
    parser.add_argument("--batch-seconds", type=float, default=3, help="length of each clip of the batch")
    parser.add_argument("--rounds", type=int, default=4, help=f"rounds; a system leaves after {PATIENCE_S:g} s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    systems, peak = all_systems(), MatrixPeak()
    audio = read_recordings(arguments.audio)
    batches = [Batch(seconds) for seconds in sorted(arguments.seconds)]
    if arguments.batch:
        batches.append(Batch(arguments.batch_seconds, arguments.batch))
    measurements = measure(systems, audio, batches, arguments.rounds, peak)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "rounds": arguments.rounds,
            "patience_s": PATIENCE_S,
            "warm_up": f"one untimed run of each system on {WARM_UP_S:g} s",
            "weights": "random, seed 0",
            "codebooks": 1,
            "audio": described(arguments.audio, audio),
        },
        "baseline": BASELINE,
        "peak_gflop_per_s": peak.gflop_per_s(),
        "systems": {
            system.name: {
                "note": system.note,
                "num_parameters": system.num_parameters,
                "codes_per_second": system.codes_per_second,
                "kbps": round(system.codes_per_second * system.bits_per_code / 1000, 4),
                "dtype": system.dtype,
                "baseline": system.baseline,
            }
            for system in systems
        },
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def _calls(
    operation: str, systems: Sequence[System], clip: torch.Tensor, encoded: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    """What is timed; those that encode leave in `encoded` what the decoders take."""
    if operation == "decode":
        return {system.name: partial(system.decode, _codes(system, encoded)) for system in systems}

    def keep(name: str, encode: Callable[[torch.Tensor], Any]) -> None:
        encoded[name] = encode(clip)

    return {system.name: partial(keep, system.name, system.encode) for system in systems if system.encode is not None}


def _codes(system: System, encoded: dict[str, Any]) -> Any:
    return encoded[system.codes_of or system.name]


def _warm_up(systems: Sequence[System], clip: torch.Tensor) -> None:
    encoded: dict[str, Any] = {}
    for encode in _calls("encode", systems, clip, encoded).values():
        encode()
    for system in systems:
        _check(system, system.decode(_codes(system, encoded)), clip.shape[-1])


def _check(system: System, decoded: torch.Tensor, num_samples: int) -> None:
    """A run that fails quietly would be fast: the output must be a whole and finite waveform that is not silent."""
    # DAC gives back eight samples less than it got
    if decoded.shape[-1] < 0.99 * num_samples or not decoded.isfinite().all() or not decoded.any():
        raise RuntimeError(
            f"{system.name} gave shape {tuple(decoded.shape)} for {num_samples} samples, or silence, NaN or infinity:"
            " its time would mean nothing"
        )


def _add_shares_of_peak(records: list[dict[str, Any]], systems: Sequence[System], peak: MatrixPeak) -> None:
    dtypes = {system.name: system.dtype for system in systems}
    for record in records:
        if "gflop_per_audio_s" in record:
            rate = record["gflop_per_audio_s"] * 1e9 * record["times_real_time"]
            record["share_of_peak"] = significant(rate / peak.best(dtypes[record["system"]]))


if __name__ == "__main__":
    main()
