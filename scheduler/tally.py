"""What the engine has done since its start and in the last minute, summed from its events and steps."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

from pavane.scheduler.spec import Ended, Event, Receipt, TokensAdded

WINDOW_S = 60  # seconds that `recent` looks back
STEPS_KEPT = 1024  # steps whose times are kept one by one


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens by what was done for them; a receipt's classes."""

    in_place: int = 0
    repositioned: int = 0
    encoded: int = 0
    generated: int = 0
    trailer: int = 0
    reencoded: int = 0

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        return cls(*(getattr(receipt, name) for name in _CLASSES))


_CLASSES = tuple(item.name for item in fields(TokenCounts))
_Sums = defaultdict[str, float]


@dataclass(frozen=True, slots=True)
class Activity:
    """`ended`: receipts of ended calls; `sampled`: content tokens as they come, of running calls too; `rows`: tokens
    that the steps encoded; times in seconds."""

    ended: TokenCounts
    sampled: int
    steps: int
    rows: int
    step_s: float
    forward_s: float


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Of the last `steps` steps, in seconds."""

    steps: int = 0
    median: float = 0.0
    p95: float = 0.0
    longest: float = 0.0


class Tally:
    """Fed with events and steps as they happen: some additions each. `now` is in seconds and never falls."""

    def __init__(self, now: float) -> None:
        self.started_at = now
        self._all: _Sums = defaultdict(float)
        self._seconds: deque[tuple[int, _Sums]] = deque(maxlen=WINDOW_S)  # those in which something happened
        self._step_s: deque[float] = deque(maxlen=STEPS_KEPT)

    def record(self, events: Iterable[Event], now: float) -> None:
        sampled = 0
        for event in events:
            if isinstance(event, TokensAdded):
                sampled += len(event.tokens)
            elif isinstance(event, Ended):
                for name in _CLASSES:
                    self._add(name, getattr(event.outcome.receipt, name), now)
        if sampled:
            self._add("sampled", sampled, now)

    def step(self, rows: int, seconds: float, forward: float, now: float) -> None:
        for name, value in (("steps", 1), ("rows", rows), ("step_s", seconds), ("forward_s", forward)):
            self._add(name, value, now)
        self._step_s.append(seconds)

    def window(self, now: float) -> float:
        """Seconds that `recent` covers; of the first and the last of them only what has passed."""
        age = now - self.started_at
        return min(age, WINDOW_S - 1 + age % 1)

    def recent(self, now: float) -> Activity:
        first = int(now - self.started_at) - WINDOW_S + 1
        sums: _Sums = defaultdict(float)
        for second, part in self._seconds:
            if second >= first:
                for name, value in part.items():
                    sums[name] += value
        return _activity(sums)

    def since_start(self) -> Activity:
        return _activity(self._all)

    def step_times(self) -> StepTimes:
        times = sorted(self._step_s)
        if not times:
            return StepTimes()
        last = len(times) - 1
        return StepTimes(len(times), times[last // 2], times[round(0.95 * last)], times[last])

    def _add(self, name: str, value: float, now: float) -> None:
        second = int(now - self.started_at)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, defaultdict(float)))
        self._seconds[-1][1][name] += value
        self._all[name] += value


def _activity(sums: _Sums) -> Activity:
    return Activity(
        TokenCounts(*(int(sums[name]) for name in _CLASSES)),
        int(sums["sampled"]),
        int(sums["steps"]),
        int(sums["rows"]),
        sums["step_s"],
        sums["forward_s"],
    )
