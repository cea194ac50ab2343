"""What a configuration makes of a codec and its discriminators: optimizers, schedules, and the step that uses them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.config import OptimizerConfig, TrainingConfig
from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.gan import GanStep
from wavtokenizer_hf.training.steps import Generator


def make_gan_step(
    config: TrainingConfig, accelerator: Accelerator, generator: Generator, discriminators: Discriminators | None
) -> tuple[GanStep, list[Any]]:
    """Prepares everything that a step moves.

    Returns:
        The step, and the schedules of the codec's learning rate and, where there are discriminators, of theirs.

    Source: `decoder/experiment.py: VocosExp.configure_optimizers` of the original.
    Deviates: The multi-band discriminators learn, unless `config.legacy`. In the original the optimizer holds another
        copy of them than the losses.
    """
    settings = config.optimizer
    codec = generator.model
    trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = _adamw(trained, settings, settings.learning_rate)
    schedules = [_cosine(optimizer, settings, config.max_steps)]
    prepared, generator_optimizer = accelerator.prepare(generator, optimizer)
    judges: Any = None
    discriminator_optimizer: Any = None
    if discriminators is not None:
        taught = [
            parameter
            for name, parameter in discriminators.named_parameters()
            if not (config.legacy and name.startswith("multi_band."))
        ]
        optimizer = _adamw(taught, settings, settings.discriminator_learning_rate or settings.learning_rate)
        schedules.append(_cosine(optimizer, settings, max(config.max_steps - config.discriminator_start_step, 1)))
        judges, discriminator_optimizer = accelerator.prepare(discriminators, optimizer)
    learner = None
    if config.trains_codebook:
        told = config.codebook
        learner = CodebookLearner(
            codec.encoder_model.quantizer.codebook, dataclasses.replace(told, legacy=told.legacy or config.legacy)
        )
    step = GanStep(
        accelerator,
        prepared,
        judges,
        generator_optimizer,
        discriminator_optimizer,
        learner,
        weights=config.weights,
        sampling_rate=codec.config.sampling_rate,
        quantizer_dropout=config.quantizer_dropout,
        max_grad_norm=settings.max_grad_norm,
        legacy=config.legacy,
    )
    return step, schedules


def _adamw(parameters: Iterable[nn.Parameter], settings: OptimizerConfig, learning_rate: float) -> AdamW:
    return AdamW(parameters, lr=learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)


def _cosine(optimizer: AdamW, settings: OptimizerConfig, num_steps: int) -> LRScheduler:
    """Cosine from the highest rate to the final share of it, after a warm-up."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, settings.warmup_steps, num_steps, min_lr_rate=settings.final_share
    )
