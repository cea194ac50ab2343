"""The training loop: data, schedules, validation, logs and checkpoints around `GanStep`."""

import collections
import dataclasses
import json
import logging
import math
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from wavtokenizer_hf.audio.atomic import discard_partial, partial_path, recover, replacing_folder
from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCausalModel, WavTokenizerModel
from wavtokenizer_hf.training.checkpoint import (
    BEST,
    STATE,
    checkpoint_path,
    checkpoints,
    load_codec,
    load_discriminators,
    rotate,
    save_codec,
    save_discriminators,
    step_of,
)
from wavtokenizer_hf.training.clips import Clip, clip_weights, find_clips
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.dataset import CropDataset, collate, crop_length, failure_report
from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.gan import DivergenceError
from wavtokenizer_hf.training.initialisation import initialise_from_data
from wavtokenizer_hf.training.optimizers import make_gan_step
from wavtokenizer_hf.training.report import write_training_report
from wavtokenizer_hf.training.runlog import RunLog, RunningMeans
from wavtokenizer_hf.training.sampler import EpochSampler
from wavtokenizer_hf.training.state import is_finite, load_training_state
from wavtokenizer_hf.training.steps import Generator
from wavtokenizer_hf.training.validation import Example, Validation, pitch_is_missing, validate

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
# Clips that the encoder's start from data looks at.
_INITIAL_CLIPS = 64
_STOPPING = (signal.SIGINT, signal.SIGTERM)
# Several processes agree this often on whether to stop.
_AGREE_EVERY = 10


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


