"""What a run says while it runs: a bar, a log of its own, and the tracker."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wavtokenizer_hf.audio.atomic import replacing
from wavtokenizer_hf.evaluation.figures import DYNAMIC_RANGE_DB, mel_spectrogram_db
from wavtokenizer_hf.evaluation.report import QUIETEST_PEAK_DB
from wavtokenizer_hf.evaluation.tone import FrameTone, tone_warning
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.validation import Validation

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
# What stands beside the bar after the objective's losses, by what it is called there.
_SHOWN = {"validation/mel": "val", "codebook/perplexity": "perp"}


class RunningMeans:
    """Means of the losses over the steps since the log's last entry.

    They are part of every checkpoint, so that the first entry of a run that goes on covers all of its steps, too.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._num_steps: dict[str, int] = {}

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, value in losses.items():
            before = self._sums.get(name)
            self._sums[name] = value.detach() if before is None else before.to(value.device) + value.detach()
            self._num_steps[name] = self._num_steps.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means; counting starts anew."""
        means = {name: value.item() / self._num_steps[name] for name, value in self._sums.items()}
        self._sums, self._num_steps = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "num_steps": dict(self._num_steps)}

    def check_state_dict(self, state: Any) -> None:
        """Raises ValueError for anything else than what `state_dict` gives."""
        sums, num_steps = state["sums"], state["num_steps"]
        is_one = sums.keys() == num_steps.keys() and all(
            type(name) is str
            and isinstance(sums[name], torch.Tensor)
            and sums[name].ndim == 0
            and bool(sums[name].isfinite())
            and type(number) is int
            and number > 0
            for name, number in num_steps.items()
        )
        if not is_one:
            raise ValueError("it holds no sums of losses")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._num_steps = state["sums"], state["num_steps"]


class RunLog:
    """Writes the means of the steps' losses, and what validations find.

    Entries of `log.jsonl` and of TensorBoard past the step where a run goes on are dropped.

    Args:
        run: The run's folder.
        means: Of the steps since the last entry.
        start_step: Steps taken before.
        sampling_rate: Of the audio in Hz.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: Path,
        config: TrainingConfig,
        means: RunningMeans,
        *,
        start_step: int,
        sampling_rate: int,
    ):
        self.accelerator = accelerator
        self.path = run / LOG_FILE
        self.config = config
        self.sampling_rate = sampling_rate
        self._means = means
        self._seconds = 0.0
        self._since = time.monotonic()
        self._shown: dict[str, float] = {}
        self._short = {**config.objective_class.shown, **_SHOWN}
        if accelerator.is_main_process:
            self._drop_entries_past(start_step)
        if config.tracker == "tensorboard" and not is_tensorboard_available():
            raise ImportError(
                "The run's curves go to TensorBoard, which is not installed. Install it with: python -m pip install "
                "'wavtokenizer-hf[train]', or go without by tracker=none"
            )
        if config.tracker != "none":
            options = {"tensorboard": {"purge_step": start_step + 1}} if config.tracker == "tensorboard" else {}
            accelerator.init_trackers("tracker", init_kwargs=options)
        self._bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not (accelerator.is_local_main_process and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task("steps", total=config.max_steps, completed=start_step, figures="")

    def __enter__(self) -> "RunLog":
        self._bar.start()
        self._since = time.monotonic()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()
        self.accelerator.end_training()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes does not count for the throughput."""
        before = time.monotonic()
        yield
        self._since += time.monotonic() - before

    def step(self, step: int, losses: dict[str, torch.Tensor], seconds: float, state: dict[str, float]) -> None:
        """Counts a step in; every `log_every` steps the means go out.

        Args:
            seconds: Of audio in the step.
            state: What is logged as it stands now, such as learning rates.
        """
        self._means.add(losses)
        self._seconds += seconds
        self._bar.update(self._task, completed=step)
        if step % self.config.log_every and step != self.config.max_steps:
            return
        elapsed = time.monotonic() - self._since
        self.write(step, self._means.take() | state, {"audio_s_per_s": self._seconds / elapsed})
        self._seconds, self._since = 0.0, time.monotonic()

    def write(self, step: int, values: dict[str, float], timing: dict[str, float] | None = None) -> None:
        """Writes one entry to the run's log and the tracker.

        Args:
            timing: What differs between two equal runs.
        """
        entry = values | (timing or {})
        self.accelerator.log(entry, step=step)
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **entry}) + "\n")
        self._shown |= {short: entry[name] for name, short in self._short.items() if name in entry}
        if "audio_s_per_s" in entry:
            self._shown["s/s"] = entry["audio_s_per_s"]
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self._shown.items())
        self._bar.update(self._task, figures=figures)
        if self._bar.disable:
            logger.info("step %d  %s", step, figures)

    def validation(self, step: int, result: Validation) -> None:
        """Writes the figures of a validation and, to TensorBoard, sound and spectrograms."""
        self.write(step, result.figures)
        if (line := tone_warning(result.measures.get(FrameTone.name))) and self.accelerator.is_main_process:
            logger.warning("step %d: %s", step, line)
        if self.config.tracker != "tensorboard" or not self.accelerator.is_main_process:
            return
        writer: Any = self.accelerator.get_tracker("tensorboard").writer
        for index, example in enumerate(result.examples):
            pair = {"original": example.original, "reconstruction": example.reconstruction}
            for name, audio in pair.items():
                writer.add_audio(f"{index}/{name}", audio.clamp(-1, 1), step, sample_rate=self.sampling_rate)
                writer.add_image(f"{index}/{name}", self._spectrogram(audio), step)

    def _spectrogram(self, audio: torch.Tensor) -> np.ndarray:
        """Mel magnitudes, low frequencies at the bottom, from black at 80 dB below the peak: (1, M, L) in 0..1."""
        level_db = mel_spectrogram_db(audio.numpy(), self.sampling_rate)
        brightness = (level_db - max(level_db.max(), QUIETEST_PEAK_DB)) / DYNAMIC_RANGE_DB + 1
        return brightness.clip(0, 1)[None, ::-1].copy()

    def _drop_entries_past(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except ValueError:
                break  # a killed process leaves half a line at most
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
