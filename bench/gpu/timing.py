"""How long something takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

WARM_UP = 3
TIMES = 20
AT_MOST_S = 2.0


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, call: Callable[[], object], times: int = TIMES) -> float:
    """Median seconds of `call` on the device, after a warm-up: by events on a GPU, so that the launch of the next one
    overlaps; by the clock elsewhere. Fewer times if it takes long."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(WARM_UP):
        call()
    synchronise(device)
    each = (time.perf_counter() - began) / WARM_UP
    times = max(3, min(times, int(AT_MOST_S / max(each, 1e-9))))
    return median(_on_gpu(call, times) if device.type == "cuda" else _by_clock(call, times))


def host_seconds(device: torch.device, call: Callable[[], object], times: int = TIMES) -> float:
    """Median seconds until `call` returns, with nothing on the device to wait for."""
    found = []
    for _ in range(WARM_UP + times):
        synchronise(device)
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return median(found[WARM_UP:])


def _on_gpu(call: Callable[[], object], times: int) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]


def _by_clock(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found
