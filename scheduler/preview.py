"""The dry run: what calls would cost, by the same placement, contexts and counting rule as when they run.

A preview goes through the steps that the calls would take if every step had room for all that is ready: calls start in
the step in which their parents are complete, in order of arrival, and a decode gets one token a step. Nothing waits and
nothing is evicted. So receipts come out as predicted, call by call, where that holds. With less room a call may start
later, and who is first to compute what several need may change.

Sampled tokens stand for themselves as ids that nothing else has; how many they will be is assumed, see `preview`.
Unfinished calls of the workflow are gone through as well, those of other workflows are not: what they have computed, or
are computing, counts as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pavane.scheduler.calls import Workflow
from pavane.scheduler.cast import Cast
from pavane.scheduler.critical import critical_path
from pavane.scheduler.rehearsal import Rehearsal
from pavane.scheduler.spec import CallSpec, GroupSpec, Outcome, Receipt
from pavane.scheduler.states import States


@dataclass(frozen=True, slots=True)
class Plan:
    """`calls` are the new ones, parents first, without tokens; DONE, FAILED, or CANCELLED with the rest of a group, and
    with the receipt that each will have. A finish of LENGTH says that the number of generated tokens is assumed.
    `total` is the sum of their receipts.

    `peak_slots`: the most slots in use at one time by what the workflow's unfinished calls, new and old, read and
    compute, if nothing of it is evicted. `slots_read`: the distinct slots that each of their steps reads, summed over
    the steps. `critical_path`: ids of the chain of calls with the longest work. `winners`: of each group that is open
    and can have its answers, which members are assumed to be first; all of it holds only if they are.
    """

    calls: tuple[Outcome, ...]
    total: Receipt
    peak_slots: int
    slots_read: int
    critical_path: tuple[str, ...]
    winners: dict[str, tuple[str, ...]]


def preview(
    states: States, workflow: Workflow, specs: Sequence[CallSpec | GroupSpec], assumed: int | None, now: float
) -> Plan:
    """What `specs`, checked and parents first, would cost. Does not wait, and leaves calls and cache as they were.

    An answer whose tokens are not forced is taken to be `assumed` tokens long, at most its max_tokens; with None its
    max_tokens, or ASSUMED_TOKENS (cast.py) if it has none. Who is first in an open group is assumed as well: see
    rivals.py. RequestError if it would take too much memory (TOO_LARGE).
    """
    cast = Cast(replace(workflow), states.estimates, states.graph.limits.max_model_len, assumed, now)
    calls = cast.enter(specs)
    rehearsal = Rehearsal(states, cast)
    try:
        rehearsal.run()
        outcomes = tuple(replace(call.outcome(now), tokens=(), logprobs=()) for call in calls)
    finally:
        rehearsal.draft.undo()
    total = Receipt()
    for outcome in outcomes:
        total = total.plus(outcome.receipt)
    winners = {
        group.id: tuple(winner.id for winner in group.winners) for group in cast.groups.values() if group.winners
    }
    footprint = rehearsal.footprint
    return Plan(outcomes, total, footprint.peak, footprint.read, critical_path(cast.calls), winners)
