"""The training loop: data, schedules, validation, logs and checkpoints around `GanStep`."""

import collections
import dataclasses
import json
import logging
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, reduce
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import AutoConfig
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from wavtokenizer_hf.configuration_wavtokenizer import WavTokenizerCausalConfig, WavTokenizerConfig
from wavtokenizer_hf.modeling_wavtokenizer import WavTokenizerCausalModel, WavTokenizerModel
from wavtokenizer_hf.training.checkpoint import (
    BEST,
    STATE,
    checkpoint_path,
    checkpoints,
    discard_partial,
    load_discriminators,
    partial_path,
    replacing_folder,
    rotate,
    save_codec,
    save_discriminators,
)
from wavtokenizer_hf.training.clips import Clip, clip_weights, find_clips
from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.config import TrainingConfig
from wavtokenizer_hf.training.dataset import CropDataset, collate, crop_length, failure_report
from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.initialisation import initialise_from_data
from wavtokenizer_hf.training.report import write_training_report
from wavtokenizer_hf.training.runlog import RunLog
from wavtokenizer_hf.training.sampler import EpochSampler
from wavtokenizer_hf.training.steps import Generator
from wavtokenizer_hf.training.validation import Example, Validation, validate

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
# Clips that the encoder's start from data looks at.
_INITIAL_CLIPS = 64
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
        failures: How often each clip could not be read.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_mel: float = float("inf")
    failures: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.failures = collections.Counter(self.failures)


