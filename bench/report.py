"""What every benchmark prints and writes: figures with their bars, one table, JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pavane.bench.stats import Interval

HEAD = ("what", "measured", "against", "ratio", "95 % interval", "bar", "")
LEFT = (0, 5, 6)  # columns of words; numbers stand right


@dataclass(frozen=True)
class Bar:
    """What a figure is held against: at least, or at most."""

    sign: str
    limit: float

    def __post_init__(self) -> None:
        if self.sign not in (">=", "<="):
            raise ValueError(f"the sign of a bar is >= or <=, not {self.sign!r}")

    def met(self, value: float) -> bool:
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


def at_least(limit: float) -> Bar:
    return Bar(">=", limit)


def at_most(limit: float) -> Bar:
    return Bar("<=", limit)


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, both sides with their units, and the ratio (or share) of them."""

    what: str
    value: float
    bar: Bar | None = None
    ours: str = ""
    theirs: str = ""
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, what: str, ratio: Interval, bar: Bar | None, ours: str, theirs: str) -> Figure:
        """A line with an interval, if there were repetitions to make one from."""
        return cls(what, ratio.value, bar, ours, theirs, (ratio.low, ratio.high) if ratio.low < ratio.high else None)

    @property
    def met(self) -> bool | None:
        return None if self.bar is None else self.bar.met(self.value)


@dataclass(frozen=True)
class Report:
    """What a benchmark found: its figures, and everything they were made from.

    `defect` says what was wrong with the work itself, if anything: then no figure counts.
    """

    name: str
    figures: Sequence[Figure]
    data: dict[str, Any] = field(default_factory=dict)
    defect: str = ""

    def as_json(self) -> dict[str, Any]:
        figures = [{**asdict(figure), "met": figure.met} for figure in self.figures]
        return {"bench": self.name, "figures": figures, **self.data}


def machine() -> dict[str, Any]:
    """Enough to judge a figure by."""
    return {
        "cores": cores(),
        "cpu": cpu(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name, where the system tells it."""
    return _cpuinfo("model name") or "unknown"


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where the system does not tell."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def emit(result: dict[str, Any], destination: str | None) -> None:
    """Writes `result` as JSON to a file, or to stdout for "-"; nothing for None."""
    if destination is None:
        return
    text = json.dumps({**result, "machine": machine()}, indent=2)
    if destination == "-":
        print(text)
    else:
        Path(destination).write_text(text + "\n")


def say(text: str) -> None:
    """For people: to stderr, so that `--json -` stays clean."""
    print(text, file=sys.stderr, flush=True)


def show(text: str, destination: str | None) -> None:
    """What was found, for people: to stdout, or where the JSON goes there, to stderr."""
    if destination == "-":
        say(text)
    else:
        print(text)


def verdict(name: str, value: float, bar: str, met: bool) -> str:
    return f"{name}: {value:.2f} (bar {bar}: {'met' if met else 'MISSED'})"


def table(figures: Sequence[Figure]) -> str:
    """The figures as lines of text under one head."""
    return columns([HEAD, *map(_row, figures)], LEFT)


def columns(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Rows of equally many cells as lines of text, the first one as a head; the columns `left` hold words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in ruled
    )


def _row(figure: Figure) -> tuple[str, ...]:
    interval = " - ".join(map(number, figure.interval or ()))
    word = {None: "", True: "met", False: "MISSED"}[figure.met]
    bar = "" if figure.bar is None else str(figure.bar)
    return figure.what, figure.ours, figure.theirs, number(figure.value), interval, bar, word


def number(value: float) -> str:
    """Three digits, so that what misses its bar also looks like it."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
