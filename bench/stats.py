"""Statistics of repeated measurements: medians, ratios of medians with bootstrap intervals, rates of streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

RESAMPLES = 1000


class NoMeasurement(ValueError):  # noqa: N818
    """What was observed allows no figure; the text says what to change."""


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Arrival:
    """`count` tokens of a stream had arrived `at` seconds after all streams were asked for."""

    at: float
    count: int


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Ratio of the medians of two non-empty samples, with a percentile bootstrap (Efron 1979) over both.

    The generator is seeded: equal samples give equal intervals.
    """
    noise = random.Random(0)
    drawn = sorted(
        median(noise.choices(above, k=len(above))) / median(noise.choices(below, k=len(below)))
        for _ in range(RESAMPLES)
    )
    return Interval(median(above) / median(below), drawn[RESAMPLES // 40], drawn[-1 - RESAMPLES // 40])


def spread(values: Sequence[float], middle: Callable[[Sequence[float]], float] = median) -> Interval:
    """`middle` of a non-empty sample, with a percentile bootstrap from a seeded generator."""
    noise = random.Random(0)
    drawn = sorted(middle(noise.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return Interval(middle(values), drawn[RESAMPLES // 40], drawn[-1 - RESAMPLES // 40])


def common_window(streams: Sequence[Sequence[Arrival]]) -> tuple[float, float]:
    """From the moment when every stream has its first token to when the first of them has its last, in seconds.

    Raises:
        NoMeasurement: they did not run at the same time; the text says what to change.
    """
    begin = max(stream[0].at for stream in streams)
    end = min(stream[-1].at for stream in streams)
    if begin >= end:
        raise NoMeasurement(f"{len(streams)} streams never ran at the same time; give more --tokens")
    return begin, end


def decode_rate(streams: Sequence[Sequence[Arrival]]) -> float:
    """Tokens per second of all streams together while all of them decode.

    Each stream counts from its first arrival in the common window to its last one there, so that nothing is lost at
    the edges. Raises NoMeasurement.
    """
    begin, end = common_window(streams)
    total = 0.0
    for stream in streams:
        inside = [arrival for arrival in stream if begin <= arrival.at <= end]
        if len(inside) < 2:
            raise NoMeasurement("a stream has fewer than two arrivals while all decode; give more --tokens")
        total += (inside[-1].count - inside[0].count) / (inside[-1].at - inside[0].at)
    return total


def inter_token(streams: Sequence[Sequence[Arrival]]) -> float:
    """Median time between two tokens of a stream while all streams decode, in seconds. Raises NoMeasurement."""
    begin, end = common_window(streams)
    gaps = [
        (after.at - before.at) / (after.count - before.count)
        for stream in streams
        for before, after in pairwise(stream)
        if begin <= before.at and after.at <= end
        for _ in range(after.count - before.count)
    ]
    if not gaps:
        raise NoMeasurement("no stream has two arrivals while all decode; give more --tokens")
    return median(gaps)
