"""Coarser tokens and seconds, for long simulations: each stands for `grain` of them, a step for as many as these take.

Lengths and times shrink alike, so that what decides about order and eviction (work, waiting, shares) stays as it is;
what happens within `grain` tokens is lost. A decode of L tokens takes L + 2 steps (the end of its turn, the trailer),
and so it does here, coarsely.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pavane.bench.simulation.simulator import Run
from pavane.bench.simulation.tokens import TRAILER
from pavane.bench.trace import TraceCall, TraceWorkflow


def coarsen(trace: Iterable[TraceWorkflow], grain: int) -> list[TraceWorkflow]:
    """The trace in coarse tokens, at least one where there were any, and coarse seconds."""
    return [replace(w, at=w.at / grain, calls=tuple(_coarse(call, grain) for call in w.calls)) for w in trace]


def refine(run: Run, grain: int) -> Run:
    """The times of a coarse run in seconds, and what it needed in tokens; its receipts stay coarse."""
    workflows = [
        replace(
            w,
            arrived=w.arrived * grain,
            closed=w.closed * grain,
            first_tokens=tuple(seconds * grain for seconds in w.first_tokens),
        )
        for w in run.workflows
    ]
    return replace(run, workflows=workflows, clock=run.clock * grain, peak_need=run.peak_need * grain)


def _coarse(call: TraceCall, grain: int) -> TraceCall:
    if grain == 1:
        return call
    if call.prefill:
        return replace(call, prefill=max(1, round(call.prefill / grain)))
    extra = len(TRAILER)
    decode, limit = (max(1, round((count + extra) / grain) - extra) for count in (call.decode, call.max_tokens))
    return replace(call, header=max(1, round(call.header / grain)), decode=decode, max_tokens=limit)
