"""What share of the codes is the same as in float32 when the model runs in bfloat16 or float16?

Three variants in each type. "whole model": loaded with `dtype=`. "weights only": weights rounded to the type,
arithmetic in float32, which tells the two causes apart. "decoder only": the encoder stays in float32, backbone and
head are cast. Beside the codes stands how far the decoder's waveform, made from the same codes, lies from that in
float32.
"""

import argparse
import csv
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, conditions, write_result
from wavtokenizer_hf import WavTokenizerFeatureExtractor, WavTokenizerModel, fingerprint
from wavtokenizer_hf.audio.files import find_files
from wavtokenizer_hf.evaluation.signal import snr_db

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Clip:
    """A recording, and what the model makes of it in float32."""

    name: str
    kind: str
    samples: torch.Tensor  # (1, 1, T)
    audio_codes: torch.Tensor  # (1, 1, L)
    decoded: torch.Tensor  # (1, 1, T'), from the first codes


def whole_model(folder: Path, dtype: torch.dtype) -> WavTokenizerModel:
    return WavTokenizerModel.from_pretrained(folder, dtype=dtype).eval()


def weights_only(folder: Path, dtype: torch.dtype) -> WavTokenizerModel:
    return whole_model(folder, dtype).float()


def decoder_only(folder: Path, dtype: torch.dtype) -> WavTokenizerModel:
    model = whole_model(folder, torch.float32)
    model.backbone.to(dtype)
    model.head.to(dtype)
    return model


VARIANTS: dict[str, Callable[[Path, torch.dtype], WavTokenizerModel]] = {
    "whole model": whole_model,
    "weights only": weights_only,
    "decoder only": decoder_only,
}


@torch.inference_mode()
def float32_clips(
    folder: Path, audio: Path, kinds: dict[str, str], max_seconds: float, max_decoded_seconds: float
) -> list[Clip]:
    """Encodes the beginning of every recording below `audio` in float32, and decodes the beginning of that."""
    model = whole_model(folder, torch.float32)
    feature_extractor = WavTokenizerFeatureExtractor.from_pretrained(folder)
    num_samples = round(max_seconds * feature_extractor.sampling_rate)
    clips = []
    for file in find_files([audio]):
        samples = feature_extractor(str(file.path), resample=True, return_tensors="pt")["input_values"]
        samples = samples[..., :num_samples]
        audio_codes = model.encode(samples)["audio_codes"]
        first_codes = audio_codes[..., : math.ceil(max_decoded_seconds * model.config.frame_rate)]
        decoded = model.decode(first_codes)["audio_values"]
        clips.append(
            Clip(file.relative.as_posix(), kinds.get(file.relative.as_posix(), "all"), samples, audio_codes, decoded)
        )
    return clips


@torch.inference_mode()
def agreement(model: WavTokenizerModel, clips: Sequence[Clip]) -> dict[str, Any]:
    """Share of equal codes over all clips and by kind, the clip with the lowest share, and the decoder's SNR."""
    num_codes: dict[str, int] = defaultdict(int)
    num_equal: dict[str, int] = defaultdict(int)
    shares: dict[str, float] = {}
    snrs_db = []
    for clip in clips:
        equal = int((model.encode(clip.samples)["audio_codes"] == clip.audio_codes).sum())
        for group in {"all", clip.kind}:
            num_codes[group] += clip.audio_codes.numel()
            num_equal[group] += equal
        shares[clip.name] = equal / clip.audio_codes.numel()
        first_codes = clip.audio_codes[..., : clip.decoded.shape[-1] // model.config.hop_length]
        snrs_db.append(snr_db(clip.decoded.flatten(), model.decode(first_codes)["audio_values"].flatten()))
    worst = min(shares, key=shares.__getitem__)
    return {
        "num_clips": len(clips),
        "num_codes": dict(num_codes),
        "num_equal": dict(num_equal),
        "share": {group: round(num_equal[group] / num_codes[group], 5) for group in num_codes},
        "lowest_clip": {"name": worst, "share": round(shares[worst], 5)},
        # infinite where the decoder is as in float32
        "decoder_snr_db": {"median": _finite(torch.tensor(snrs_db).median().item()), "min": _finite(min(snrs_db))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="folders of models")
    parser.add_argument(
        "--label", nargs="+", help="what to call each model in the result; its folder's name otherwise"
    )
    parser.add_argument("--audio", type=Path, required=True, help="a folder of recordings")
    parser.add_argument(
        "--kinds", type=Path, help="a TSV file with the columns `file` and `kind`, to group the clips by"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--max-seconds", type=float, default=3.0, help="how much of each recording is encoded")
    parser.add_argument("--max-decoded-seconds", type=float, default=1.0, help="how much of that is decoded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "dtype_agreement.json")
    arguments = parser.parse_args()
    labels = arguments.label or [folder.name for folder in arguments.model]
    if len(labels) != len(arguments.model):
        parser.error(f"{len(arguments.model)} models need as many labels, got {len(labels)}")

    load = os.getloadavg()[0]
    torch.set_num_threads(arguments.threads)
    kinds = read_kinds(arguments.kinds) if arguments.kinds else {}
    models, measurements = {}, []
    for label, folder in zip(labels, arguments.model, strict=True):
        clips = float32_clips(folder, arguments.audio, kinds, arguments.max_seconds, arguments.max_decoded_seconds)
        reference = whole_model(folder, torch.float32)
        models[label] = {"codes_per_second": reference.config.frame_rate, "fingerprint": fingerprint(reference)}
        for dtype in arguments.dtypes:
            for variant, load_variant in VARIANTS.items():
                found = agreement(load_variant(folder, DTYPES[dtype]), clips)
                measurements.append({"model": label, "dtype": dtype, "variant": variant, **found})
                print(f"{label}, {dtype}, {variant}: {100 * found['share']['all']:.2f} % equal", flush=True)
    result = {
        "question": __doc__.partition("\n")[0],
        **conditions(load),
        "settings": {
            "audio": arguments.audio.name,
            "seconds_encoded": round(
                sum(clip.samples.shape[-1] for clip in clips) / reference.config.sampling_rate, 1
            ),
            "max_seconds": arguments.max_seconds,
            "max_decoded_seconds": arguments.max_decoded_seconds,
        },
        "models": models,
        "measurements": measurements,
    }
    write_result(arguments.out, result)
    print(f"wrote {arguments.out}; `python -m benchmarks.table` puts it into the documents")


def read_kinds(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["kind"] for row in csv.DictReader(file, delimiter="\t")}


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 2) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
