"""A workflow that is being simulated: what its client still has to send, and how its calls ended."""

from __future__ import annotations

from collections import Counter

from pavane.bench.simulation.need import WorkflowNeed
from pavane.bench.simulation.tokens import Speller
from pavane.bench.trace import TraceCall, TraceWorkflow
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Outcome, State


class OpenWorkflow:
    """Sends calls as soon as they can be named. What reads a group is sent when enough of its members are done, and
    the members that have not ended are then cancelled, as a client does that waits for the first k of n."""

    def __init__(self, trace: TraceWorkflow, speller: Speller) -> None:
        self.trace = trace
        self.key = (trace.tenant, trace.id)
        self.outcomes: dict[str, Outcome] = {}
        self.need = WorkflowNeed(trace)
        self._speller = speller
        self._calls = {call.id: call for call in trace.calls}
        self._done: list[str] = []
        self._chosen: dict[str, tuple[str, ...]] = {}  # what stands for each group that is decided
        self._unsent = dict(self._calls)

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.id] = outcome
        self.need.end(outcome.id)
        if outcome.state is State.DONE:
            self._done.append(outcome.id)

    def advance(self, scheduler: Scheduler, now: float) -> bool:
        """Sends what can be sent by now. True if all calls have ended."""
        for group in self.trace.groups:
            done = [name for name in self._done if name in group.members][: group.need]
            if group.id not in self._chosen and len(done) == group.need:
                self._chosen[group.id] = tuple(sorted(done, key=group.members.index))
                late = [name for name in group.members if name not in self.outcomes]
                scheduler.cancel(*self.key, late, False, now)
                self.send(scheduler, now)
        return len(self.outcomes) == len(self._calls)

    def counts(self) -> dict[State, int]:
        """How many calls ended in which state."""
        return Counter(outcome.state for outcome in self.outcomes.values())

    def send(self, scheduler: Scheduler, now: float) -> None:
        """Submits what can be named by now."""
        ready = [call for call in self._unsent.values() if self._named(call)]
        for call in ready:
            del self._unsent[call.id]
        scheduler.submit(*self.key, [self._speller.spec(call, self._chosen) for call in ready], now)

    def _named(self, call: TraceCall) -> bool:
        """Whether all groups that it, or what it reads, reads are decided."""
        groups = {group.id for group in self.trace.groups} - self._chosen.keys()
        return groups.isdisjoint(call.parents) and all(
            self._named(self._unsent[name]) for name in call.parents if name in self._unsent
        )
