"""Sections one after the other: each has its time, and one that fails takes no other with it."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from pavane.bench.gpu.rows import Line, Measured, Row, State
from pavane.bench.report import number

T = TypeVar("T")
Clock = Callable[[], float]


class NotHere(RuntimeError):  # noqa: N818
    """What a section needs is not there; the text says what."""


@dataclass(frozen=True)
class Section(Generic[T]):
    """`measure` yields the figures of `rows` as it comes by them; `seconds` is what it takes on an H200, estimated."""

    name: str
    rows: tuple[Row, ...]
    seconds: float
    measure: Callable[[T, Notes], Iterator[Measured]]


@dataclass
class Notes:
    """What a section says beside its figures, everything they were made from, for the JSON; and what time it has."""

    left: Callable[[], float]  # seconds until the deadline
    data: dict[str, Any] = field(default_factory=dict)

    def check_time(self, needed: float = 0.0) -> None:
        """Between parts of a long section. Raises NotHere if what is `needed` is not left."""
        if self.left() <= needed:
            raise NotHere("the time was up")


@dataclass
class Outcome:
    """What came of all sections, as far as they have run."""

    lines: list[Line] = field(default_factory=list)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self, bench: str) -> dict[str, Any]:
        return {
            "bench": bench,
            "rows": [line.as_json() for line in self.lines],
            "data": self.data,
            "errors": self.errors,
            "seconds": self.seconds,
        }


def run_sections(
    sections: Sequence[Section[T]],
    subject: T,
    *,
    only: Sequence[str],
    deadline: float,
    say: Callable[[str], None],
    keep: Callable[[Outcome], None],
    check: Callable[[], None] = lambda: None,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Runs those named in `only` that still fit before `deadline` (by `clock`). Each figure is said, and `keep` called,
    as it comes, so that what was measured is not lost with the process. `check` raises RuntimeError if the device does
    not answer any more: after a section that failed so, nothing else runs."""
    outcome = Outcome()
    lost = ""
    for section in sections:
        if section.name not in only:
            outcome.lines += _without(section, "not run", "not asked for: --only leaves it out")
            continue
        left = deadline - clock()
        if lost or left < section.seconds:
            text = lost or f"takes about {section.seconds:.0f} s, and {max(0.0, left):.0f} s are left"
            outcome.lines += _without(section, "not run", text)
            continue
        say(f"  {section.name} ...")
        began = clock()
        _run(section, subject, outcome, Notes(lambda: deadline - clock()), say, keep)
        outcome.seconds[section.name] = round(clock() - began, 3)
        keep(outcome)
        if section.name in outcome.errors:
            try:
                check()
            except RuntimeError as error:
                lost = f"the device was lost in {section.name}: {str(error).splitlines()[0]}"
    return outcome


def _run(
    section: Section[T],
    subject: T,
    outcome: Outcome,
    notes: Notes,
    say: Callable[[str], None],
    keep: Callable[[Outcome], None],
) -> None:
    found: dict[str, Measured] = {}
    first = len(outcome.lines)
    outcome.data[section.name] = notes.data

    def fill(state: State, reason: str) -> None:
        outcome.lines[first:] = [_line(section.name, row, found.get(row.what), state, reason) for row in section.rows]

    state: State = "not run"
    reason = "the section ended without it"
    try:
        with torch.inference_mode():  # as runners work: their tensors cannot be written to elsewhere
            for measured in section.measure(subject, notes):
                found[measured.what] = measured
                fill("not run", "the section has not ended")
                say(f"    {measured.what}: {number(measured.value)}")
                keep(outcome)
    except NotHere as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 (whatever it was is reported, and the others go on)
        state, reason = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        outcome.errors[section.name] = traceback.format_exc()
    if unknown := found.keys() - {row.what for row in section.rows}:
        raise AssertionError(f"{section.name} has no row {min(unknown)!r}")
    fill(state, reason)


def _line(section: str, row: Row, figure: Measured | None, state: State, reason: str) -> Line:
    if figure is None:
        return Line(section, row, state, reason=reason)
    if not math.isfinite(figure.value):
        return Line(section, row, "failed", reason=f"the figure is {figure.value}")
    return Line(section, row, "measured", figure)


def _without(section: Section[T], state: State, reason: str) -> list[Line]:
    return [Line(section.name, row, state, reason=reason) for row in section.rows]
