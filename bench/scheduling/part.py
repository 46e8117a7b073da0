"""What the parts have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pavane.bench.report import Figure
from pavane.bench.stats import Interval, spread

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Of the command; each part takes what it needs."""

    quick: bool = False
    seeds: int = 5
    workflows: int = 600
    grain: int = 8
    trace: Path | None = None
    serve: tuple[str, ...] = ()
    first_seed: int = 0

    def numbers(self, seeds: int) -> range:
        """The seeds of so many traces."""
        return range(self.first_seed, self.first_seed + seeds)


@dataclass(frozen=True)
class Found:
    """`defect` says what was wrong with the work itself; then no figure counts."""

    figures: list[Figure]
    data: dict[str, Any] = field(default_factory=dict)
    defect: str = ""


def mean(values: list[float]) -> Interval:
    """The mean over seeds, with its interval."""
    return spread(values, fmean)


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least `percent` of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
