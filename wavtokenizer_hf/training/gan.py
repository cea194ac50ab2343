"""One step of the GAN: forward, losses, backward and both optimizers, on one or many processes."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from wavtokenizer_hf.training.discriminators import Discriminators
from wavtokenizer_hf.training.learner import QuantizerLearner, Reconstruction
from wavtokenizer_hf.training.losses import total
from wavtokenizer_hf.training.objective import Losses
from wavtokenizer_hf.training.optimizers import take_step
from wavtokenizer_hf.training.schedule import Schedule, value_at
from wavtokenizer_hf.training.steps import deception_losses, judge, reconstruction_losses

# Teaches the discriminators from reconstructions (B, T) and their bandwidth id.
Teach = Callable[[torch.Tensor, int], None]


class GanStep:
    """Teaches the codec and its discriminators from one batch.

    The codec runs once per batch. Its reconstruction, cut off from the graph, first teaches the discriminators; then,
    judged by them, it teaches the codec. The codebook moves once, from the latents of that same forward.

    Args:
        accelerator: Knows devices, precision and processes.
        generator: The codec, prepared by the accelerator.
        discriminators: Prepared likewise, or `None` for none.
        generator_optimizer: Over the codec's trained parameters.
        discriminator_optimizer: Over the discriminators'.
        learner: Moves the codebook; `None` leaves it as it is.
        weights: Of the losses, by name; they may move with the steps.
        quantizer_dropout: Share of a batch's clips that the decoder hears unquantized; it may move, too.
        sampling_rate: Of the recordings in Hz.
        max_grad_norm: Gradients longer than this are shortened to it; `None` never.

    Source: `decoder/experiment.py: VocosExp.training_step` of the original.
    Deviates: One forward instead of two; `legacy.py` has both.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: nn.Module,
        discriminators: Any,
        generator_optimizer: Any,
        discriminator_optimizer: Any | None,
        learner: QuantizerLearner | None,
        *,
        weights: Mapping[str, Schedule],
        sampling_rate: int,
        quantizer_dropout: Schedule = 0.0,
        max_grad_norm: float | None = None,
    ):
        self.accelerator = accelerator
        self.generator = generator
        self.discriminators = discriminators
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.learner = learner
        self.weights = weights
        self.sampling_rate = sampling_rate
        self.quantizer_dropout = quantizer_dropout
        self.max_grad_norm = max_grad_norm

    @staticmethod
    def taught(discriminators: Discriminators) -> list[nn.Parameter]:
        """The parameters that the discriminators' optimizer is to hold."""
        return list(discriminators.parameters())

    def __call__(
        self,
        batches: Sequence[Mapping[str, torch.Tensor]],
        bandwidth_ids: tuple[int, int],
        *,
        step: int,
        uses_quantizer: bool = True,
        uses_discriminators: bool = True,
    ) -> Losses:
        """Takes one step.

        With several batches (gradient accumulation), the codec learns from discriminators that have not yet stepped,
        except on the last.

        Args:
            batches: `input_values` (B, 1, T) and, optionally, `cutoff_hz` (B,); their gradients are averaged.
            bandwidth_ids: Of the pass for the discriminators, where they have one of their own, and of that for the
                codec.
            step: Number of the step, from 0.
            uses_quantizer: `False` before the codebook's start.
            uses_discriminators: `False` before theirs.

        Raises:
            DivergenceError: If a loss or a gradient is not finite, here or in another process, before its optimizer
                moves.

        Returns:
            The unweighted losses by name, averaged over the batches and detached; `generator/total`,
            `discriminator/total`, the norms of the gradients where they are limited, and what the learner tells.
        """
        logged: Losses = {}
        judges = self.discriminators if uses_discriminators else None
        weights = {name: value_at(weight, step) for name, weight in self.weights.items()}
        self._zero_grad()
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            share = 1 / len(batches)
            real = batch["input_values"][:, 0]  # (B, 1, T) -> (B, T)
            teach = None
            if judges is not None:
                teach = functools.partial(
                    self._teach_discriminators,
                    real,
                    weights=weights,
                    share=share,
                    is_last=is_last,
                    step=step,
                    logged=logged,
                )
            with self._synchronising(self.generator, is_last):
                reconstruction = self._forward(batch, bandwidth_ids, uses_quantizer, step, teach)
                cutoff_hz = batch.get("cutoff_hz")
                losses = reconstruction_losses(real, reconstruction, self.sampling_rate, cutoff_hz, weights)
                if judges is not None:
                    bare = self.accelerator.unwrap_model(judges)
                    with self.accelerator.autocast():
                        losses |= deception_losses(bare, real, reconstruction.audio_values, bandwidth_ids[1])
                loss = total(losses, weights)
                self.accelerator.backward(loss * share)
            _add(logged, {**losses, "generator/total": loss}, share)
        take_step(self.accelerator, self.generator_optimizer, "generator", step, logged, self.max_grad_norm)
        if uses_quantizer:
            logged |= {name: torch.tensor(figure) for name, figure in self._move_codebook(step).items()}
        return logged

    def _forward(
        self,
        batch: Mapping[str, Any],
        bandwidth_ids: tuple[int, int],
        uses_quantizer: bool,
        step: int,
        teach: Teach | None,
    ) -> Reconstruction:
        """What the codec learns from; the discriminators learn on the way."""
        reconstruction = self._reconstruct(batch, bandwidth_ids[1], uses_quantizer, step)
        if teach is not None:
            teach(reconstruction.audio_values, bandwidth_ids[1])
        return reconstruction

    def _reconstruct(
        self, batch: Mapping[str, Any], bandwidth_id: int, uses_quantizer: bool, step: int
    ) -> Reconstruction:
        input_values = batch["input_values"]
        num_bypassed = 0
        if uses_quantizer and (dropout := value_at(self.quantizer_dropout, step)):
            # Clips come in random order: the first are as good as any. What is left of a share is left to chance.
            num_bypassed = int(dropout * len(input_values) + torch.rand(()).item())
        reconstruction = self.generator(input_values, bandwidth_id, uses_quantizer, num_bypassed)
        if self.learner is not None and uses_quantizer:
            self.learner.observe(reconstruction.encoder_latents, reconstruction.audio_codes)
        return reconstruction

    def _move_codebook(self, step: int) -> dict[str, float]:
        return {} if self.learner is None else self.learner.update(step)

    def _teach_discriminators(
        self,
        real: torch.Tensor,
        fake: torch.Tensor,
        bandwidth_id: int,
        *,
        weights: Mapping[str, float],
        share: float,
        is_last: bool,
        step: int,
        logged: Losses,
    ) -> None:
        with self._synchronising(self.discriminators, is_last):
            with self.accelerator.autocast():
                losses = judge(self.discriminators, real, fake, bandwidth_id)
            loss = total(losses, weights)
            self.accelerator.backward(loss * share)
        _add(logged, {**losses, "discriminator/total": loss}, share)
        if is_last:
            take_step(
                self.accelerator, self.discriminator_optimizer, "discriminator", step, logged, self.max_grad_norm
            )

    def _synchronising(self, module: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients travel between processes with the last batch only."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(module)

    def _zero_grad(self) -> None:
        self.generator_optimizer.zero_grad()
        if self.discriminator_optimizer is not None:
            self.discriminator_optimizer.zero_grad()


def _add(sums: Losses, values: Mapping[str, torch.Tensor], share: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() * share
