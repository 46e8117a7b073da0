"""What is sent when: the trace's mix of workflows, its lengths scaled, and what the server has no room for left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pavane.bench.trace import TraceCall, TraceWorkflow, make_trace

MIX = 400  # workflows that a mean is taken over
ORDINARY = (1000, 40_000)  # token ids without control tokens, where the vocabulary has so many


@dataclass(frozen=True)
class Room:
    """What a server has room for: positions of a context, token slots, and the ids of its vocabulary."""

    positions: int
    slots: int
    vocabulary: int

    def fits(self, workflow: TraceWorkflow) -> bool:
        """Whether each of its calls can run at all."""
        return max(reach(workflow).values()) <= min(self.positions, self.slots)

    def tokens(self, count: int, *seed: object) -> list[int]:
        """`count` ordinary token ids; the same for the same seed."""
        low, high = ORDINARY
        ids = range(low, high) if self.vocabulary >= high else range(self.vocabulary // 2, self.vocabulary)
        return random.Random(repr(seed)).choices(ids, k=count)


@dataclass(frozen=True)
class Arrivals:
    """Workflows by the second at which each is due, and how many the server has no room for."""

    workflows: Sequence[TraceWorkflow]
    left_out: int


def draw(rate: float, duration: float, scale: float, tenants: int, seed: int, room: Room) -> Arrivals:
    """Poisson arrivals, `rate` a second over all tenants, for `duration` seconds; lengths are those of the mix times
    `scale`. What does not fit is left out, which thins the rate."""
    expected = rate * duration
    enough = round(expected + 6 * expected**0.5 + 20)  # the last of so many is due later, but once in a billion draws
    trace = make_trace(seed, enough, rate, tenants)
    return select(trace, duration, scale, room)


def select(trace: Sequence[TraceWorkflow], duration: float, scale: float, room: Room) -> Arrivals:
    """Those of a trace that are due within `duration` seconds and fit."""
    due = [shrink(workflow, scale) for workflow in trace if workflow.at < duration]
    fit = [workflow for workflow in due if room.fits(workflow)]
    return Arrivals(fit, len(due) - len(fit))


def shrink(workflow: TraceWorkflow, scale: float) -> TraceWorkflow:
    """Its texts and answers `scale` times as long, at least a token each; the headers as they are."""

    def call(one: TraceCall) -> TraceCall:
        if one.prefill:
            return replace(one, prefill=max(1, round(one.prefill * scale)))
        length, limit = (max(1, round(count * scale)) for count in (one.decode, one.max_tokens))
        return replace(one, decode=length, max_tokens=limit)

    return workflow if scale == 1 else replace(workflow, calls=tuple(map(call, workflow.calls)))


def reach(workflow: TraceWorkflow) -> dict[str, int]:
    """Where each call ends at most: the tokens of its parents and its own. Of a group the longest winners count."""
    lengths = {call.id: call.prefill or call.header + call.decode for call in workflow.calls}
    for group in workflow.groups:
        longest = sorted((lengths[member] for member in group.members), reverse=True)
        lengths[group.id] = sum(longest[: group.need])
    return {call.id: lengths[call.id] + sum(lengths[parent] for parent in call.parents) for call in workflow.calls}


def mean_tokens(scale: float, seed: int, room: Room, count: Callable[[TraceCall], int]) -> float:
    """Of a workflow of the mix: the sum of `count` over its calls, on average."""
    fit = select(make_trace(seed, MIX, 1.0), float("inf"), scale, room).workflows
    return fmean(sum(map(count, workflow.calls)) for workflow in fit)
