"""How much audio passes through in a second, by batch size, type of numbers and compilation?

Batches of 10-s clips through the codec of 75 codes a second, as loaded and compiled, beside the plain path. Within a
round every variant runs once, in an order that rotates. Beside the times stands the GPU's memory that a call takes at
most, and a profile says where the time goes.
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
from torch import nn

from benchmarks.breakdown import breakdown
from benchmarks.plain import PlainCodec
from benchmarks.precision import PRECISIONS, Precision
from benchmarks.record import RESULTS, conditions, write_result
from benchmarks.recordings import DEFAULT_AUDIO, clips, described, read_recordings
from benchmarks.rounds import in_rounds, significant, summary, synchronise
from benchmarks.systems import RELEASED_75
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerModel

OPERATIONS = ("encode", "decode")
PROFILED = "float32", "bfloat16"


@dataclass(frozen=True)
class Variant:
    """A way to run the codec."""

    precision: Precision
    is_plain: bool = False
    is_compiled: bool = False


BASELINE = "plain path, float32"
VARIANTS = {
    BASELINE: Variant(PRECISIONS["float32"], is_plain=True),
    "plain path, TF32": Variant(PRECISIONS["TF32"], is_plain=True),
    **{name: Variant(precision) for name, precision in PRECISIONS.items()},
    **{f"{name}, compiled": Variant(precision, is_compiled=True) for name, precision in PRECISIONS.items()},
}


class VariantCodec:
    """The two operations of a variant, from tensor to tensor."""

    def __init__(self, variant: Variant, weights: WavTokenizerModel, backend: str):
        self.variant = variant
        self._calls: dict[str, Callable[[torch.Tensor], torch.Tensor]]
        self.model = WavTokenizerModel(weights.config).eval().to(weights.device)
        self.model.load_state_dict(weights.state_dict())
        if variant.is_plain:
            plain = PlainCodec(self.model)
            self._calls = {"encode": plain.encode, "decode": plain.decode}
            return
        self.model.to(variant.precision.dtype)
        encode, decode = self.model.encode, self.model.decode
        if variant.is_compiled:
            self.model.fuse()
            encode, decode = (torch.compile(each, backend=backend, dynamic=True) for each in (encode, decode))
        self._calls = {
            "encode": lambda audio: encode(audio).audio_codes,
            "decode": lambda codes: decode(codes).audio_values,
        }

    @torch.inference_mode()
    def run(self, operation: str, argument: torch.Tensor) -> torch.Tensor:
        with self.variant.precision.in_use():
            return self._calls[operation](argument)


def measure(
    codecs: dict[str, VariantCodec],
    audio: np.ndarray,
    seconds: float,
    batch_sizes: Sequence[int],
    num_rounds: int,
    device: torch.device,
    operations: Sequence[str] = OPERATIONS,
) -> list[dict[str, Any]]:
    """Times every variant with every batch, after one untimed run, in which it may compile.

    Returns:
        One record for each operation, batch size and variant; without times where the device's memory did not suffice.
    """
    records = []
    reference = codecs[BASELINE]
    for batch_size in batch_sizes:
        clip = clips(audio, seconds, batch_size).to(device)
        # One clip after the other: the whole batch may be too much for the plain path.
        codes = torch.cat([reference.run("encode", each[None]) for each in clip])
        for operation, argument in (("encode", clip), ("decode", codes)):
            if operation not in operations:
                continue
            print(f"{operation}: {batch_size} x {seconds:g} s", file=sys.stderr, flush=True)
            facts, functions = {}, {}
            for name, codec in codecs.items():
                facts[name] = _first_run(codec, operation, argument, device)
                if facts[name]["fits"]:
                    functions[name] = partial(codec.run, operation, argument)
            times = in_rounds(functions, num_rounds, device=device)
            for name in codecs:
                record = {"variant": name, "operation": operation, "batch_size": batch_size, **facts[name]}
                if name in times:
                    record["wall_s"] = summary(times[name])
                    audio_s = seconds * batch_size
                    record["audio_s_per_s"] = significant(audio_s / statistics.median(times[name]))
                records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[2**power for power in range(9)])
    parser.add_argument("--seconds", type=float, default=10, help="length of each clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--profile-batch", type=int, default=64, help="clips of the batch that is profiled")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="the result's file; `results/throughput_DEVICE.json` otherwise")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    weights = WavTokenizerModel(WavTokenizerConfig(upsampling_ratios=list(RELEASED_75))).eval().to(device)
    codecs = {
        name: VariantCodec(VARIANTS[name], weights, arguments.backend)
        for name in dict.fromkeys((BASELINE, *arguments.variants))
    }
    audio = read_recordings(arguments.audio)
    # Each variant compiles the same functions for a model of its own.
    with torch._dynamo.config.patch(recompile_limit=8 * len(VARIANTS)):
        measurements = measure(
            codecs, audio, arguments.seconds, arguments.batch_sizes, arguments.rounds, device, arguments.operations
        )
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load, device.type),
        "settings": {
            "clip_s": arguments.seconds,
            "rounds": arguments.rounds,
            "warm_up": "one untimed run of each variant with each batch",
            "weights": "random, seed 0",
            "compiler": arguments.backend,
            "audio": described(arguments.audio, audio),
        },
        "baseline": BASELINE,
        "measurements": measurements,
        "profile": {
            "batch_size": arguments.profile_batch,
            "of": {
                name: _breakdowns(codecs[name], audio, arguments.seconds, arguments.profile_batch, device)
                for name in PROFILED
                if name in codecs
            },
        },
    }
    path = arguments.out or RESULTS / f"throughput_{device.type}.json"
    write_result(path, result)
    print(f"wrote {path}; `python -m benchmarks.table` puts it into the documents")


def _first_run(codec: VariantCodec, operation: str, argument: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """Runs a variant once: whether the memory suffices, and how much of it a call takes."""
    facts: dict[str, Any] = {"fits": True}
    before = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    try:
        codec.run(operation, argument)
        synchronise(device)
    except torch.OutOfMemoryError:
        return {"fits": False}
    if device.type == "cuda":
        facts["peak_memory_gb"] = significant((torch.cuda.max_memory_allocated(device) - before) / 1e9)
    return facts


def _breakdowns(
    codec: VariantCodec, audio: np.ndarray, seconds: float, batch_size: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Of both operations."""
    clip = clips(audio, seconds, batch_size).to(device)
    codes = codec.run("encode", clip)
    return {
        operation: breakdown(partial(codec.run, operation, argument), _stages(codec.model, operation), device)
        for operation, argument in (("encode", clip), ("decode", codes))
    }


def _stages(model: WavTokenizerModel, operation: str) -> dict[str, list[nn.Module]]:
    if operation == "encode":
        encoder, quantizer = model.encoder_model.encoder, model.encoder_model.quantizer
        convolutions = [layer for layer in encoder.layers if layer is not encoder.lstm]
        return {"convolutions": convolutions, "LSTM": [encoder.lstm], "nearest code": [quantizer]}
    backbone = model.backbone
    return {
        "residual blocks and attention": [backbone.embed, *backbone.pos_net],
        "ConvNeXt blocks": [*backbone.convnext],
        "inverse STFT": [model.head],
    }


if __name__ == "__main__":
    main()
