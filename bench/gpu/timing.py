"""How long something takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from pavane.bench.report import say

WARM_UP = 3
TIMES = 20
AT_MOST_S = 2.0
GRAPH_S = 1e-3


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, call: Callable[[], object], times: int = TIMES) -> float:
    """Median seconds of `call` on the device, after a warm-up; fewer times if it takes long.

    On a GPU it is captured, often enough for a graph of a millisecond, and replays are timed by events: a launch from
    Python takes longer than many kernels. What cannot be captured is launched one by one, which is said.
    """
    call()  # what it compiles is no part of how long it takes
    synchronise(device)
    began = time.perf_counter()
    for _ in range(WARM_UP):
        call()
    synchronise(device)
    each = (time.perf_counter() - began) / WARM_UP
    times = max(3, min(times, int(AT_MOST_S / max(each, 1e-9))))
    if device.type != "cuda":
        return median(_by_clock(call, times))
    inner = max(1, min(100, int(GRAPH_S / max(each, 1e-9))))
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(inner):
                call()
    except RuntimeError as error:
        say(f"    not captured, launched one by one: {str(error).splitlines()[0]}")
        torch.cuda.synchronize(device)
        return median(_by_events(call, times))
    return median(_by_events(graph.replay, times)) / inner


def host_seconds(device: torch.device, call: Callable[[], object], times: int = TIMES) -> float:
    """Median seconds until `call` returns, with nothing on the device to wait for."""
    found = []
    for _ in range(WARM_UP + times):
        synchronise(device)
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return median(found[WARM_UP:])


def _by_events(call: Callable[[], object], times: int) -> list[float]:
    marks = [event() for _ in range(times + 1)]
    call()
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]


def event() -> torch.cuda.Event:
    """One that knows its time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _by_clock(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found
