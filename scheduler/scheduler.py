"""The scheduler: owner of all calls and of the cache. Synchronous; knows no clock, no thread and no text.

    schedule(now)         what the next step computes, as a Batch; locks and slots are taken here
    commit(result, now)   the step has run: tokens are taken, calls end, promises resolve
    fail_step(text, now)  the step has failed, and with it the calls in it

A call becomes ready when its parents are complete or complete within the step being put together; then it is resolved
to what it sees (resolve.py), waits in the order of the policy, runs while it holds its locks, and gives them back when
it ends or is preempted. Where only decodes run, the next step may begin before this one is committed: `ahead` says
which, `adopt` takes it over. Events collect until `take_events`.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Sequence

from pavane.cache import GraphCache, NeverFitsError, Node, Span
from pavane.kernels.batch import NO_TOKEN, Batch, StepResult
from pavane.scheduler.batches import Ahead, BatchMaker
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.content import seal, take
from pavane.scheduler.encode import RUN, encode, grow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.graph import Graph, Limits
from pavane.scheduler.plan import Sample, Step
from pavane.scheduler.policy import FirstComeFirstServed, Policy
from pavane.scheduler.resolve import inputs, resolve
from pavane.scheduler.samples import Taken, taken_tokens
from pavane.scheduler.spec import (
    CallSpec,
    Closed,
    Ended,
    Event,
    Failure,
    Finish,
    Outcome,
    Receipt,
    State,
    StateChanged,
)
from pavane.scheduler.text import TextRules

PAIRS_PER_ROW = 16  # (row, segment) pairs of a step, per row of its token budget
MENDS_PER_HOLE = 4  # how often a call may encode again, piece by piece, what eviction keeps taking
TTL_CHECK_S = 1.0


class Scheduler:
    """See the module's docstring.

    `share` lets calls of one step read an encoding together; without it, and with a cache that keeps offsets apart, the
    layout of a call's attention does not depend on other calls.
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
        policy: Policy | None = None,
    ) -> None:
        self.cache = cache
        self.graph = Graph(limits)
        self.running: dict[Call, None] = {}
        self.counts: Counter[State] = Counter()  # calls that are, or have ended, in each state
        self._text = text
        self._max_running = max_running
        self._token_budget = token_budget
        self._batches = BatchMaker(text, bos=int(cache.bos_id is not None), share=share)
        self._policy = policy or FirstComeFirstServed()
        self._queue: list[tuple[tuple[float, ...], int, Call]] = []
        self._deadlines: list[tuple[float, int, Call]] = []
        self._step: Step | None = None
        self._ready: deque[Call] = deque()
        self._events: dict[tuple[str, str], list[Event]] = {}
        self._next_ttl_check = 0.0
        self._seconds_per_call = 1.0

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
    ) -> bool:
        """True if the workflow was open already; then a budget (not 0) or ttl that is given replaces the old one."""
        existed = (namespace, workflow_id) in self.graph.workflows
        workflow = self.graph.open(namespace, workflow_id, default_ttl, now)
        workflow.budget = budget or workflow.budget
        workflow.ttl = ttl if ttl is not None else workflow.ttl
        return existed

    def submit(self, namespace: str, workflow_id: str, specs: Sequence[CallSpec], now: float) -> list[str]:
        """All or nothing; RequestError says what is wrong. The same calls may be submitted again; returns the ids of
        those that are new."""
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        if workflow.budget and workflow.spent >= workflow.budget:
            raise self._over_budget(workflow)
        waiting = len(self._queue) + len(self.running)
        retry_after = min(60.0, max(0.2, self._seconds_per_call * max(1, waiting) / 4))
        fresh = self.graph.submit(workflow, specs, now, retry_after)
        self.counts[State.BLOCKED] += len(fresh)
        for call in fresh:
            if call.deadline is not None:
                heapq.heappush(self._deadlines, (call.deadline, call.serial, call))
            bad = next((p for p in call.parents if p.state in (State.FAILED, State.CANCELLED)), None)
            if bad is not None:
                self._end(call, State.FAILED, now, _because_of(bad))
            elif call.pending:
                self._announce(call, State.BLOCKED)
            else:
                self._ready.append(call)
        self._resolve_ready(now)
        return [call.id for call in fresh]

    def cancel(self, namespace: str, workflow_id: str, ids: Sequence[str], descendants: bool, now: float) -> list[str]:
        """Cancels those of the calls that have not ended; returns their ids."""
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        calls = [self.graph.call(workflow, message_id) for message_id in dict.fromkeys(ids)]
        if descendants:
            below = set(ids)
            for call in workflow.calls.values():  # parents come before their children
                reads = {call.spec.copy_of, *(edge.id for edge in call.spec.parents)}
                if call.id not in below and reads & below:
                    below.add(call.id)
                    calls.append(call)
        cancelled = [call for call in calls if not call.state.ended]
        failure = Failure(Reason.CANCELLED, "the call was cancelled")
        spare = set(cancelled)
        for call in cancelled:
            self._end(call, State.CANCELLED, now, failure, spare=spare)
        return [call.id for call in cancelled]

    def release(self, namespace: str, workflow_id: str, ids: Sequence[str], now: float) -> None:
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        known = [i for i in ids if i not in workflow.digests or i in workflow.calls]
        for call in [self.graph.call(workflow, message_id) for message_id in known]:
            self._release(call)

    def close(self, namespace: str, workflow_id: str, now: float) -> Receipt:
        """Cancels what has not ended, forgets the workflow, and returns the sum of its receipts."""
        workflow = self.graph.workflow(namespace, workflow_id)
        self._end_all(workflow, State.CANCELLED, Failure(Reason.WORKFLOW_CLOSED, "the workflow was closed"), now)
        for call in list(workflow.calls.values()):
            self._release(call)
        del self.graph.workflows[workflow.key]
        self._events.setdefault(workflow.key, []).append(Closed(workflow.total))
        return workflow.total

    def outcome(self, namespace: str, workflow_id: str, message_id: str, now: float) -> Outcome:
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        return self.graph.call(workflow, message_id).outcome(now)

    def outcomes(
        self, namespace: str, workflow_id: str, after: int, count: int, now: float
    ) -> list[tuple[int, Outcome]]:
        """The next `count` messages by order of arrival, each with its place in this order."""
        workflow = self.graph.workflow(namespace, workflow_id)
        workflow.touched_at = now
        later = (call for call in workflow.calls.values() if call.serial > after)
        return [(call.serial, call.outcome(now)) for call, _ in zip(later, range(count), strict=False)]

    def take_events(self) -> dict[tuple[str, str], list[Event]]:
        """What has happened since the last time, by workflow (namespace, id)."""
        events, self._events = self._events, {}
        return events

    # ---- the step

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None if there is nothing to compute now."""
        assert self._step is None, "the last step was not committed"
        self._expire(now)
        while True:
            step = self._step = Step(self._token_budget, PAIRS_PER_ROW * self._token_budget)
            order = sorted(self.running, key=lambda c: (not c.generated, self._policy.key(c)))
            moved = True
            while moved and step.budget > 0:
                moved = False
                for call in order:
                    if call.state is State.RUNNING and call not in step.busy and not call.encoded:
                        moved |= self._advance(call, step, now)
                admitted = self._admit(step, now)
                order.extend(admitted)
                moved |= bool(admitted)
            if step.items:
                return self._batches.make(step)
            self._step = None
            if not step.finishing and not step.mended:
                return None
            for call in step.mended:
                self._park(call)
            for call in step.finishing:  # found complete: nothing had to be computed
                self._finish(call, now)

    def ahead(self) -> Ahead | None:
        """What may run right after the step that runs now and before that is committed; None if nothing may."""
        step = self._step
        if step is None or self.counts[State.QUEUED] or step.finishing or step.mended:
            return None
        return self._batches.ahead(step) if len(step.items) == len(self.running) else None

    def adopt(self, ahead: Ahead, now: float) -> list[int]:
        """The next step is `ahead`, which runs already: the numbers of those of its samples that count."""
        assert self._step is None, "the last step was not committed"
        self._expire(now)
        step = self._step = Step(self._token_budget, PAIRS_PER_ROW * self._token_budget)
        kept = []
        for i, item in enumerate(ahead.items):
            call, node = item.call, item.tail
            if call.state is not State.RUNNING or call.sealed or call.span is None or call.span.node is not node:
                continue
            if (node.lo + node.filled, node.hi) == (item.lo, item.hi):
                self._advance(call, step, now)
                kept.append(i)
        self._batches.adopt(ahead, step.items)
        if not kept:
            self._step = None
        return kept

    def commit(self, result: StepResult, now: float) -> None:
        step, self._step = self._step, None
        assert step is not None
        for sample, taken in zip(step.samples, taken_tokens(step.samples, result), strict=True):
            if sample.call.state is State.RUNNING:
                self._take(sample, taken, now)
        for call in step.mended:
            if call.state is State.RUNNING:
                self._park(call)
        for call in step.finishing:
            if not call.state.ended:
                self._finish(call, now)
        self._check_budgets(step, now)

    def fail_step(self, text: str, now: float) -> None:
        step, self._step = self._step, None
        assert step is not None
        for item in step.items:
            self.cache.unfill(item.tail, item.lo)
        failure = Failure(Reason.RUNNER_FAILED, text)
        for call in [item.call for item in step.items] + step.finishing:
            if not call.state.ended:
                call.encoded = False
                self._end(call, State.FAILED, now, failure)

    def fail_all(self, reason: Reason, text: str, now: float) -> None:
        """Ends every call that has not ended; also in the middle of a step that will not be committed."""
        for workflow in list(self.graph.workflows.values()):
            self._end_all(workflow, State.FAILED, Failure(reason, text), now)

    @property
    def next_timer(self) -> float | None:
        """When `schedule` has something to do though nobody asks: the next deadline."""
        while self._deadlines and self._deadlines[0][2].state.ended:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    # ---- running calls

    def _advance(self, call: Call, step: Step, now: float) -> bool:
        """Schedules what the call can compute next. True if anything moved."""
        assert call.span is not None
        for span in call.needs[-1:] if call.inputs_ready else list(call.needs):
            for node in span.nodes():
                if node.complete:
                    continue
                if node.owner is None:  # who computed it has stopped, and what it reads is not locked any more
                    if call not in step.busy:
                        self._park(call)
                    return True
                count = min(step.room(node), len(node) - node.filled)
                if node.owner is not call or count <= 0 or not self._make_room(call, node, step):
                    return call in step.busy
                item = encode(self.cache, call, node, count, step)
                if node.filled < len(node):
                    return True
                call.inputs_ready = node is call.span.node
                if call.inputs_ready and not call.sealed:
                    index = call.content_end - call.content_begin
                    decode = call.spec.decode
                    forced = decode.forced[index] if decode and decode.forced else NO_TOKEN
                    step.samples.append(Sample(call, item, node.hi - 1, index, forced))
        if call.mending:
            step.mended[call] = None
            return call in step.busy
        if call.sealed and call.span.node.complete:
            call.encoded = True
            step.finishing.append(call)
            self._resolve_children(call, now)
            return True
        return call in step.busy

    def _make_room(self, call: Call, node: Node, step: Step) -> bool:
        """Slots for the tokens of a running decode, at the expense of later calls if need be."""
        assert call.span is not None
        if node is not call.span.node or call.spec.decode is None:
            return True
        if grow(self.cache, call, node):
            return True
        while True:
            others = [c for c in self.running if c is not call and c not in step.busy and not c.encoded]
            victim = max(others, key=self._policy.key, default=None)
            if victim is None or self._policy.key(victim) < self._policy.key(call):
                self._park(call)
                call.preemptions += 1
                return False
            self._park(victim)
            victim.preemptions += 1
            if self.cache.grow(node, len(node)):
                return True

    def _park(self, call: Call) -> None:
        """Back to the queue without locks; what it has computed stays as cache until somebody needs the room."""
        self.cache.abandon(call.needs, call)
        call.needs = []
        call.inputs_ready = call.mending = False
        del self.running[call]
        self._enqueue(call)

    # ---- waiting calls

    def _admit(self, step: Step, now: float) -> list[Call]:
        """Starts waiting calls in order, as long as the next one finds room."""
        admitted: list[Call] = []
        while self._queue and len(self.running) < self._max_running and step.budget > 0:
            call = self._queue[0][2]
            if call.state is not State.QUEUED:
                heapq.heappop(self._queue)
                continue
            try:
                if not self._start(call):
                    break
            except NeverFitsError as error:
                heapq.heappop(self._queue)
                text = (
                    f"call {call.id!r} needs {error.needed} token slots at once, with all that has to be encoded again "
                    f"for it, and the server has {error.size}; use a server with more --num-slots"
                )
                self._end(call, State.FAILED, now, Failure(Reason.NEVER_FITS, text, (call.id,)))
                continue
            heapq.heappop(self._queue)
            self._set(call, State.RUNNING)
            call.started_at = call.started_at if call.started_at is not None else now
            self.running[call] = None
            admitted.append(call)
            self._advance(call, step, now)
        return admitted

    def _start(self, call: Call) -> bool:
        assert call.span is not None
        needs = self.cache.requirements([*inputs(call), call.span])
        own = needs[-1].node
        spare = 0
        if call.spec.decode is not None and not call.sealed and not own.complete:
            spare = min(RUN, call.max_tokens - call.generated)
        try:
            if not self.cache.acquire(needs, call, spare=spare):
                return False
        except NeverFitsError:
            # What it sees fits, but not with all that has to be encoded again for it: one hole after the other then.
            holes = [span for span in needs[:-1] if not span.node.complete and span.node.owner is None]
            call.mends += 1
            if not holes or call.mends > MENDS_PER_HOLE * len(needs):
                raise
            needs = self.cache.requirements(holes[:1])
            if not self.cache.acquire(needs, call):
                return False
            call.mending = True
        call.needs = needs
        return True

    def _enqueue(self, call: Call) -> None:
        self._set(call, State.QUEUED)
        heapq.heappush(self._queue, (self._policy.key(call), call.serial, call))

    def _resolve_children(self, call: Call, now: float) -> None:
        self._ready.extend(_freed(call))
        self._resolve_ready(now)

    def _resolve_ready(self, now: float) -> None:
        while self._ready:
            call = self._ready.popleft()
            if call.state.ended:
                continue
            call.ready_at = now
            try:
                resolve(self.cache, call, self.graph.limits.max_model_len)
            except RequestError as error:
                self._end(call, State.FAILED, now, Failure(error.reason, error.text, error.ids))
                continue
            decode = call.spec.decode
            if decode is not None:
                if decode.stop:  # after min_tokens the beginning of the answer is too far away to matter
                    call.matcher = self._text.matcher(decode.stop, "" if decode.min_tokens else decode.beginning)
                if decode.one_pass:
                    call.sealed, call.finish = True, Finish.FORCED
                    call.generated, call.trailer = len(decode.forced), len(decode.trailer)
            if not call.spec.lazy:
                self._enqueue(call)
                continue
            call.encoded = True
            self._ready.extend(_freed(call))
            if self._step is not None and not all(parent.state.ended for parent in call.parents):
                self._step.finishing.append(call)  # with the parents that are complete only if the step succeeds
            else:
                self._finish(call, now)

    # ---- tokens

    def _take(self, sample: Sample, taken: Taken, now: float) -> None:
        call = sample.call
        if call.first_token_at is None:
            call.first_token_at = now
        added, end = take(self.cache, call, sample.index, taken)
        if added is not None:
            self._publish(call, added)
        if isinstance(end, Failure):
            self._end(call, State.FAILED, now, end)
        elif end is not None:
            self._seal(call, end, now)

    def _seal(self, call: Call, finish: Finish, now: float) -> None:
        seal(self.cache, call, finish)
        assert call.span is not None
        if call.span.node.complete:
            call.encoded = True
            self._resolve_children(call, now)
            self._finish(call, now)

    # ---- ends

    def _finish(self, call: Call, now: float) -> None:
        decode = call.spec.decode
        if decode is not None and call.span is not None and not call.span.node.indexed:
            call.span = self.cache.seal(call.span, call.needs)
        if decode is not None and call.first_token_at is None:
            call.first_token_at = now
        self._end(call, State.DONE, now)

    def _end(
        self, call: Call, state: State, now: float, failure: Failure | None = None, spare: set[Call] | None = None
    ) -> None:
        """The one way out. Unless DONE, what waits for the call fails too, but for the calls in `spare`."""
        pending = [(call, state, failure)]
        while pending:
            call, state, failure = pending.pop()
            if call.state.ended:
                continue
            if call in self.running:
                del self.running[call]
            if call.needs:
                self.cache.abandon(call.needs, call)
                call.needs = []
            for use in call.uses:
                if use.exact:
                    self.cache.release(use.span)
            call.ended_at = now
            call.failure = failure
            if state is not State.DONE and call.span is not None:
                self.cache.release(call.span)
                call.span = None
            self._move(call, state)
            call.workflow.unfinished -= 1
            call.workflow.touched_at = now
            self.graph.unfinished -= 1
            outcome = call.outcome(now)
            call.workflow.total = call.workflow.total.plus(outcome.receipt)
            if state is State.DONE and call.started_at is not None:
                self._seconds_per_call += 0.05 * (now - call.started_at - self._seconds_per_call)
            self._publish(call, Ended(call.id, outcome))
            if state is not State.DONE:
                pending.extend(
                    (child, State.FAILED, _because_of(call)) for child in call.children if child not in (spare or ())
                )
            call.visible = []
            call.edits = None
            self._let_go(call)

    def _end_all(self, workflow: Workflow, state: State, failure: Failure, now: float) -> None:
        """All unfinished calls of a workflow, each for the same reason."""
        unfinished = [call for call in workflow.calls.values() if not call.state.ended]
        spare = set(unfinished)
        for call in unfinished:
            self._end(call, state, now, failure, spare=spare)

    def _let_go(self, call: Call) -> None:
        """The call reads its parents no more."""
        last_uses = {edge.id for edge in call.spec.parents if edge.last_use}
        for parent in call.parents:
            parent.unfinished_readers -= 1
            parent.children.pop(call, None)
            if parent.id in last_uses:
                parent.released = True
            if parent.released:
                self._release(parent)
        call.parents = []
        if call.released:
            self._release(call)

    def _release(self, call: Call) -> None:
        call.released = True
        if not call.state.ended:
            return
        call.workflow.calls.pop(call.id, None)
        if call.unfinished_readers == 0 and call.span is not None:
            self.cache.release(call.span)
            call.span = None

    def _expire(self, now: float) -> None:
        if len(self._deadlines) > 2 * self.graph.unfinished + 64:  # most of them have ended in time
            self._deadlines = [entry for entry in self._deadlines if not entry[2].state.ended]
            heapq.heapify(self._deadlines)
        if len(self._queue) > 2 * self.counts[State.QUEUED] + 64:
            self._queue = [entry for entry in self._queue if entry[2].state is State.QUEUED]
            heapq.heapify(self._queue)
        while self._deadlines and self._deadlines[0][0] <= now:
            call = heapq.heappop(self._deadlines)[2]
            if not call.state.ended:
                waited = "waiting for parents" if call.state is State.BLOCKED else call.state.value
                text = f"call {call.id!r} was still {waited} at its deadline, {call.spec.timeout:g} s after acceptance"
                self._end(call, State.FAILED, now, Failure(Reason.DEADLINE_EXCEEDED, text, (call.id,)))
        if now >= self._next_ttl_check:
            self._next_ttl_check = now + TTL_CHECK_S
            for workflow in list(self.graph.workflows.values()):
                if workflow.unfinished == 0 and now - workflow.touched_at > workflow.ttl:
                    self.close(workflow.namespace, workflow.id, now)

    def _check_budgets(self, step: Step, now: float) -> None:
        for workflow in {call.workflow: None for call in step.busy}:
            if workflow.budget and workflow.spent >= workflow.budget and workflow.unfinished:
                error = self._over_budget(workflow)
                self._end_all(workflow, State.FAILED, Failure(error.reason, error.text, error.ids), now)

    def _over_budget(self, workflow: Workflow) -> RequestError:
        return RequestError(
            Reason.BUDGET_EXHAUSTED,
            f"workflow {workflow.id!r} has used {workflow.spent} of its {workflow.budget} tokens; open it again with a "
            "larger budget_tokens, or another one",
            (workflow.id,),
        )

    # ---- telling

    def _set(self, call: Call, state: State) -> None:
        self._move(call, state)
        self._announce(call, state)

    def _move(self, call: Call, state: State) -> None:
        self.counts[call.state] -= 1
        self.counts[state] += 1
        call.state = state

    def _announce(self, call: Call, state: State) -> None:
        self._publish(call, StateChanged(call.id, state))

    def _publish(self, call: Call, event: Event) -> None:
        self._events.setdefault(call.workflow.key, []).append(event)

    def held(self) -> tuple[list[Span], list[Span]]:
        """For the audit: the spans retained by calls, and those acquired by running ones."""
        retained: list[Span] = []
        acquired: list[Span] = []
        calls: dict[Call, None] = {}
        for workflow in self.graph.workflows.values():
            for call in workflow.calls.values():
                calls[call] = None
                calls.update(dict.fromkeys(call.parents))
        for call in calls:
            if call.span is not None:
                retained.append(call.span)
            if not call.state.ended:
                retained.extend(use.span for use in call.uses if use.exact)
            acquired.extend(call.needs)
        return retained, acquired


def _freed(call: Call) -> list[Call]:
    """The children of `call`, now complete, that wait for nobody else."""
    for child in call.children:
        child.pending -= 1
    return [child for child in call.children if child.pending == 0 and not child.state.ended]


def _because_of(parent: Call) -> Failure:
    if parent.state is State.CANCELLED:
        return Failure(Reason.PARENT_CANCELLED, f"parent {parent.id!r} was cancelled", (parent.id,))
    why = parent.failure.text if parent.failure is not None else "unknown"
    return Failure(Reason.PARENT_FAILED, f"parent {parent.id!r} failed: {why}", (parent.id,))
