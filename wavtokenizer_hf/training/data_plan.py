"""What a run trains and validates on, and in which batches that comes."""

import signal
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from wavtokenizer_hf.training.clips import Clip, clip_weights, find_clips
from wavtokenizer_hf.training.config import DataConfig, TrainingConfig
from wavtokenizer_hf.training.dataset import CropDataset, collate, crop_length
from wavtokenizer_hf.training.run_folder import Progress
from wavtokenizer_hf.training.sampler import EpochSampler

# Signals that ask a run to stop.
STOPPING = (signal.SIGINT, signal.SIGTERM)
# Clips that a start from data looks at.
_INITIAL_CLIPS = 64


class DataPlan:
    """The clips of a run, its crops, and its batches on the device.

    Args:
        config: Of the run.
        accelerator: Knows processes and the device.
        sampling_rate: Of the model, in Hz.
        hop_length: A crop has a whole number of these, in samples.

    Raises:
        FileNotFoundError: If data is missing.
        ValueError: If there is no clip to train on, or crops do not fit.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, *, sampling_rate: int, hop_length: int):
        data = config.data
        self.config, self.accelerator, self.sampling_rate = config, accelerator, sampling_rate
        self.training_clips, self.validation_clips = _find_clips(data)
        self.crop_samples = crop_length(data.crop_s, sampling_rate, hop_length)
        weights = clip_weights(self.training_clips, data.weights, data.length_power)
        self.training_set = CropDataset(
            self.training_clips,
            sampling_rate=sampling_rate,
            crop_samples=self.crop_samples,
            seed=config.seed,
            peak_db=data.peak_db,
            max_clip_s=data.max_clip_s,
            weights=weights,
            cache_mb=data.cache_mb,
            allow_incomplete=data.allow_incomplete,
        )
        self.validation_set = CropDataset(
            self.validation_clips,
            sampling_rate=sampling_rate,
            crop_samples=crop_length(data.validation_s, sampling_rate, hop_length),
            seed=config.seed,
            is_training=False,
            max_clip_s=max(data.max_clip_s, data.validation_s + 1),
            allow_incomplete=data.allow_incomplete,
        )
        self._sampler, self._starting_sampler = (
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

    @property
    def clips_per_step(self) -> int:
        """Over all processes."""
        return self.config.batch_size * self.config.accumulation_steps * self.accelerator.num_processes

    @property
    def seconds_per_step(self) -> float:
        """Seconds of audio in a step, over all processes."""
        return self.clips_per_step * self.crop_samples / self.sampling_rate

    def first_clips(self) -> torch.Tensor:
        """Training crops, the same in every process: (B, 1, T)."""
        step = max(1, len(self.training_clips) // _INITIAL_CLIPS)
        items = [self.training_set[index] for index in range(0, len(self.training_clips), step)]
        return torch.stack([item["input_values"] for item in items[:_INITIAL_CLIPS]])

    def batches(self, progress: Progress) -> Iterator[dict[str, torch.Tensor]]:
        """Batches from where the run stands, epoch after epoch."""
        while True:
            self._sampler.set_epoch(progress.epoch, progress.batch)
            for batch in self._loader(self._sampler):
                progress.batch += 1
                progress.failures.update(batch.pop("failures"))
                yield self._on_device(batch)
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def starting_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches in an order of their own, always from the first: for starts from data amid a run."""
        epoch = 0
        while True:
            self._starting_sampler.set_epoch(epoch)
            yield from map(self._on_device, self._loader(self._starting_sampler))
            epoch += 1

    def _loader(self, sampler: EpochSampler) -> DataLoader:
        return DataLoader(
            self.training_set,
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


def _find_clips(data: DataConfig) -> tuple[list[Clip], list[Clip]]:
    """Those to train on, and those to validate on."""
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


def _leave_signals_to_trainer(_worker: int) -> None:
    """Ctrl-C, and many a scheduler, signal a whole group; the last step still needs its batch."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
