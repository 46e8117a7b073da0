"""A workflow that is being simulated: what its client sends, and how its calls ended."""

from __future__ import annotations

from collections import Counter

from pavane.bench.simulation.need import WorkflowNeed
from pavane.bench.simulation.tokens import Speller
from pavane.bench.trace import TraceWorkflow
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Outcome, State


class OpenWorkflow:
    """Sends all its calls at once; of a group, the members that are not needed any more are cancelled."""

    def __init__(self, trace: TraceWorkflow, speller: Speller) -> None:
        self.trace = trace
        self.key = (trace.tenant, trace.id)
        self.outcomes: dict[str, Outcome] = {}
        self.need = WorkflowNeed(trace)
        self._speller = speller

    def submit(self, scheduler: Scheduler, now: float) -> None:
        specs = [self._speller.spec(call) for call in self.trace.calls]
        groups = [self._speller.group(group) for group in self.trace.groups]
        scheduler.submit(*self.key, specs, now, groups)

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.id] = outcome
        self.need.end(outcome.id)

    @property
    def ended(self) -> bool:
        return len(self.outcomes) == len(self.trace.calls)

    def counts(self) -> dict[State, int]:
        """How many calls ended in which state."""
        return Counter(outcome.state for outcome in self.outcomes.values())
