"""In which order calls run. A policy is a key: smaller goes first, and is preempted last."""

from __future__ import annotations

from typing import Protocol

from pavane.scheduler.calls import Call


class Policy(Protocol):
    def key(self, call: Call) -> tuple[float, ...]: ...


class FirstComeFirstServed:
    """By arrival of the call."""

    def key(self, call: Call) -> tuple[float, ...]:
        return (call.serial,)
