"""How fast does the trainer teach, and in how much memory, beside the plainest loop over the same losses?

The geometry is that of the released 75-codes-a-second models with all discriminators at the original's size. The
plain loop does what a textbook does, and the original did: it runs the codec twice per batch, once for the
discriminators and once for itself, judges recordings and reconstructions in separate passes, and lets the codec's
gradients run into the discriminators. Each measurement is a process of its own, so that its peak memory is its own,
too; the order rotates from round to round, and a ratio is the median over rounds of the ratio within a round.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.precision import multiplies_bfloat16
from benchmarks.record import REPOSITORY, RESULTS, conditions, write_result
from wavtokenizer_hf import WavTokenizerConfig, WavTokenizerFeatureExtractor, WavTokenizerModel
from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.discriminators import DiscriminatorConfig, Discriminators
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.learner import CodebookConfig
from wavtokenizer_hf.training.losses import adversarial_losses, discriminator_losses, total
from wavtokenizer_hf.training.steps import Generator, reconstruction_losses

GEOMETRY = [8, 5, 4, 2]
BASELINE = "plain loop, float32"
DEFAULT_AUDIO = REPOSITORY / "conversion" / "LJ001-0002.flac"
LEARNING_RATE = 2e-4

Step = Callable[[torch.Tensor, int], Any]


def plain_loop(device: torch.device) -> Step:
    """Two forwards of the codec and three passes of the discriminators per batch, all gradients everywhere."""
    generator, discriminators, learner, optimizers = _parts(device)
    weights: Any = TrainingConfig().weights  # none of the defaults moves

    def step(audio: torch.Tensor, number: int) -> None:
        real = audio[:, 0]
        with torch.no_grad():
            fake = generator(audio, 0).audio_values
        optimizers[1].zero_grad()
        total(discriminator_losses(discriminators(real, 0), discriminators(fake, 0)), weights).backward()
        optimizers[1].step()
        reconstruction = generator(audio, 0)
        losses = reconstruction_losses(real, reconstruction, 24000, None, weights)
        losses |= adversarial_losses(discriminators(real, 0), discriminators(reconstruction.audio_values, 0))
        optimizers[0].zero_grad()
        total(losses, weights).backward()
        optimizers[0].step()
        learner.observe(reconstruction.encoder_latents, reconstruction.audio_codes)
        learner.update(number)

    return step


def trainer_step(precision: str) -> Callable[[torch.device], Step]:
    """What `wavtokenizer train` does per batch."""

    def build(device: torch.device) -> Step:
        accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        generator, discriminators, learner, optimizers = _parts(device)
        prepared: tuple[Any, Any, Any, Any] = accelerator.prepare(generator, discriminators, *optimizers)
        weights = TrainingConfig().weights
        gan = GanStep(accelerator, *prepared, learner=learner, weights=weights, sampling_rate=24000)
        return lambda audio, number: gan([{"input_values": audio}], (0, 0), step=number)

    return build


VARIANTS: dict[str, Callable[[torch.device], Step]] = {
    BASELINE: plain_loop,
    "trainer, float32": trainer_step("no"),
    "trainer, bfloat16": trainer_step("bf16"),
}


def _parts(device: torch.device) -> tuple[Generator, Discriminators, CodebookLearner, list[torch.optim.AdamW]]:
    torch.manual_seed(0)
    model: Any = WavTokenizerModel(WavTokenizerConfig(upsampling_ratios=GEOMETRY)).train()
    discriminators = Discriminators(DiscriminatorConfig()).to(device)
    generator = Generator(model).to(device)
    learner = CodebookLearner(model.encoder_model.quantizer.codebook, CodebookConfig())
    optimizers = [torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE) for module in (generator, discriminators)]
    return generator, discriminators, learner, optimizers


def measure_one(variant: str, audio: torch.Tensor, num_steps: int) -> dict[str, float]:
    """Seconds of audio a second, the median over steps after a first one; and the peak of memory."""
    device = audio.device
    step = VARIANTS[variant](device)
    times = []
    for number in range(num_steps + 1):
        start = time.perf_counter()
        step(audio, number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = audio.shape[0] * audio.shape[-1] / 24000
    on_device = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    in_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    return {
        "audio_s_per_s": seconds / statistics.median(times[1:]),
        "peak_memory_gb": (on_device or in_process) / 1e9,
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All variants in rounds, each time in a new process."""
    names = [name for name in VARIANTS if "bfloat16" not in name or multiplies_bfloat16(arguments.device)]
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            command = [sys.executable, "-m", "benchmarks.training", "--one", name, "--audio", str(arguments.audio)]
            for option in ("batch", "seconds", "steps", "threads", "device"):
                command += [f"--{option}", str(getattr(arguments, option))]
            ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
            seen[name].append(json.loads(ran.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {name}: {seen[name][-1]}", file=sys.stderr, flush=True)
    return [
        {
            "variant": name,
            **{
                key: {
                    "median": statistics.median(run[key] for run in runs),
                    "ratio_to_baseline": statistics.median(
                        run[key] / baseline[key] for run, baseline in zip(runs, seen[BASELINE], strict=True)
                    ),
                    "all": [round(run[key], 4) for run in runs],
                }
                for key in runs[0]
            },
        }
        for name, runs in seen.items()
    ]


def read_batch(path: Path, batch_size: int, seconds: float, device: torch.device) -> torch.Tensor:
    """Copies of a recording, repeated to the length that is wanted: (B, 1, T)."""
    clip = WavTokenizerFeatureExtractor()(str(path), resample=True, return_tensors="pt")["input_values"][0]
    num_samples = round(seconds * 75) * 320
    return clip.repeat(1, -(-num_samples // clip.shape[-1]))[:, :num_samples].repeat(batch_size, 1, 1).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="a recording")
    parser.add_argument("--batch", type=int, default=1, help="clips in a batch")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process, after a first one")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each process")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--one", choices=VARIANTS, help="measure this variant in this process, and print it")
    parser.add_argument("--name", default="training", help="the result file's name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        audio = read_batch(arguments.audio, arguments.batch, arguments.seconds, torch.device(arguments.device))
        print(json.dumps(measure_one(arguments.one, audio, arguments.steps)))
        return
    started_load = os.getloadavg()[0]
    measurements = measure(arguments)
    settings = {key: getattr(arguments, key) for key in ("batch", "seconds", "steps", "rounds", "device")}
    write_result(
        RESULTS / f"{arguments.name}.json",
        {**conditions(started_load), "settings": settings, "measurements": measurements},
    )


if __name__ == "__main__":
    main()
