"""Time and profile functions on a GPU: medians that wait for the device, number of kernels, busy share."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Timing:
    """Time of one call.

    Attributes:
        milliseconds: median over the calls.
        kernels: kernels that the device ran; None on a CPU.
        busy_share: share of the time in which the device ran a kernel; None on a CPU.
    """

    milliseconds: float
    kernels: int | None = None
    busy_share: float | None = None


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(call: Callable[[], object], device: torch.device, calls: int, warm_up: int = 3) -> Timing:
    """Time a function.

    Args:
        call: the function.
        device: the device on which it computes.
        calls: timed calls; one of them is repeated under the profiler on a GPU.
        warm_up: calls before them.
    """
    for _ in range(warm_up):
        call()
    milliseconds = []
    for _ in range(calls):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    if device.type != "cuda":
        return Timing(median(milliseconds))
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        wait_for(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    # The profiler slows the launches, so that busy time is compared with the time without it.
    busy = union_length(spans) / 1e3
    return Timing(median(milliseconds), len(spans), min(1.0, busy / median(milliseconds)))


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans (start, end)."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
