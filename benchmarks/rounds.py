"""Timing in rounds: within a round everything runs once, in an order that rotates from round to round.

A slow moment of the machine then strikes all alike, and the ratio of two is the median over rounds of their ratio
within a round.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

CPU = torch.device("cpu")


def in_rounds(
    functions: Mapping[str, Callable[[], Any]],
    num_rounds: int,
    patience_s: float = float("inf"),
    min_rounds: Mapping[str, int] | None = None,
    device: torch.device = CPU,
) -> dict[str, list[float]]:
    """Times functions that stand side by side.

    Args:
        functions: By name.
        num_rounds: How often each runs at most.
        patience_s: Whoever has taken so long in all takes no part in further rounds.
        min_rounds: Rounds in which a function takes part whatever it takes, 1 where it is not named.
        device: Where they compute.

    Returns:
        Seconds of each function, round by round; a slow function stands in the first rounds only.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(num_rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            if number < (min_rounds or {}).get(name, 1) or sum(times[name]) < patience_s:
                times[name].append(timed(functions[name], device))
    return times


def timed(function: Callable[[], Any], device: torch.device = CPU) -> float:
    """Seconds from the call to the end of its work on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    synchronise(device)
    begin.record()
    function()
    end.record()
    synchronise(device)
    return begin.elapsed_time(end) / 1000


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and every single value."""
    return {
        "median": significant(statistics.median(values)),
        "min": significant(min(values)),
        "max": significant(max(values)),
        "all": [significant(value) for value in values],
    }


def speedup(own: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """How many times as fast as the baseline, from the rounds in which both took part."""
    return summary([other / mine for mine, other in zip(own, baseline, strict=False)])


def significant(value: float) -> float:
    """The value to five significant digits, so that a file shows no digits that mean nothing."""
    return float(f"{value:.5g}")