class Trainer:
    """Trains a codec into a folder.

    What is random in a step follows from the seed, the step and the process alone, so that a run which was killed and
    goes on from its last checkpoint does what it would have done.

    Args:
        config: What to train, on what, and how.
        run: The run's folder: `config.yaml`, `log.jsonl`, `checkpoints/step-…`, `best`, the tracker's files.
        is_resuming: Whether to go on from the newest checkpoint of `run`.

    Raises:
        FileExistsError: If `run` holds something and is not to be resumed.
        FileNotFoundError: If data is missing.
        ValueError: If the configuration and the data do not go together.
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
        model, discriminators = self._start_model()
        self.codec_config = model.config
        self.training_clips, self.validation_clips = self._find_clips()
        self._make_data()
        if config.data_dependent_init and config.init_from is None:
            initialise_from_data(model.encoder_model.encoder, self._first_clips())
        self.generator: Any = Generator(model, config.trains_encoder)
        if config.compile:
            model.encoder_model.encoder.compile()
            model.backbone.compile()
        self.averaged = None
        if config.ema_decay is not None:
            self.averaged = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False
            )
        self._make_optimizers(discriminators)
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.progress, *self.schedulers)
        if self.averaged is not None:
            self.averaged.to(self.accelerator.device)
            self.accelerator.register_for_checkpointing(self.averaged)
        if is_resuming:
            newest = checkpoints(run)[-1]
            self.accelerator.load_state(newest / STATE)
            logger.info("going on from %s", newest)
        self.log = RunLog(
            self.accelerator, run, config, start_step=self.progress.step, sampling_rate=self.codec_config.sampling_rate
        )
        self._is_asked_to_stop = False
        self._examples: Sequence[Example] = ()

    # ------------------------------------------------------------------------------------------------------- setup

    def _check_folder(self, is_resuming: bool) -> None:
        is_main = self.accelerator.is_main_process
        if is_resuming and not checkpoints(self.run):
            raise FileNotFoundError(f"{self.run} holds no checkpoint to go on from; start without resuming")
        if not is_resuming and is_main and self.run.is_dir() and any(self.run.iterdir()):
            raise FileExistsError(f"{self.run} is not empty; resume the run in it, or name another folder")
        self.accelerator.wait_for_everyone()
        if is_main:
            self.run.mkdir(parents=True, exist_ok=True)
            discard_partial(self.run)
            (self.run / CONFIG_FILE).write_text(yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        self.accelerator.wait_for_everyone()

    def _start_model(self) -> tuple[WavTokenizerModel, Discriminators | None]:
        config = self.config
        discriminators = None
        if config.init_from is not None:
            source = AutoConfig.from_pretrained(config.init_from)
            model_class = WavTokenizerCausalModel if source.is_causal else WavTokenizerModel
            model = model_class.from_pretrained(config.init_from, dtype=torch.float32)
            if Path(config.init_from).is_dir():
                discriminators = load_discriminators(Path(config.init_from))
                logger.info("discriminators: %s", "restored" if discriminators else "none there, starting new ones")
        elif config.is_causal:
            model = WavTokenizerCausalModel(WavTokenizerCausalConfig(**config.model))
        else:
            model = WavTokenizerModel(WavTokenizerConfig(**config.model))
        model.train()
        if config.discriminator_start_step >= config.max_steps:
            return model, None
        return model, discriminators or Discriminators(config.discriminators)

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
        weights = clip_weights(self.training_clips, data.weights)
        self.dataset = CropDataset(
            self.training_clips,
            sampling_rate=codec.sampling_rate,
            crop_samples=self.crop_samples,
            seed=config.seed,
            peak_db=data.peak_db,
            max_clip_s=data.max_clip_s,
            weights=weights,
            cache_mb=data.cache_mb,
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
        )

    def _make_optimizers(self, discriminators: Discriminators | None) -> None:
        config = self.config.optimizer
        settings: Any = {"betas": config.betas, "weight_decay": config.weight_decay}
        trained = [parameter for parameter in self.generator.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=config.learning_rate, **settings)
        self.schedulers = [self._schedule(optimizer)]
        self.generator, self.generator_optimizer = self.accelerator.prepare(self.generator, optimizer)
        self.discriminators: Any = None
        self.discriminator_optimizer: Any = None
        if discriminators is not None:
            taught = [
                parameter
                for name, parameter in discriminators.named_parameters()
                if not (self.config.legacy and name.startswith("multi_band."))
            ]
            rate = config.discriminator_learning_rate or config.learning_rate
            optimizer = AdamW(taught, lr=rate, **settings)
            self.schedulers.append(self._schedule(optimizer, self.config.discriminator_start_step))
            self.discriminators, self.discriminator_optimizer = self.accelerator.prepare(discriminators, optimizer)
        self.learner = None
        if self.config.trains_codebook:
            self.learner = CodebookLearner(self.model.encoder_model.quantizer.codebook, self.config.codebook)
        self.gan = GanStep(
            self.accelerator,
            self.generator,
            self.discriminators,
            self.generator_optimizer,
            self.discriminator_optimizer,
            self.learner,
            weights=self.config.weights,
            sampling_rate=self.codec_config.sampling_rate,
            max_grad_norm=config.max_grad_norm,
            legacy=self.config.legacy,
        )

    def _schedule(self, optimizer: AdamW, start_step: int = 0) -> Any:
        """Cosine from the highest rate to the final share of it, after a warm-up."""
        steps = max(self.config.max_steps - start_step, 1)
        settings = self.config.optimizer
        return get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, settings.warmup_steps, steps, min_lr_rate=settings.final_share
        )

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
        """
        config, progress = self.config, self.progress
        started = time.monotonic()
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
                    progress.step += 1
                    self.log.step(progress.step, losses, self._step_seconds, self._logged_state())
                    if progress.step % config.validate_every == 0 or progress.step == config.max_steps:
                        self._validate()
                    is_saved = progress.step % config.checkpoint_every == 0 or progress.step == config.max_steps
                    if is_saved:
                        self.save()
                if not is_saved and progress.step:
                    self.save()
        finally:
            restore()
        if self.accelerator.is_main_process and progress.step:
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
            logger.info("report: %s", page)
        return progress

    @property
    def _uses_discriminators(self) -> bool:
        return self.discriminators is not None and self.progress.step >= self.config.discriminator_start_step

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
        )

    def _on_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = dict(batch, input_values=batch["input_values"].to(self.accelerator.device, non_blocking=True))
        if not self.config.data.uses_cutoff:
            del batch["cutoff_hz"]
        return batch

    def _seed_step(self) -> None:
        torch.manual_seed(hash((self.config.seed, self.progress.step, self.accelerator.process_index)) % 2**63)

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
        if self.accelerator.num_processes == 1:
            return is_over or self._is_asked_to_stop
        if self.progress.step % _AGREE_EVERY:
            return False
        votes = torch.tensor(float(is_over or self._is_asked_to_stop), device=self.accelerator.device)
        return bool(reduce(votes) > 0)

    def _stop_on_signals(self):
        def ask(*_arguments: object) -> None:
            self._is_asked_to_stop = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}

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
        )
        self.log.validation(self.progress.step, result)
        self._examples = result.examples
        if result.mel < self.progress.best_mel:
            self.progress.best_mel = result.mel
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
        target = checkpoint_path(self.run, self.progress.step)
        staging = partial_path(target)
        is_main = self.accelerator.is_main_process
        if is_main:
            staging.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(staging / STATE))
        if is_main:
            save_codec(staging, self.final_model)
            if self.discriminators is not None:
                save_discriminators(staging, self.accelerator.unwrap_model(self.discriminators))
        self.accelerator.wait_for_everyone()
        if is_main and not target.exists():
            staging.rename(target)
            rotate(self.run, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()
        return target
