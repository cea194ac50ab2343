"""What every objective does with its optimizers: their making, their schedules, and a step that notices divergence."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from wavtokenizer_hf.training.config import OptimizerConfig


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


def adamw(parameters: Iterable[nn.Parameter], settings: OptimizerConfig, learning_rate: float) -> AdamW:
    return AdamW(parameters, lr=learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)


def cosine(optimizer: AdamW, settings: OptimizerConfig, num_steps: int) -> LRScheduler:
    """Cosine from the highest rate to the final share of it, after a warm-up."""
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, settings.warmup_steps, num_steps, min_lr_rate=settings.final_share
    )


def take_step(
    accelerator: Accelerator,
    optimizer: Any,
    name: str,
    step: int,
    logged: dict[str, torch.Tensor],
    max_grad_norm: float | None = None,
) -> None:
    """Moves what an optimizer holds by the gradients that are there.

    Args:
        name: Of what is taught: its losses are called `name/…`.
        step: Number of the step, from 0.
        logged: What was found in this step; where gradients are limited, their norm `name/grad_norm` joins it.
        max_grad_norm: Gradients longer than this are shortened to it; `None` never.

    Raises:
        DivergenceError: If a loss or a gradient is not finite, here or in another process, before anything moves.
    """
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    watched = {key: value for key, value in logged.items() if key.startswith(f"{name}/")}
    if max_grad_norm is not None:
        norm = accelerator.clip_grad_norm_(moved, max_grad_norm)
        if norm is not None:
            logged[f"{name}/grad_norm"] = norm.detach()
    if accelerator.scaler is None:  # which finds the scale by gradients that overflow, and skips these
        norm = logged.get(f"{name}/grad_norm")
        if norm is None:
            norm = nn.utils.get_total_norm([value.grad for value in moved if value.grad is not None])
        watched[f"{name}/gradient"] = norm
    _check_finite(accelerator, step, watched)
    optimizer.step()


def _check_finite(accelerator: Accelerator, step: int, watched: Mapping[str, torch.Tensor]) -> None:
    """All processes stop if one of them has to."""
    values = torch.stack([value.detach().to(accelerator.device, torch.float32) for value in watched.values()])
    num_bad = (~values.isfinite()).sum()
    if accelerator.num_processes > 1:
        num_bad = reduce(num_bad, "sum")
    if num_bad:
        named = zip(watched, values.tolist(), strict=True)
        bad = {name: value for name, value in named if not math.isfinite(value)}
        raise DivergenceError(step + 1, bad or {"a loss of another process": math.nan})
