"""What ends by the clock: calls at their deadline, workflows that nobody has touched for their ttl."""

from __future__ import annotations

import heapq

from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.errors import Reason
from pavane.scheduler.lifetimes import waits
from pavane.scheduler.spec import Failure, State
from pavane.scheduler.states import States

CHECK_S = 1.0


class Expiry:
    def __init__(self, states: States) -> None:
        self._states = states
        self._deadlines: list[tuple[float, int, Call]] = []
        self._ends: list[tuple[float, int, Call]] = []  # of messages that are kept for a time
        self._next_check = 0.0

    def watch(self, call: Call) -> None:
        if call.deadline is not None:
            heapq.heappush(self._deadlines, (call.deadline, call.serial, call))

    def _collect(self) -> None:
        for call in self._states.to_expire:
            assert call.spec.retention.ttl is not None
            assert call.ended_at is not None
            heapq.heappush(self._ends, (call.ended_at + call.spec.retention.ttl, call.serial, call))
        self._states.to_expire.clear()

    def overdue(self, now: float) -> None:
        """Fails the calls that are past their deadline, and releases messages that are past their time."""
        self._collect()
        while self._ends and self._ends[0][0] <= now:
            self._states.release(heapq.heappop(self._ends)[2])
        deadlines = self._deadlines
        if len(deadlines) > 2 * self._states.graph.unfinished + 64:  # most of them have ended in time
            self._deadlines = deadlines = [entry for entry in deadlines if not entry[2].state.ended]
            heapq.heapify(deadlines)
        while deadlines and deadlines[0][0] <= now:
            call = heapq.heappop(deadlines)[2]
            if call.state.ended:
                continue
            waited = "waiting for parents" if call.state is State.BLOCKED else call.state.value
            given = "the deadline of its workflow"
            if call.spec.timeout is not None and call.deadline == call.accepted_at + call.spec.timeout:
                given = f"its deadline, {call.spec.timeout:g} s after acceptance"
            text = f"call {call.id!r} was still {waited} at {given}"
            self._states.end(call, State.FAILED, now, Failure(Reason.DEADLINE_EXCEEDED, text, (call.id,)))

    def abandoned(self, now: float) -> list[Workflow]:
        """Workflows to close; looks only now and then."""
        if now < self._next_check:
            return []
        self._next_check = now + CHECK_S
        self._states.tenants.forget_unused()
        workflows = self._states.graph.workflows.values()
        for workflow in workflows:
            if waits(workflow, now):
                self._states.order.suspend(workflow)
                self._states.lifetimes.rest(workflow, True)
        return [w for w in workflows if w.unfinished == 0 and now - w.touched_at > w.ttl]

    @property
    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][2].state.ended:
            heapq.heappop(self._deadlines)
        self._collect()
        return min((heap[0][0] for heap in (self._deadlines, self._ends) if heap), default=None)
