"""The lines of the table, all of them known before anything runs: what was not measured is shown as not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pavane.bench.report import Bar, Figure, columns, number

State = Literal["measured", "not run", "failed"]
HEAD = ("section", "what", "measured", "against", "figure", "bar", "")


@dataclass(frozen=True)
class Row:
    """A line of a section: what its figure is, and the bar it is held against."""

    what: str
    bar: Bar | None = None


@dataclass(frozen=True)
class Measured:
    """The figure of the row `what`, and what it was made of, with units."""

    what: str
    value: float
    ours: str = ""
    against: str = ""


@dataclass(frozen=True)
class Line:
    """A row with what came of it; `reason` says why there is no figure."""

    section: str
    row: Row
    state: State
    measured: Measured | None = None
    reason: str = ""

    @property
    def figure(self) -> Figure | None:
        m = self.measured
        return None if m is None else Figure(m.what, m.value, self.row.bar, m.ours, m.against)

    def as_json(self) -> dict[str, Any]:
        figure, bar = self.figure, self.row.bar
        return {
            "section": self.section,
            "what": self.row.what,
            "state": self.state,
            "value": None if figure is None else figure.value,
            "ours": "" if figure is None else figure.ours,
            "against": "" if figure is None else figure.theirs,
            "bar": None if bar is None else {"sign": bar.sign, "limit": bar.limit},
            "met": None if figure is None else figure.met,
            "reason": self.reason,
        }

    def cells(self) -> tuple[str, ...]:
        bar = "" if self.row.bar is None else str(self.row.bar)
        figure = self.figure
        if figure is None:
            return self.section, self.row.what, "", "", "", bar, f"{self.state}: {self.reason}"
        word = {None: "", True: "met", False: "MISSED"}[figure.met]
        return self.section, self.row.what, figure.ours, figure.theirs, number(figure.value), bar, word


def table(lines: list[Line]) -> str:
    return columns([HEAD, *(line.cells() for line in lines)], (0, 1, 2, 3, 5, 6))
