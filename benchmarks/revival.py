"""Does the revival of unused entries raise the codebook's usage on real recordings?

The recipe `nano-75` without discriminators, trained for the same steps on the same crops from the same weights: with
revival, and with the original's arithmetic (`codebook.legacy`), in which revival has no effect. Usage, perplexity and
the mel loss are those of the validation clips at the end.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, conditions, write_result
from wavtokenizer_hf.training.config import load_config
from wavtokenizer_hf.training.runlog import LOG_FILE
from wavtokenizer_hf.training.trainer import Trainer

VARIANTS = {"with revival": [], "as the original (`codebook.legacy`)": ["codebook.legacy=true"]}


def measure_one(variant: str, arguments: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Trains one codebook and reads its last validation."""
    changes = [
        f"data.train=[{arguments.data}]",
        f"max_steps={arguments.steps}",
        f"validate_every={arguments.steps}",
        f"checkpoint_every={arguments.steps}",
        f"discriminator_start_step={arguments.steps}",
        f"batch_size={arguments.batch}",
        "log_every=1",
        "tracker=none",
        *VARIANTS[variant],
    ]
    Trainer(load_config("nano-75", changes), run).train()
    entries = [json.loads(line) for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    last = next(entry for entry in reversed(entries) if "validation/mel" in entry)
    return {
        "variant": variant,
        "usage": last["codebook/usage"],
        "perplexity": last["codebook/perplexity"],
        "mel": last["validation/mel"],
        "num_revived": sum(entry.get("codebook/revived", 0.0) for entry in entries),
        "num_clips": last["validation/num_clips"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="recordings: a folder or a manifest")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started_load = os.getloadavg()[0]
    measurements = []
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            measurements.append(measure_one(variant, arguments, Path(folder)))
        print(measurements[-1], flush=True)
    settings = {"steps": arguments.steps, "batch": arguments.batch, "num_clips": measurements[0]["num_clips"]}
    write_result(
        RESULTS / "revival.json",
        {**conditions(started_load), "settings": settings, "measurements": measurements},
    )


if __name__ == "__main__":
    main()
