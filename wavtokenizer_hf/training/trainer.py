"""The loop of a run: steps of its objective, schedules, validations, log and checkpoints."""

import logging
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.data_plan import STOPPING, DataPlan
from wavtokenizer_hf.training.dataset import failure_report
from wavtokenizer_hf.training.optimizers import DivergenceError
from wavtokenizer_hf.training.report import write_training_report
from wavtokenizer_hf.training.run_folder import Progress, RunFolder
from wavtokenizer_hf.training.runlog import RunLog, RunningMeans
from wavtokenizer_hf.training.state import is_finite
from wavtokenizer_hf.training.validation import Example, Validation, pitch_is_missing

logger = logging.getLogger(__name__)

# Several processes agree this often on whether to stop.
_AGREE_EVERY = 10


class Trainer:
    """Trains a model into a folder.

    What is random in a step follows from the seed, the step and the process alone, so that a run which was killed and
    goes on from its last checkpoint does what it would have done.

    Args:
        config: What to train, on what, and how.
        run: The run's folder; see `RunFolder`.
        is_resuming: Whether to go on from the newest checkpoint of `run`.

    Attributes:
        stopped_by: Number of the signal that ended `train` early, if one did.

    Raises:
        FileExistsError: If `run` holds something and is not to be resumed.
        FileNotFoundError: If data, the codec to start from or the checkpoint to go on from is missing.
        ValueError: If the configuration, the codec and the data do not go together, or the checkpoint is not one of
            such a run. Nothing is written then.
    """

    def __init__(self, config: TrainingConfig, run: Path, is_resuming: bool = False):
        self.config = config
        self.accelerator = Accelerator(
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            log_with=None if config.tracker == "none" else config.tracker,
            project_dir=run,
        )
        self.folder = RunFolder(run, self.accelerator, is_resuming)
        torch.manual_seed(config.seed)
        is_new = config.init_from is None
        # What a run once started from may be gone when it goes on.
        source = str(self.folder.newest) if is_resuming and not is_new else config.init_from
        self.objective = config.objective_class(config, self.accelerator, source)
        self.model: Any = self.objective.model
        told = self.model.config
        self.data = DataPlan(config, self.accelerator, sampling_rate=told.sampling_rate, hop_length=told.hop_length)
        if config.data_dependent_init and is_new and not is_resuming:
            self.objective.initialise(self.data.first_clips())
        self.averaged = None
        if config.ema_decay is not None:
            averaging = get_ema_multi_avg_fn(config.ema_decay)
            self.averaged = AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=False)
        self.objective.prepare()
        self.progress, means = Progress(), RunningMeans()
        others = [means, *self.objective.schedules.values()]
        if self.averaged is not None:
            others.append(self.averaged.to(self.accelerator.device))
        self.accelerator.register_for_checkpointing(self.progress, *others)
        if is_resuming:
            moved = [*self.objective.modules.values()], [*self.objective.optimizers.values()]
            self.folder.restore(*moved, self.progress, others)
            self._say(f"going on from {self.folder.newest}")
        self.folder.prepare(config)
        self.log = RunLog(
            self.accelerator,
            run,
            config,
            means,
            start_step=self.progress.step,
            sampling_rate=told.sampling_rate,
        )
        self.stopped_by: int | None = None
        self._num_pitch_clips = config.data.max_pitch_clips
        if self._num_pitch_clips and (reason := pitch_is_missing()):
            self._num_pitch_clips = 0
            self._say(f"validation leaves out pitch and voicing: {reason}")
        self._examples: Sequence[Example] = ()

    @property
    def final_model(self) -> Any:
        """The model to validate and to keep: the moving average of the weights where there is one."""
        if self.averaged is None:
            return self.model
        averaged: Any = self.averaged.module
        for ours, theirs in zip(averaged.buffers(), self.model.buffers(), strict=True):
            ours.copy_(theirs)
        return averaged

    def train(self, stop_after_s: float | None = None) -> Progress:
        """Runs to the last step, or until it is told to stop; either way it ends with a checkpoint.

        Args:
            stop_after_s: Stop after so many seconds; `None` runs to the end. SIGTERM and SIGINT stop it, too.

        Raises:
            DivergenceError: If a loss, a gradient or a weight is not finite. The checkpoints are then those of before.
        """
        config, progress = self.config, self.progress
        started, first_step = time.monotonic(), progress.step
        restore = self._stop_on_signals()
        is_saved = False
        try:
            with self.log:
                batches = self.data.batches(progress)
                while progress.step < config.max_steps:
                    if self._should_stop(started, stop_after_s):
                        break
                    self._seed_step()
                    self.objective.start(progress.step, self.data)
                    parts = [next(batches) for _ in range(config.accumulation_steps)]
                    losses = self.objective(parts, progress.step)
                    for name in self.objective.taught_at(progress.step):
                        self.objective.schedules[name].step()
                    if self.averaged is not None:
                        self.averaged.update_parameters(self.model)
                    progress.step += 1
                    self.log.step(progress.step, losses, self.data.seconds_per_step, self._learning_rates())
                    is_last = progress.step == config.max_steps
                    is_saved = is_last or progress.step % config.checkpoint_every == 0
                    with self.log.paused():
                        if is_last or progress.step % config.validate_every == 0:
                            self._validate()
                        if is_saved:
                            self.save()
                if not is_saved and progress.step > first_step:
                    self.save()
        finally:
            restore()
        if self.accelerator.is_main_process and progress.step > first_step:
            self._report()
        return progress

    def save(self) -> Path:
        """Writes a checkpoint whole or not at all, and drops the oldest."""
        for name, module in self.objective.modules.items():
            if not is_finite(module):
                raise DivergenceError(self.progress.step, {f"a weight of the {name}": math.nan})

        def write(folder: Path) -> None:
            self.objective.save(folder, self.final_model)
            self.objective.save_beside(folder)

        return self.folder.save(self.progress.step, write, self.config.keep_checkpoints)

    def _say(self, message: str) -> None:
        if self.accelerator.is_main_process:
            logger.info(message)

    def _seed_step(self) -> None:
        place = np.random.SeedSequence((self.config.seed, self.progress.step, self.accelerator.process_index))
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def _learning_rates(self) -> dict[str, float]:
        names = self.objective.taught_at(self.progress.step)
        return {f"{name}/learning_rate": self.objective.schedules[name].get_last_lr()[0] for name in names}

    def _should_stop(self, started: float, stop_after_s: float | None) -> bool:
        is_over = stop_after_s is not None and time.monotonic() - started > stop_after_s
        is_asked = self.stopped_by is not None
        if self.accelerator.num_processes == 1:
            return is_over or is_asked
        if self.progress.step % _AGREE_EVERY:
            return False
        votes = torch.tensor(float(is_over or is_asked), device=self.accelerator.device)
        return bool(reduce(votes) > 0)

    def _stop_on_signals(self):
        """Takes note of signals that ask to stop; the returned function gives them back."""

        def ask(number: int, _frame: object) -> None:
            self.stopped_by = number

        if threading.current_thread() is not threading.main_thread():
            return lambda: None  # only the main thread may
        before = {number: signal.signal(number, ask) for number in STOPPING}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _validate(self) -> Validation:
        progress = self.progress
        hears_codes = self.objective.hears_codes_at(progress.step - 1)
        result = self.objective.validate(
            self.final_model, self.data, hears_codes=hears_codes, num_pitch_clips=self._num_pitch_clips
        )
        if not math.isfinite(result.mel):
            raise DivergenceError(progress.step, {"validation/mel": result.mel})
        self.log.validation(progress.step, result)
        self._examples = result.examples
        progress.failures.update(result.failures)
        # Whatever a codec could do without its quantizer, the first one with it is better.
        is_alike = hears_codes == progress.is_best_quantized
        if result.mel < progress.best_mel if is_alike else hears_codes:
            progress.best_mel, progress.is_best_quantized = result.mel, hears_codes
            figures = {"step": progress.step, **result.figures}
            self.folder.save_best(lambda folder: self.objective.save(folder, self.final_model), figures)
        return result

    def _report(self) -> None:
        failures = failure_report(self.progress.failures)
        if self.progress.failures:
            logger.warning(failures)
        page = write_training_report(
            self.folder.path,
            self.config,
            self._examples,
            sampling_rate=self.data.sampling_rate,
            failures=failures,
        )
        self._say(f"report: {page}")
