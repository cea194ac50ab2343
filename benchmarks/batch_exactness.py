"""What share of the codes of a padded batch is the same as of each clip alone?

Clips of many lengths, from half a frame up, are encoded one by one and in padded batches, in each type of numbers that
the device computes in. A batch may be summed up in another order than a clip, and a frame about as near to one code as
to another may then take the other one: on a CPU in float32 only if the two are a tie. How many codes of a clip
alone are those of float32 stands beside, to compare.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.precision import PRECISIONS, Precision, multiplies_bfloat16
from benchmarks.record import RESULTS, conditions, write_result
from benchmarks.recordings import DEFAULT_AUDIO, SAMPLING_RATE, described, read_recordings
from benchmarks.rounds import significant
from wavtokenizer_hf import WavTokenizerEncoderModel, fingerprint
from wavtokenizer_hf.checkpoints import DEFAULT, find_model

DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": tuple(PRECISIONS)}


def cut(audio: np.ndarray, num_clips: int, longest_s: float, shortest: int) -> list[torch.Tensor]:
    """Clips (T,) from anywhere in the looped audio, in any order; their lengths grow by one factor."""
    generator = np.random.default_rng(0)
    longest = round(longest_s * SAMPLING_RATE)
    lengths = generator.permutation(np.geomspace(shortest, longest, num_clips).round().astype(int))
    looped = np.resize(audio, len(audio) + longest)
    starts = generator.integers(0, len(audio), num_clips)
    return [torch.from_numpy(looped[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


@torch.inference_mode()
def encode_alone(model: WavTokenizerEncoderModel, clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Codes (L,) of each clip, on the CPU."""
    return [model.encode(clip[None, None].to(model.device))["audio_codes"][0, 0].cpu() for clip in clips]


@torch.inference_mode()
def encode_padded(
    model: WavTokenizerEncoderModel, clips: Sequence[torch.Tensor], batch_size: int
) -> list[torch.Tensor]:
    """Codes (L,) of each clip from batches that are padded to their longest clip, in the order of the clips."""
    codes = []
    for first in range(0, len(clips), batch_size):
        batch = list(clips[first : first + batch_size])
        input_values = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        lengths = torch.tensor([len(clip) for clip in batch])
        padding_mask = torch.arange(input_values.shape[1]) < lengths[:, None]
        output = model.encode(input_values[:, None].to(model.device), padding_mask.to(model.device))
        for row, mask in zip(output["audio_codes"].cpu(), output["audio_codes_mask"].cpu(), strict=True):
            codes.append(row[mask])
    return codes


def share_equal(codes: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Of all codes of all clips, and of the clip with the lowest share.

    Raises:
        ValueError: If the codes of two clips differ in number.
    """
    for number, (own, other) in enumerate(zip(codes, others, strict=True)):
        if own.shape != other.shape:
            raise ValueError(f"clip {number} has {len(own)} codes on the one side and {len(other)} on the other")
    equal = [(own == other).double() for own, other in zip(codes, others, strict=True)]
    return {
        "num_different": int(sum(len(each) - each.sum() for each in equal)),
        "share": significant(torch.cat(equal).mean().item()),
        "lowest_clip": significant(min(each.mean().item() for each in equal)),
    }


def measure(
    folder: str, precision: Precision, clips: Sequence[torch.Tensor], batch_size: int, device: torch.device
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The codes of clips alone and in batches."""
    model = WavTokenizerEncoderModel.from_pretrained(folder, dtype=precision.dtype).eval().to(device)
    with precision.in_use():
        return encode_alone(model, clips), encode_padded(model, clips, batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[DEFAULT], help="folders of models, or the package's checkpoint")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording, or a folder of them")
    parser.add_argument("--num-clips", type=int, default=64)
    parser.add_argument("--longest", type=float, default=10, help="seconds of the longest clip")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="the result's file; `results/batch_exactness_DEVICE.json` otherwise")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    audio = read_recordings(arguments.audio)
    models, measurements = {}, []
    for name in arguments.model:
        folder, label = find_model(name), Path(name).name
        model = WavTokenizerEncoderModel.from_pretrained(folder)
        clips = cut(audio, arguments.num_clips, arguments.longest, model.config.hop_length // 2)
        models[label] = {"codes_per_second": model.config.frame_rate, "fingerprint": fingerprint(model)}
        reference: list[torch.Tensor] | None = None
        for dtype in DTYPES[arguments.device]:
            if dtype == "bfloat16" and not multiplies_bfloat16(arguments.device):
                continue
            alone, padded = measure(
                folder, PRECISIONS[dtype], clips, arguments.batch_size, torch.device(arguments.device)
            )
            reference = alone if reference is None else reference
            measurements.append(
                {
                    "model": label,
                    "dtype": dtype,
                    "num_codes": sum(map(len, alone)),
                    "padded_as_alone": share_equal(padded, alone),
                    "alone_as_float32": share_equal(alone, reference),
                }
            )
            print(f"{label}, {dtype}: {measurements[-1]['padded_as_alone']}", flush=True)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load, arguments.device),
        "settings": {
            "audio": described(arguments.audio, audio),
            "num_clips": arguments.num_clips,
            "longest_s": arguments.longest,
            "batch_size": arguments.batch_size,
        },
        "models": models,
        "measurements": measurements,
    }
    path = arguments.out or RESULTS / f"batch_exactness_{arguments.device}.json"
    write_result(path, result)
    print(f"wrote {path}; `python -m benchmarks.table` puts it into the documents")


if __name__ == "__main__":
    main()
