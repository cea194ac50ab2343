"""One step of the GAN: forward, losses, backward and both optimizers, on one or many processes."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import nn

from wavtokenizer_hf.training.codebook import CodebookLearner
from wavtokenizer_hf.training.losses import total
from wavtokenizer_hf.training.schedule import Schedule, value_at
from wavtokenizer_hf.training.steps import Reconstruction, deception_losses, judge, reconstruction_losses

Losses = dict[str, torch.Tensor]


class DivergenceError(RuntimeError):
    """A loss, a gradient or a weight is not finite.

    Args:
        step: Number of the step, from 1.
        values: What is not finite, by name.
    """

    def __init__(self, step: int, values: Mapping[str, float]):
        named = ", ".join(f"{name} is {value}" for name, value in values.items())
        super().__init__(
            f"the run diverged in step {step}: {named}. It stops, and no checkpoint holds this step; go on from an "
            "earlier one with a lower `optimizer.learning_rate`, or with `optimizer.max_grad_norm`"
        )
        self.step = step
        self.values = dict(values)


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
        legacy: A forward for either optimizer, as in the original: the codebook moves twice, and each has a bandwidth
            id of its own.

    Source: `decoder/experiment.py: VocosExp.training_step` of the original.
    Deviates: One forward instead of two, unless `legacy`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: nn.Module,
        discriminators: Any,
        generator_optimizer: Any,
        discriminator_optimizer: Any | None,
        learner: CodebookLearner | None,
        *,
        weights: Mapping[str, Schedule],
        sampling_rate: int,
        quantizer_dropout: Schedule = 0.0,
        max_grad_norm: float | None = None,
        legacy: bool = False,
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
        self.legacy = legacy

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
            bandwidth_ids: Of the pass for the discriminators and of that for the codec. The first is used by `legacy`
                alone.
            step: Number of the step, from 0.
            uses_quantizer: `False` before the codebook's start.
            uses_discriminators: `False` before theirs.

        Raises:
            DivergenceError: If a loss or a gradient is not finite, here or in another process, before its optimizer
                moves.

        Returns:
            The unweighted losses by name, averaged over the batches and detached; `generator/total`,
            `discriminator/total`, the norms of the gradients where they are limited, and `codebook/revived`.
        """
        logged: Losses = {}
        judges = self.discriminators if uses_discriminators else None
        weights = {name: value_at(weight, step) for name, weight in self.weights.items()}
        self._zero_grad()
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            share = 1 / len(batches)
            real = batch["input_values"][:, 0]  # (B, 1, T) -> (B, T)
            if self.legacy and judges is not None:
                with torch.no_grad():
                    seen = self._reconstruct(batch, bandwidth_ids[0], uses_quantizer, step)
                self._teach_discriminators(
                    real, seen.audio_values, bandwidth_ids[0], weights, share, is_last, step, logged
                )
            with self._synchronising(self.generator, is_last):
                reconstruction = self._reconstruct(batch, bandwidth_ids[1], uses_quantizer, step)
                if not self.legacy and judges is not None:
                    fake = reconstruction.audio_values
                    self._teach_discriminators(real, fake, bandwidth_ids[1], weights, share, is_last, step, logged)
                cutoff_hz = batch.get("cutoff_hz")
                losses = reconstruction_losses(real, reconstruction, self.sampling_rate, cutoff_hz, weights)
                if judges is not None:
                    bare = self.accelerator.unwrap_model(judges)
                    with self.accelerator.autocast():
                        losses |= deception_losses(bare, real, reconstruction.audio_values, bandwidth_ids[1])
                loss = total(losses, weights)
                self.accelerator.backward(loss * share)
            _add(logged, {**losses, "generator/total": loss}, share)
        self._step(self.generator_optimizer, "generator", step, logged)
        if self.learner is not None and uses_quantizer and not self.legacy:
            logged["codebook/revived"] = torch.tensor(float(self.learner.update(step)))
        return logged

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
            if self.legacy:
                self.learner.update(step)
        return reconstruction

    def _teach_discriminators(
        self,
        real: torch.Tensor,
        fake: torch.Tensor,
        bandwidth_id: int,
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
            self._step(self.discriminator_optimizer, "discriminator", step, logged)

    def _synchronising(self, module: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients travel between processes with the last batch only."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(module)

    def _step(self, optimizer: Any, name: str, step: int, logged: Losses) -> None:
        moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        watched = {key: value for key, value in logged.items() if key.startswith(f"{name}/")}
        if self.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(moved, self.max_grad_norm)
            if norm is not None:
                logged[f"{name}/grad_norm"] = norm.detach()
        if self.accelerator.scaler is None:  # which finds the scale by gradients that overflow, and skips these
            norm = logged.get(f"{name}/grad_norm")
            if norm is None:
                norm = nn.utils.get_total_norm([value.grad for value in moved if value.grad is not None])
            watched[f"{name}/gradient"] = norm
        self._check(step, watched)
        optimizer.step()

    def _check(self, step: int, watched: Losses) -> None:
        """All processes stop if one of them has to."""
        values = torch.stack([value.detach().to(self.accelerator.device, torch.float32) for value in watched.values()])
        num_bad = (~values.isfinite()).sum()
        if self.accelerator.num_processes > 1:
            num_bad = reduce(num_bad, "sum")
        if num_bad:
            named = zip(watched, values.tolist(), strict=True)
            bad = {name: value for name, value in named if not math.isfinite(value)}
            raise DivergenceError(step + 1, bad or {"a loss of another process": math.nan})

    def _zero_grad(self) -> None:
        self.generator_optimizer.zero_grad()
        if self.discriminator_optimizer is not None:
            self.discriminator_optimizer.zero_grad()


def _add(sums: Losses, values: Mapping[str, torch.Tensor], share: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach() * share
