"""Runs a trace: schedule, let the clock go by what the step takes, commit. Deterministic, without threads or waiting.

As in a server, requests take effect when they arrive, also during a step, and a workflow is closed as soon as all its
calls have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pavane.bench.simulation.tokens import Speller
from pavane.bench.simulation.workflow import OpenWorkflow
from pavane.bench.trace import TraceWorkflow
from pavane.kernels.batch import Runner
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Ended, Event, Receipt, State, StateChanged

FOREVER = 1e12  # seconds


class SimulationError(RuntimeError):
    """The scheduler stopped with work left, or calls failed: whatever was measured does not count."""


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """One workflow as it went. `first_tokens`: seconds from ready to the first token, of each decode that is done."""

    tenant: str
    id: str
    kind: str
    arrived: float
    closed: float
    total: Receipt
    ended: dict[State, int]
    first_tokens: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return self.closed - self.arrived


@dataclass
class Run:
    """What a simulation gave; `peak_need` in tokens, as need.py has it."""

    workflows: list[WorkflowRun] = field(default_factory=list)
    steps: int = 0
    rows: int = 0
    clock: float = 0.0
    peak_need: int = 0
    failures: list[str] = field(default_factory=list)  # why calls failed

    @property
    def total(self) -> Receipt:
        total = Receipt()
        for workflow in self.workflows:
            total = total.plus(workflow.total)
        return total

    def count(self, state: State) -> int:
        """Calls that ended so."""
        return sum(workflow.ended.get(state, 0) for workflow in self.workflows)

    def check(self) -> None:
        """Raises SimulationError if a call failed, which none of a trace should."""
        if self.count(State.FAILED):
            raise SimulationError(f"{self.count(State.FAILED)} calls failed, e.g. {self.failures[0]}")


class Simulator:
    """Plays `trace`, in order of arrival, on `scheduler`; a step takes what the runner's `forward_s` says.

    `priorities`: of the workflows of a tenant, where not 0. `after_step` is called after every step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        trace: Sequence[TraceWorkflow],
        *,
        priorities: Mapping[str, int] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._arriving = deque(trace)
        self._priorities = priorities or {}
        self._after_step = after_step
        self._speller = Speller()
        self._open: dict[tuple[str, str], OpenWorkflow] = {}
        self._need = 0
        self._run = Run()

    def run(self, awaited: Collection[str] | None = None, max_steps: int | None = None) -> Run:
        """Until all workflows are closed, or all those of the tenants `awaited`, or after `max_steps`.

        Raises:
            SimulationError: the scheduler has nothing to do while calls have not ended.
        """
        run, scheduler = self._run, self._scheduler
        left = sum(awaited is None or workflow.tenant in awaited for workflow in self._arriving)
        while left and run.steps != max_steps:
            batch = scheduler.schedule(run.clock)
            if batch is not None:
                result = self._runner.execute(batch)
                end = run.clock + result.forward_s
                self._admit(end)
                scheduler.commit(result, end)
                run.clock = end
                run.steps += 1
                run.rows += batch.n_rows
            closed = self._follow()
            if batch is None and closed is None:  # nothing moves by itself any more
                if not self._arriving:
                    raise SimulationError(f"nothing runs at {run.clock:.3f} s, and {self._unfinished()}")
                self._admit(self._arriving[0].at)
            left -= sum(awaited is None or workflow.tenant in awaited for workflow in closed or ())
            if self._after_step is not None:
                self._after_step()
        return run

    def _admit(self, until: float) -> None:
        """Whatever arrives until then is submitted at its time."""
        while self._arriving and self._arriving[0].at <= until:
            trace = self._arriving.popleft()
            workflow = OpenWorkflow(trace, self._speller)
            self._open[workflow.key] = workflow
            self._run.clock = max(self._run.clock, trace.at)
            priority = self._priorities.get(trace.tenant, 0)
            self._scheduler.open(*workflow.key, 0, FOREVER, trace.at, priority=priority)
            workflow.submit(self._scheduler, trace.at)

    def _follow(self) -> list[WorkflowRun] | None:
        """Takes what has happened to the workflows, closes those that are done and returns them; None: nothing had."""
        happened = self._scheduler.take_events()
        if not happened:
            return None
        for key, events in happened.items():
            if key in self._open:
                self._record(self._open[key], events)
        done = [key for key in happened if key in self._open and self._open[key].ended]
        closed = [self._close(self._open.pop(key)) for key in done]
        self._run.workflows += closed
        return closed

    def _record(self, workflow: OpenWorkflow, events: Sequence[Event]) -> None:
        for event in events:
            before = workflow.need.current
            if isinstance(event, StateChanged) and event.state is State.RUNNING:
                workflow.need.start(event.id)
            elif isinstance(event, Ended):
                workflow.end(event.outcome)
                if event.outcome.failure is not None and event.outcome.state is State.FAILED:
                    self._run.failures.append(event.outcome.failure.text)
            self._need += workflow.need.current - before
            self._run.peak_need = max(self._run.peak_need, self._need)

    def _close(self, workflow: OpenWorkflow) -> WorkflowRun:
        trace, now = workflow.trace, self._run.clock
        self._need -= workflow.need.current
        return WorkflowRun(
            trace.tenant,
            trace.id,
            trace.kind,
            trace.at,
            now,
            self._scheduler.close(*workflow.key, now),
            workflow.counts(),
            tuple(o.receipt.first_token_s for o in workflow.outcomes.values() if o.decode and o.state is State.DONE),
        )

    def _unfinished(self) -> str:
        counts = self._scheduler.counts
        return ", ".join(f"{counts[state]} calls are {state.value}" for state in State if not state.ended)