class Trainer:
    """Trains a codec into a folder.

    What is random in a step follows from the seed, the step and the process alone, so that a run which was killed and
    goes on from its last checkpoint does what it would have done.

    Args:
        config: What to train, on what, and how.
        run: The run's folder: `config.yaml`, `log.jsonl`, `checkpoints/step-…`, `best`, the tracker's files.
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
        self.run = run
        self.accelerator = Accelerator(
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            log_with=None if config.tracker == "none" else config.tracker,
            project_dir=run,
        )
        self._check_folder(is_resuming)
        torch.manual_seed(config.seed)
        model, discriminators = self._start_model(is_resuming)
        self.codec_config = model.config
        self.training_clips, self.validation_clips = self._find_clips()
        self._make_data()
        if config.data_dependent_init and config.init_from is None and not is_resuming:
            initialise_from_data(model.encoder_model.encoder, self._first_clips())
        generator = Generator(model, config.trains_encoder)
        if config.compile:
            model.encoder_model.encoder.compile()
            model.backbone.compile()
        self.averaged = None
        if config.ema_decay is not None:
            self.averaged = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False
            )
        self.gan, self.schedulers = make_gan_step(config, self.accelerator, generator, discriminators)
        self.generator: Any = self.gan.generator
        self.discriminators: Any = self.gan.discriminators
        self.learner = self.gan.learner
        self.progress, means = Progress(), RunningMeans()
        registered = [self.progress, means, *self.schedulers]
        if self.averaged is not None:
            registered.append(self.averaged.to(self.accelerator.device))
        self.accelerator.register_for_checkpointing(*registered)
        if is_resuming:
            newest = checkpoints(run)[-1]
            load_training_state(
                newest / STATE,
                self.accelerator,
                [module for module in (self.generator, self.discriminators) if module is not None],
                [one for one in (self.gan.generator_optimizer, self.gan.discriminator_optimizer) if one is not None],
                registered,
            )
            if self.progress.step != step_of(newest):
                raise ValueError(
                    f"{newest} holds the state of step {self.progress.step}; go on from another checkpoint"
                )
            self._say(f"going on from {newest}")
        self._prepare_folder()
        self.log = RunLog(
            self.accelerator,
            run,
            config,
            means,
            start_step=self.progress.step,
            sampling_rate=self.codec_config.sampling_rate,
        )
        self.stopped_by: int | None = None
        self._num_pitch_clips = config.data.max_pitch_clips
        if self._num_pitch_clips and (reason := pitch_is_missing()):
            self._num_pitch_clips = 0
            self._say(f"validation leaves out pitch and voicing: {reason}")
        self._examples: Sequence[Example] = ()

    # ------------------------------------------------------------------------------------------------------- setup

    def _check_folder(self, is_resuming: bool) -> None:
        has_checkpoint = bool(checkpoints(self.run))
        if is_resuming and not has_checkpoint:
            raise FileNotFoundError(f"{self.run} holds no checkpoint to go on from; start without resuming")
        # A run that was killed before its first checkpoint may start over.
        is_new = not has_checkpoint and (self.run / CONFIG_FILE).is_file()
        if not (is_resuming or is_new) and self.run.is_dir() and any(self.run.iterdir()):
            raise FileExistsError(f"{self.run} is not empty; resume the run in it, or name another folder")

    def _prepare_folder(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (self.run / "checkpoints").mkdir(parents=True, exist_ok=True)
            for folder in (self.run, self.run / "checkpoints"):
                discard_partial(folder)
            recover(self.run / BEST)
            (self.run / CONFIG_FILE).write_text(yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        self.accelerator.wait_for_everyone()

    def _start_model(self, is_resuming: bool) -> tuple[WavTokenizerModel, Discriminators | None]:
        config = self.config
        discriminators = None
        if config.init_from is not None:
            # What a run once started from may be gone when it goes on.
            source = str(checkpoints(self.run)[-1]) if is_resuming else config.init_from
            model = load_codec(source)
            if config.is_causal and not model.config.is_causal:
                raise ValueError(f"`is_causal` is for new codecs, and {source} is not causal; leave it out")
            if Path(source).is_dir():
                discriminators = load_discriminators(Path(source))
                self._say(f"discriminators: {'restored' if discriminators else 'none there, starting new ones'}")
        elif not (config.trains_encoder and config.trains_codebook):
            raise ValueError(
                "without `trains_encoder` or `trains_codebook`, a new codec would keep random ones; say what to start "
                "from: init_from=FOLDER"
            )
        elif config.is_causal:
            model = WavTokenizerCausalModel(WavTokenizerCausalConfig(**config.model))
        else:
            model = WavTokenizerModel(WavTokenizerConfig(**config.model))
        model.train()
        if config.discriminator_start_step >= config.max_steps:
            return model, None
        discriminators = discriminators or Discriminators(config.discriminators)
        if discriminators.config.num_bandwidths < model.config.adanorm_num_embeddings:
            raise ValueError(
                f"the codec has {model.config.adanorm_num_embeddings} bandwidth ids, its discriminators tell apart "
                f"{discriminators.config.num_bandwidths}; set `discriminators.num_bandwidths` alike"
            )
        return model, discriminators

    def _find_clips(self) -> tuple[list[Clip], list[Clip]]:
        data = self.config.data
        if not data.train:
            raise ValueError("there is nothing to train on: give `data.train` a folder or a manifest")
        clips = find_clips(data.train)
        if data.validation:
            held_out = find_clips(data.validation)
        else:
            held_out = clips[:: data.holdout_every]
            clips = [clip for index, clip in enumerate(clips) if index % data.holdout_every]
            if not clips:
                raise ValueError(
                    f"every one of {len(held_out)} clips is held out for validation; lower `data.holdout_every` or "
                    "name `data.validation`"
                )
        stride = max(1, -(-len(held_out) // data.max_validation_clips))
        return clips, held_out[::stride]

    def _make_data(self) -> None:
        config, codec = self.config, self.codec_config
        data, accelerator = config.data, self.accelerator
        self.crop_samples = crop_length(data.crop_s, codec.sampling_rate, codec.hop_length)
        weights = clip_weights(self.training_clips, data.weights, data.length_power)
        self.dataset = CropDataset(
            self.training_clips,
            sampling_rate=codec.sampling_rate,
            crop_samples=self.crop_samples,
            seed=config.seed,
            peak_db=data.peak_db,
            max_clip_s=data.max_clip_s,
            weights=weights,
            cache_mb=data.cache_mb,
            allow_incomplete=data.allow_incomplete,
        )
        self.sampler, self.initial_sampler = (
            EpochSampler(
                len(self.training_clips),
                config.batch_size,
                seed=seed,
                num_processes=accelerator.num_processes,
                process_index=accelerator.process_index,
                weights=weights,
            )
            for seed in (config.seed, config.seed + 1)
        )
        self.validation_set = CropDataset(
            self.validation_clips,
            sampling_rate=codec.sampling_rate,
            crop_samples=crop_length(data.validation_s, codec.sampling_rate, codec.hop_length),
            seed=config.seed,
            is_training=False,
            max_clip_s=max(data.max_clip_s, data.validation_s + 1),
            allow_incomplete=data.allow_incomplete,
        )

    def _say(self, message: str) -> None:
        if self.accelerator.is_main_process:
            logger.info(message)

    @property
    def model(self) -> WavTokenizerModel:
        """The codec that is being trained."""
        generator: Generator = self.accelerator.unwrap_model(self.generator)
        return generator.model

    @property
    def final_model(self) -> WavTokenizerModel:
        """The codec to validate and to keep: the moving average of the weights where there is one."""
        if self.averaged is None:
            return self.model
        averaged: Any = self.averaged.module
        for ours, theirs in zip(averaged.buffers(), self.model.buffers(), strict=True):
            ours.copy_(theirs)
        return averaged

    # -------------------------------------------------------------------------------------------------------- loop

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
                batches = self._batches()
                while progress.step < config.max_steps:
                    if self._should_stop(started, stop_after_s):
                        break
                    self._seed_step()
                    uses_quantizer = progress.step >= config.quantizer_start_step
                    if uses_quantizer and self.learner is not None and not self.learner.is_started:
                        self._start_codebook()
                    losses = self.gan(
                        [next(batches) for _ in range(config.accumulation_steps)],
                        self._bandwidth_ids(),
                        step=progress.step,
                        uses_quantizer=uses_quantizer,
                        uses_discriminators=self._uses_discriminators,
                    )
                    self._move_schedules()
                    if self.averaged is not None:
                        self.averaged.update_parameters(self.model)
                    progress.step += 1
                    self.log.step(progress.step, losses, self._step_seconds, self._logged_state())
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
            failures = failure_report(progress.failures)
            if progress.failures:
                logger.warning(failures)
            page = write_training_report(
                self.run,
                config,
                self._examples,
                sampling_rate=self.codec_config.sampling_rate,
                failures=failures,
            )
            self._say(f"report: {page}")
        return progress

    @property
    def _uses_discriminators(self) -> bool:
        return self.discriminators is not None and self.progress.step >= self.config.discriminator_start_step

    @property
    def _used_quantizer(self) -> bool:
        """Whether the decoder heard quantized latents in the last step."""
        return self.progress.step > self.config.quantizer_start_step

    @property
    def _step_seconds(self) -> float:
        """Seconds of audio in a step, over all processes."""
        config = self.config
        clips = config.batch_size * config.accumulation_steps * self.accelerator.num_processes
        return clips * self.crop_samples / self.codec_config.sampling_rate

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches from where the run stands, epoch after epoch, on the device."""
        progress = self.progress
        while True:
            self.sampler.set_epoch(progress.epoch, progress.batch)
            for batch in self._loader(self.sampler):
                progress.batch += 1
                progress.failures.update(batch.pop("failures"))
                yield self._on_device(batch)
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _loader(self, sampler: EpochSampler) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.config.data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # its own: an iterator draws from it when it starts
            worker_init_fn=_leave_signals_to_trainer,
        )

    def _on_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = dict(batch, input_values=batch["input_values"].to(self.accelerator.device, non_blocking=True))
        if not self.config.data.uses_cutoff:
            del batch["cutoff_hz"]
        return batch

    def _seed_step(self) -> None:
        place = np.random.SeedSequence((self.config.seed, self.progress.step, self.accelerator.process_index))
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def _bandwidth_ids(self) -> tuple[int, int]:
        """One id for each pass, the same in all processes."""
        draw = random.Random(f"{self.config.seed} {self.progress.step}")
        size = self.codec_config.adanorm_num_embeddings
        return draw.randrange(size), draw.randrange(size)

    def _move_schedules(self) -> None:
        self.schedulers[0].step()
        if self._uses_discriminators:
            self.schedulers[1].step()

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
        before = {number: signal.signal(number, ask) for number in _STOPPING}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    # ------------------------------------------------------------------------------------------- starts from data

    def _first_clips(self) -> torch.Tensor:
        """Training crops, the same in every process: (B, 1, T)."""
        step = max(1, len(self.training_clips) // _INITIAL_CLIPS)
        items = [self.dataset[index] for index in range(0, len(self.training_clips), step)]
        return torch.stack([item["input_values"] for item in items[:_INITIAL_CLIPS]])

    @torch.no_grad()
    def _start_codebook(self) -> None:
        """The k-means start, from clips in an order of their own."""
        assert self.learner is not None
        wanted = -(-self.learner.num_vectors_to_start // self.accelerator.num_processes)
        if self.config.legacy:
            wanted = 1  # the original takes what the first batch holds
        vectors: list[torch.Tensor] = []
        epoch = 0
        while sum(map(len, vectors)) < wanted:
            self.initial_sampler.set_epoch(epoch)
            for batch in self._loader(self.initial_sampler):
                with torch.compiler.set_stance("force_eager"):  # compiling anew for so few passes does not pay
                    seen = self.generator(self._on_device(batch)["input_values"], 0, uses_quantizer=False)
                vectors.append(seen.encoder_latents.float().transpose(1, 2).flatten(0, 1))  # (B, D, L) -> (B * L, D)
                if sum(map(len, vectors)) >= wanted:
                    break
            epoch += 1
        frames = self.crop_samples // self.codec_config.hop_length
        clips = self.config.batch_size * self.config.accumulation_steps * self.accelerator.num_processes
        self.learner.start(torch.cat(vectors), clips * frames)

    # ------------------------------------------------------------------------------------------ validate and save

    def _logged_state(self) -> dict[str, float]:
        state = {"generator/learning_rate": self.schedulers[0].get_last_lr()[0]}
        if self._uses_discriminators:
            state["discriminator/learning_rate"] = self.schedulers[1].get_last_lr()[0]
        return state

    def _validate(self) -> Validation:
        config, accelerator = self.config, self.accelerator
        result = validate(
            self.final_model,
            self.validation_set,
            accelerator,
            batch_size=config.batch_size,
            num_pictures=config.num_pictures,
            uses_cutoff=config.data.uses_cutoff,
            num_pitch_clips=self._num_pitch_clips,
            uses_quantizer=self._used_quantizer,
        )
        if not math.isfinite(result.mel):
            raise DivergenceError(self.progress.step, {"validation/mel": result.mel})
        self.log.validation(self.progress.step, result)
        self._examples = result.examples
        self.progress.failures.update(result.failures)
        # Whatever a codec could do without its quantizer, the first one with it is better.
        is_alike = self._used_quantizer == self.progress.is_best_quantized
        if result.mel < self.progress.best_mel if is_alike else self._used_quantizer:
            self.progress.best_mel = result.mel
            self.progress.is_best_quantized = self._used_quantizer
            if accelerator.is_main_process:
                with replacing_folder(self.run / BEST) as folder:
                    save_codec(folder, self.final_model)
                    (folder / "validation.json").write_text(
                        json.dumps({"step": self.progress.step, **result.figures}, indent=2) + "\n"
                    )
        accelerator.wait_for_everyone()
        return result

    def save(self) -> Path:
        """Writes a checkpoint whole or not at all, and drops the oldest."""
        for name, module in (("generator", self.generator), ("discriminator", self.discriminators)):
            if module is not None and not is_finite(module):
                raise DivergenceError(self.progress.step, {f"a weight of the {name}": math.nan})
        target = checkpoint_path(self.run, self.progress.step)
        is_main = self.accelerator.is_main_process
        with replacing_folder(target) if is_main else nullcontext(partial_path(target)) as staging:
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(staging / STATE))
            if is_main:
                save_codec(staging, self.final_model)
                if self.discriminators is not None:
                    save_discriminators(staging, self.accelerator.unwrap_model(self.discriminators))
            self.accelerator.wait_for_everyone()
        if is_main:
            rotate(self.run, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()
        return target


def _leave_signals_to_trainer(_worker: int) -> None:
    """Ctrl-C, and many a scheduler, signal a whole group; the last step still needs its batch."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
