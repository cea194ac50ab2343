"""Settings that move over a run: a number, or points between which they move in straight lines."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Schedule = float | Sequence[Sequence[float]]
"""A number, or points `[[step, value], …]` in rising order; before the first and after the last the value stays."""


def checked_schedule(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> Schedule:
    """The schedule with its numbers as floats.

    Args:
        name: What messages call it.
        low: The lowest value that may occur.
        high: The highest.

    Raises:
        ValueError: If it is no schedule, or leaves the bounds.
    """
    try:
        points = np.array([[0, value]] if np.ndim(value) == 0 else value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all() or (np.diff(points[:, 0]) < 0).any():
        raise ValueError(
            f"`{name}` must be a number, or points [[step, value], ...] whose steps do not fall, got {value!r}."
        )
    if points[:, 1].min() < low or points[:, 1].max() > high:
        raise ValueError(f"`{name}` must lie from {low:g} to {high:g}, got {value!r}.")
    return float(points[0, 1]) if np.ndim(value) == 0 else points.tolist()


def value_at(schedule: Schedule, step: int) -> float:
    """The value at a step, counted from 0."""
    if isinstance(schedule, (int, float)):
        return schedule
    steps, values = zip(*schedule, strict=True)
    return float(np.interp(step, steps, values))
