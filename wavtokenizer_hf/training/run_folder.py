"""What a run leaves on disk, and what it goes on from."""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from wavtokenizer_hf.audio.atomic import discard_partial, partial_path, recover, replacing_folder
from wavtokenizer_hf.training.checkpoint import BEST, STATE, checkpoint_path, checkpoints, rotate, step_of
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.state import load_training_state

CONFIG_FILE = "config.yaml"


@dataclasses.dataclass
class Progress:
    """Where a run stands; part of every checkpoint.

    Args:
        step: Steps taken.
        epoch: The epoch of the next batch.
        batch: Batches of that epoch that were taken.
        best_mel: Lowest validation loss so far.
        is_best_quantized: Whether it was reached through the quantizer.
        failures: How often each clip could not be read.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_mel: float = float("inf")
    is_best_quantized: bool = False
    failures: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def state_dict(self) -> dict[str, Any]:
        return vars(self) | {"failures": dict(self.failures)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state, failures=collections.Counter(state["failures"]))

    def check_state_dict(self, state: Any) -> None:
        """Raises ValueError for anything else than a state of this class, or one of before `is_best_quantized`."""
        expected = vars(Progress()).keys()
        if not isinstance(state, dict) or not expected - {"is_best_quantized"} <= state.keys() <= expected:
            raise ValueError("it does not say where a run stands")
        for name in ("step", "epoch", "batch"):
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"{name} must be a whole number, 0 or more, got {state[name]!r}")
        if type(state["best_mel"]) is not float or math.isnan(state["best_mel"]):
            raise ValueError(f"best_mel must be a number, got {state['best_mel']!r}")
        if type(state.get("is_best_quantized", False)) is not bool:
            raise ValueError(f"is_best_quantized must be true or false, got {state['is_best_quantized']!r}")
        counts = state["failures"]
        if not isinstance(counts, dict) or not all(
            type(line) is str and type(count) is int for line, count in counts.items()
        ):
            raise ValueError("failures must be lines and how often they came up")


class RunFolder:
    """The folder of a run: `config.yaml`, `log.jsonl`, `checkpoints/step-…`, `best`, the tracker's files.

    Nothing is written before `prepare`.

    Args:
        path: Where it lies, or shall lie.
        accelerator: Its processes wait for one another, and the main one writes.
        is_resuming: Whether the run goes on from its newest checkpoint.

    Raises:
        FileExistsError: If the folder holds something and is not to be resumed.
        FileNotFoundError: If there is no checkpoint to go on from.
    """

    def __init__(self, path: Path, accelerator: Accelerator, is_resuming: bool):
        self.path = path
        self.accelerator = accelerator
        has_checkpoint = bool(checkpoints(path))
        if is_resuming and not has_checkpoint:
            raise FileNotFoundError(f"{path} holds no checkpoint to go on from; start without resuming")
        # A run that was killed before its first checkpoint may start over.
        is_new = not has_checkpoint and (path / CONFIG_FILE).is_file()
        if not (is_resuming or is_new) and path.is_dir() and any(path.iterdir()):
            raise FileExistsError(f"{path} is not empty; resume the run in it, or name another folder")

    @property
    def newest(self) -> Path:
        """The checkpoint to go on from."""
        return checkpoints(self.path)[-1]

    def restore(
        self, modules: Sequence[Any], optimizers: Sequence[Any], progress: Progress, others: Sequence[Any]
    ) -> None:
        """Puts the state of the newest checkpoint back; see `load_training_state`."""
        load_training_state(self.newest / STATE, self.accelerator, modules, optimizers, [progress, *others])
        if progress.step != step_of(self.newest):
            raise ValueError(f"{self.newest} holds the state of step {progress.step}; go on from another checkpoint")

    def prepare(self, config: TrainingConfig) -> None:
        """Makes it ready, and writes what the run was told."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.path / "checkpoints"):
                discard_partial(folder)
            recover(self.path / BEST)
            (self.path / CONFIG_FILE).write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        self.accelerator.wait_for_everyone()

    def save(self, step: int, write: Callable[[Path], None], keep: int) -> Path:
        """Writes a checkpoint whole or not at all, and drops all but the newest `keep`.

        Args:
            write: Called by the main process with a folder, to add to the state what others can load.
        """
        target = checkpoint_path(self.path, step)
        is_main = self.accelerator.is_main_process
        with replacing_folder(target) if is_main else nullcontext(partial_path(target)) as staging:
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(staging / STATE))
            if is_main:
                write(staging)
            self.accelerator.wait_for_everyone()
        if is_main:
            rotate(self.path, keep)
        self.accelerator.wait_for_everyone()
        return target

    def save_best(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """Writes the best model and the figures of its validation in the place of the one before."""
        if self.accelerator.is_main_process:
            with replacing_folder(self.path / BEST) as folder:
                write(folder)
                (folder / "validation.json").write_text(json.dumps(figures, indent=2) + "\n")
        self.accelerator.wait_for_everyone()
