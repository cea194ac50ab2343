"""Where the time of a call goes: by stage of the model, and by kernel of the device."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks.rounds import significant, synchronise

NUM_KERNELS = 12


def breakdown(
    call: Callable[[], Any], stages: Mapping[str, Sequence[nn.Module]], device: torch.device
) -> dict[str, Any]:
    """Runs a call three times: to warm up, watching the stages, and under torch's profiler.

    Args:
        call: What is examined.
        stages: The modules of each stage, none of them inside another.
        device: Where they compute.

    Returns:
        The stages' shares of the whole time, where the device is waited for after each; and the kernels (on a CPU, the
        operators) that take the greatest shares of the time that the device is busy.
    """
    call()
    seconds = dict.fromkeys(stages, 0.0)
    start = _now(device)
    with _watched(stages, seconds, device):
        call()
    total = _now(device) - start
    shares = {name: significant(value / total) for name, value in seconds.items()}
    return {"stages": shares | {"the rest": significant(1 - sum(shares.values()))}, "kernels": _kernels(call, device)}


def _kernels(call: Callable[[], Any], device: torch.device) -> list[dict[str, Any]]:
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        call()
        synchronise(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    busy = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profiler.key_averages()
        if event.device_type == kind
    }
    total = sum(time for time, _ in busy.values())
    ranked = sorted(busy.items(), key=lambda item: item[1][0], reverse=True)[:NUM_KERNELS]
    return [{"name": name, "share": significant(time / total), "calls": calls} for name, (time, calls) in ranked]


@contextmanager
def _watched(
    stages: Mapping[str, Sequence[nn.Module]], seconds: dict[str, float], device: torch.device
) -> Iterator[None]:
    """Adds to `seconds` what the modules of each stage take."""

    def watch(name: str, module: nn.Module) -> list[Any]:
        started: list[float] = []

        def begin(*_: Any) -> None:
            started.append(_now(device))

        def end(*_: Any) -> None:
            seconds[name] += _now(device) - started.pop()

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]

    handles = [handle for name, modules in stages.items() for module in modules for handle in watch(name, module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter()
