"""The scheduler: owner of all calls and of the cache. Synchronous; knows no clock, no thread and no text.

    schedule(now)         what the next step computes, as a Batch; locks and slots are taken here
    commit(result, now)   the step has run: tokens are taken, calls end, promises resolve
    fail_step(text, now)  the step has failed, and with it the calls in it

A call becomes ready when its parents are complete or complete within the step being put together; then it is resolved
to what it sees (resolve.py), waits in the order of the policy (order.py), runs while it holds its locks (steps.py),
and gives them back when it ends (states.py) or is preempted. Where only decodes run, the next step may begin before
this one is committed: `ahead` says which, `adopt` takes it over. Events collect until `take_events`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pavane.cache import GraphCache, Keep, Span
from pavane.kernels.batch import Batch, MoveReport, StepResult
from pavane.scheduler.admission import Admission
from pavane.scheduler.batches import Ahead
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.expiry import Expiry
from pavane.scheduler.graph import Graph, Limits
from pavane.scheduler.lifetimes import reading
from pavane.scheduler.order import FirstCome, GraphOrder
from pavane.scheduler.preview import Plan, preview
from pavane.scheduler.readiness import Readiness
from pavane.scheduler.scoring import Score, ScoreSpec, Scoring
from pavane.scheduler.spec import CallSpec, Closed, Event, Failure, GroupSpec, Outcome, Receipt, State
from pavane.scheduler.states import States, because_of
from pavane.scheduler.steps import Steps
from pavane.scheduler.tenants import Tenants
from pavane.scheduler.text import TextRules

POLICIES = ("graph", "fcfs")


class Scheduler:
    """See the module's docstring.

    `share` lets calls of one step read an encoding together; without it, and with a cache that keeps offsets apart, the
    layout of a call's attention does not depend on other calls. `policy` is one of POLICIES. With "graph", a workflow
    begins only when what it needs fits the slots (turns.py), unless there is no `load_control`.
    """

    def __init__(
        self,
        cache: GraphCache,
        limits: Limits,
        text: TextRules,
        *,
        max_running: int = 64,
        token_budget: int = 512,
        share: bool = True,
        policy: str = "graph",
        load_control: bool = True,
        tenants: Tenants | None = None,
    ) -> None:
        self.cache = cache
        self.tenants = tenants or Tenants()
        self.graph = Graph(limits, self.tenants)
        order = GraphOrder(self.tenants) if policy == "graph" else FirstCome()
        begun = GraphOrder(self.tenants) if policy == "graph" and load_control else None
        self._states = States(cache, self.graph, self.tenants, order, begun)
        self._readiness = Readiness(self._states, text)
        self._steps = Steps(
            self._states, self._readiness, text, max_running=max_running, token_budget=token_budget, share=share
        )
        self._expiry = Expiry(self._states)
        self._admission = Admission(self._states, max_running, limits.max_model_len)

    @property
    def running(self) -> dict[Call, None]:
        return self._states.running

    @property
    def counts(self) -> Counter[State]:
        """Calls that are, or have ended, in each state."""
        return self._states.counts

    # ---- requests

    def open(
        self,
        namespace: str,
        workflow_id: str,
        budget: int,
        ttl: float | None,
        now: float,
        *,
        default_ttl: float = 3600.0,
        priority: int | None = None,
        deadline: float | None = None,
    ) -> bool:
        """True if the workflow was open already; then what is given (a budget that is not 0) replaces what it had.

        `ttl` in seconds without a request or a running call; `deadline` in seconds from now, for all its calls.
        """
        existed = (namespace, workflow_id) in self.graph.workflows
        if not existed:
            self._admission.workflow(self.tenants.get(namespace))
        workflow = self.graph.open(namespace, workflow_id, default_ttl, now)
        workflow.budget = budget or workflow.budget
        workflow.ttl = ttl if ttl is not None else workflow.ttl
        if deadline is not None:
            workflow.deadline = now + deadline
            for call in workflow.calls.values():
                if not call.state.ended:
                    self._expiry.watch(call)
        if priority is not None and priority != workflow.priority:
            workflow.priority = priority
            self._states.order.changed(workflow)
        return existed

    def submit(
        self,
        namespace: str,
        workflow_id: str,
        specs: Sequence[CallSpec],
        now: float,
        groups: Sequence[GroupSpec] = (),
    ) -> list[str]:
        """All or nothing; RequestError says what is wrong. The same calls and groups may be submitted again; returns
        the ids of the calls that are new."""
        workflow = self._open_for_calls(namespace, workflow_id, now)
        if workflow.unfinished == 0:
            workflow.busy_since = now
        fresh, linked = self.graph.submit(
            workflow, specs, groups, now, self._admission.retry_after(),
            lambda new: self._admission.calls(workflow, new, now),
        )  # fmt: skip
        self._states.lifetimes.rest(workflow, False)
        for group in linked:
            self._states.groups.accept(group)
        self._accept(workflow, fresh, now)
        return [call.id for call in fresh]

    def score(
        self, namespace: str, workflow_id: str, spec: ScoreSpec, now: float, done: Callable[[Score], None]
    ) -> Scoring:
        """Judges known content: see scoring.py. `done` is called when that is over, well or not; RequestError says what
        is wrong at once."""
        workflow = self._open_for_calls(namespace, workflow_id, now)
        if workflow.unfinished == 0:
            workflow.busy_since = now
        self.graph.check_score(workflow, spec.call)
        scoring = Scoring(spec, done)
        passes = self.graph.score(
            workflow, scoring, now, self._admission.retry_after(),
            lambda new: self._admission.calls(workflow, new, now),
        )  # fmt: skip
        self._states.lifetimes.rest(workflow, False)
        self._accept(workflow, passes, now)
        return scoring

    def cancel_score(self, scoring: Scoring, now: float) -> None:
        """Nobody waits for it any more."""
        failure = Failure(Reason.CANCELLED, "the score was cancelled")
        self._states.end_all(scoring.calls, State.CANCELLED, failure, now)
        self._settle(now)

    def _accept(self, workflow: Workflow, fresh: Sequence[Call], now: float) -> None:
        """New calls, linked, parents first."""
        for call in fresh:
            self._states.accept(call, self.graph.limits.max_model_len)
            self._expiry.watch(call)
        for call in fresh:
            if call.state.ended:  # with one before it
                continue
            bad = next((p for p in call.parents if p.state in (State.FAILED, State.CANCELLED)), None)
            lost = next((group.failure for group in call.groups if group.failure is not None), None)
            if bad is not None:
                self._states.end(call, State.FAILED, now, because_of(bad))
            elif lost is not None:
                self._states.end(call, State.FAILED, now, lost)
            elif call.pending:
                self._states.announce(call)
            else:
                self._states.ready.append(call)
        if fresh:
            self._states.order.changed(workflow)
        self._resolve(now)
        self._settle(now)

    def cancel(self, namespace: str, workflow_id: str, ids: Sequence[str], descendants: bool, now: float) -> list[str]:
        """Cancels those of the calls that have not ended, of a group all members; returns their ids."""
        workflow = self._touched(namespace, workflow_id, now)
        groups = [workflow.groups[name] for name in dict.fromkeys(ids) if name in workflow.groups]
        calls = [self.graph.call(workflow, name) for name in dict.fromkeys(ids) if name not in workflow.groups]
        calls += [member for group in groups for member in group.members]
        if descendants:
            below = set(ids)
            for call in workflow.calls.values():  # parents come before their children
                reads = {call.spec.copy_of, *(edge.id for edge in call.spec.parents)}
                if call.id not in below and reads & below:
                    below.add(call.id)
                    calls.append(call)
        failure = Failure(Reason.CANCELLED, "the call was cancelled")
        cancelled = self._states.end_all(calls, State.CANCELLED, failure, now)
        self._settle(now)
        return [call.id for call in cancelled if call.scoring is None]

    def finish(self, namespace: str, workflow_id: str, ids: Sequence[str], now: float) -> list[str]:
        """Seals decodes that have started: each ends with its next token, as a valid, shorter message. Returns the ids
        of those that had not ended. All or nothing."""
        workflow = self._touched(namespace, workflow_id, now)
        calls = [self.graph.call(workflow, message_id) for message_id in dict.fromkeys(ids)]
        for call in calls:
            if call.spec.decode is None:
                raise RequestError(
                    Reason.NOT_A_DECODE, f"message {call.id!r} is a Prefill; only decodes can be sealed", (call.id,)
                )
            if call.started_at is None and not call.state.ended:
                raise RequestError(
                    Reason.NOT_STARTED,
                    f"call {call.id!r} is {call.state.value} and has generated nothing; cancel it, or seal it later",
                    (call.id,),
                )
        open_ = [call for call in calls if not call.state.ended]
        for call in open_:
            call.to_be_sealed = True
        return [call.id for call in open_]

    def release(self, namespace: str, workflow_id: str, ids: Sequence[str], now: float) -> None:
        workflow = self._touched(namespace, workflow_id, now)
        for group in [workflow.groups[name] for name in ids if name in workflow.groups]:
            self._states.groups.release(group)
        known = [i for i in ids if i not in workflow.digests or i in workflow.calls]
        for call in [self.graph.call(workflow, message_id) for message_id in known]:
            self._states.release(call)

    def close(self, namespace: str, workflow_id: str, now: float) -> Receipt:
        """Cancels what has not ended, forgets the workflow, and returns the sum of its receipts."""
        workflow = self.graph.workflow(namespace, workflow_id)
        failure = Failure(Reason.WORKFLOW_CLOSED, "the workflow was closed")
        self._states.end_all(workflow.calls.values(), State.CANCELLED, failure, now)
        self._states.groups.close(workflow)
        for call in list(workflow.calls.values()):
            self._states.release(call)
        self._states.order.forget(workflow)
        self.graph.forget(workflow)
        self._states.tell(workflow, Closed(workflow.total))
        return workflow.total

    def plan(
        self,
        namespace: str,
        workflow_id: str,
        specs: Sequence[CallSpec],
        now: float,
        groups: Sequence[GroupSpec] = (),
        *,
        assumed: int | None = None,
    ) -> Plan:
        """What those of the calls that are new would cost if they were submitted now; nothing runs. RequestError as
        from `submit`. See `preview`."""
        workflow = self._open_for_calls(namespace, workflow_id, now)
        fresh = self.graph.check(
            workflow, specs, groups, self._admission.retry_after(),
            lambda new: self._admission.calls(workflow, new, now),
        )  # fmt: skip
        return preview(self._states, workflow, fresh, assumed, now)

    def outcome(self, namespace: str, workflow_id: str, message_id: str, now: float) -> Outcome:
        workflow = self._touched(namespace, workflow_id, now)
        return self.graph.call(workflow, message_id).outcome(now)

    def outcomes(
        self, namespace: str, workflow_id: str, after: int, count: int, now: float
    ) -> list[tuple[int, Outcome]]:
        """The next `count` messages by order of arrival, each with its place in this order."""
        workflow = self._touched(namespace, workflow_id, now)
        later = (call for call in workflow.calls.values() if call.serial > after and call.scoring is None)
        return [(call.serial, call.outcome(now)) for call, _ in zip(later, range(count), strict=False)]

    def take_events(self) -> dict[tuple[str, str], list[Event]]:
        """What has happened since the last time, by workflow (namespace, id)."""
        return self._states.take_events()

    # ---- the step

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None if there is nothing to compute now."""
        self._expire(now)
        while True:
            self._settle(now)
            batch = self._steps.schedule(now)
            if batch is not None or not self._settle(now):
                return batch

    def ahead(self, *, eager: bool = False) -> Ahead | None:
        """What may run right after the step that runs now and before that is committed; None if nothing may. See
        `Steps.ahead`."""
        return self._steps.ahead(eager=eager)

    def adopt(self, ahead: Ahead, now: float) -> list[int]:
        """The next step is `ahead`, which runs already: the numbers of those of its samples that count."""
        self._expire(now)
        return self._steps.adopt(ahead, now)

    def commit(self, result: StepResult, now: float) -> None:
        self._steps.commit(result, now)
        self._resolve(now)  # passes of scores that waited for what was kept of the reference
        for workflow in self._steps.touched:
            if workflow.budget and workflow.spent >= workflow.budget and workflow.unfinished:
                error = _over_budget(workflow)
                failure = Failure(error.reason, error.text, error.ids)
                self._states.end_all(workflow.calls.values(), State.FAILED, failure, now)
        self._settle(now)

    def moved(self, report: MoveReport) -> None:
        """KV has come to the slots, or could not be moved; before `commit`, if this is of the same step."""
        self._steps.moved(report)

    def fail_step(self, text: str, now: float) -> None:
        self._steps.fail(text, now)
        self._settle(now)

    def fail_all(self, reason: Reason, text: str, now: float) -> None:
        """Ends every call that has not ended; also in the middle of a step that will not be committed."""
        for workflow in list(self.graph.workflows.values()):
            self._states.end_all(workflow.calls.values(), State.FAILED, Failure(reason, text), now)

    @property
    def next_timer(self) -> float | None:
        """When `schedule` has something to do though nobody asks: the next deadline."""
        return self._expiry.next_deadline

    # ---- parts

    def _open_for_calls(self, namespace: str, workflow_id: str, now: float) -> Workflow:
        workflow = self._touched(namespace, workflow_id, now)
        if workflow.budget and workflow.spent >= workflow.budget:
            raise _over_budget(workflow)
        return workflow

    def _touched(self, namespace: str, workflow_id: str, now: float) -> Workflow:
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        return workflow

    def _resolve(self, now: float) -> None:
        for call in self._readiness.resolve(now, self._steps.step):
            self._states.end(call, State.DONE, now)

    def _settle(self, now: float) -> bool:
        """Groups whose winners are known now, and what is ready by that. True if there were any."""
        settled = False
        while self._states.groups.settle(now):
            settled = True
            self._resolve(now)
        return settled

    def _expire(self, now: float) -> None:
        self._expiry.overdue(now)
        for workflow in self._expiry.abandoned(now):
            self.close(workflow.namespace, workflow.id, now)

    def held(self) -> tuple[list[tuple[Span, Keep]], list[Span]]:
        """For the audit: the spans retained by calls, and those acquired by running ones."""
        retained: list[tuple[Span, Keep]] = []
        acquired: list[Span] = []
        calls: dict[Call, None] = {}
        for workflow in self.graph.workflows.values():
            for call in workflow.calls.values():
                calls[call] = None
                calls.update(dict.fromkeys(call.parents))
            for group in workflow.groups.values():
                calls.update(dict.fromkeys(group.members if group.open else group.winners))
        for call in calls:
            if call.span is not None:
                retained.append((call.span, call.keep))
            if not call.state.ended:
                retained.extend((use.span, reading(call.workflow)) for use in call.uses if use.exact)
            acquired.extend(call.needs)
        return retained, acquired


def _over_budget(workflow: Workflow) -> RequestError:
    return RequestError(
        Reason.BUDGET_EXHAUSTED,
        f"workflow {workflow.id!r} has used {workflow.spent} of its {workflow.budget} tokens; open it again with a "
        "larger budget_tokens, or another one",
        (workflow.id,),
    )
