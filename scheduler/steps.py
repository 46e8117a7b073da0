"""The steps: what each computes, and which calls find room for it.

A call runs while it holds its locks, and gives them back when it ends or is preempted. Running decodes go first, then,
in the order of the policy, what has prompts to encode: running calls and waiting ones that find room.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from pavane.cache import GraphCache, NeverFitsError, Node, length_of
from pavane.kernels.batch import NO_TOKEN, Batch, MoveReport, Moves, StepResult
from pavane.scheduler.batches import Ahead, BatchMaker, make_moves
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.encode import RUN, encode, go_on, goes_on, grow
from pavane.scheduler.errors import Reason
from pavane.scheduler.estimates import DECODED
from pavane.scheduler.mending import Mending
from pavane.scheduler.order import Key
from pavane.scheduler.plan import Sample, Step
from pavane.scheduler.readiness import Readiness
from pavane.scheduler.resolve import inputs
from pavane.scheduler.results import Results
from pavane.scheduler.scoring import make_scores
from pavane.scheduler.spec import Failure, State
from pavane.scheduler.states import States
from pavane.scheduler.tenants import Tenant
from pavane.scheduler.text import TextRules
from pavane.scheduler.yielding import Yielding

MOST_IN_A_ROW = 16  # steps begun ahead while calls wait, until the order and preemption have their say again
PAIRS_PER_ROW = 16  # (row, segment) pairs of a step, per row of its token budget


class Steps:
    """See the module's docstring. At most one step is open: between `schedule` (or `adopt`) and `commit`."""

    def __init__(
        self, states: States, readiness: Readiness, text: TextRules, *, max_running: int, token_budget: int, share: bool
    ) -> None:
        self.step: Step | None = None
        self.touched: dict[Workflow, None] = {}  # had rows in the step that was committed last
        self._states = states
        self._results = Results(states, readiness)
        self._max_running = max_running
        self._token_budget = token_budget
        self._batches = BatchMaker(text, bos=int(states.cache.bos_id is not None), share=share)
        self._yielding = Yielding(states, max_running)
        self._mending = Mending(states)
        self._tried: Counter[State] | None = None  # calls by state when no waiting one found room; None: some may
        self._in_a_row = 0  # steps begun ahead since, while calls waited

    @property
    def _cache(self) -> GraphCache:
        return self._states.cache

    # ---- putting one together

    def schedule(self, now: float) -> Batch | None:
        """The next step, or None if there is nothing to compute now."""
        assert self.step is None, "the last step was not committed"
        states, order = self._states, self._states.order
        order.make_way(now)
        if self._mending.call is None:  # else nothing starts in their place
            for call in self._yielding.to_others():
                self._preempt(call)
        while True:
            step = self.step = self._open()
            ordered = order.in_order(self._states.running)
            known = set(ordered)
            decodes = [call for call in ordered if call.generated]
            others = [(order.key(call), call) for call in ordered if not call.generated]
            moved = True
            while moved and step.budget > 0:
                moved = False
                for call in decodes:
                    moved |= self._advance(call, step, now)
                for key, call in others:
                    moved |= self._admit(step, now, before=key)
                    moved |= self._advance(call, step, now)
                moved |= self._admit(step, now)
                if moved:
                    decodes = [call for call in decodes if call not in step.busy]
                    admitted = self._states.running.keys() - known
                    known |= admitted
                    others += [(order.key(call), call) for call in self._states.running if call in admitted]
            self._promote()
            if step.items:
                self._tried = states.counts.copy() if step.budget > 0 else None
                self._in_a_row = 0
                return self._with_moves(replace(self._batches.make(step), scores=make_scores(step.scores)))
            if not step.finishing and not step.mended:
                if self._cache.tier is not None and self._cache.tier.flying:
                    return self._with_moves(Batch.only(Moves()))
                self.step = None
                return None
            self.step = None
            for call in step.mended:
                self._states.wait(call)
            for call in step.finishing:  # found complete: nothing had to be computed
                self._results.finish(call, now)

    def _promote(self) -> None:
        """What the call that is next in order reads comes back before it starts."""
        if self._cache.tier is not None and self._mending.call is None:
            call = self._states.order.first()
            if call is not None:
                self._cache.promote(inputs(call))

    def _with_moves(self, batch: Batch) -> Batch:
        transfers = self._cache.tier.take() if self._cache.tier is not None else None
        return batch if transfers is None else replace(batch, moves=make_moves(transfers))

    def ahead(self, *, eager: bool) -> Ahead | None:
        """What may run right after the step that runs now and before that is committed; None if nothing may: each call
        has to end with the step, or to go on by nothing but its next token. If not `eager`, nothing while calls wait or
        end, since what may begin by that would begin a step later."""
        step, states = self.step, self._states
        if step is None or not step.samples or step.mended or step.scores or step.watched:
            return None
        if len(step.samples) + len(step.finishing) != len(states.running) or (step.finishing and not eager):
            return None
        if states.counts[State.QUEUED]:
            # Those that wait found no room, and nothing has come or gone since; now and then they are asked again.
            if not eager or step.finishing or self._tried != states.counts or self._in_a_row == MOST_IN_A_ROW:
                return None
            self._in_a_row += 1
        if not all(map(goes_on, step.samples)) or not all(map(self._grow_ahead, step.samples)):
            return None
        return self._batches.ahead(step)

    def _grow_ahead(self, sample: Sample) -> bool:
        """A slot for the token to come. Nothing goes to the tier below for it: that is not ordered with what runs."""
        node, cache = sample.item.tail, self._cache
        have = length_of(node.extents or [])
        if sample.item.hi - node.lo < have:
            return True
        run = min(RUN, sample.call.max_tokens - sample.call.generated)
        return (cache.tier is None or cache.pool.free >= run) and cache.grow(node, have + run)

    def adopt(self, ahead: Ahead, now: float) -> list[int]:
        """The next step is `ahead`, which runs already: the numbers of those of its samples that count."""
        assert self.step is None, "the last step was not committed"
        step = self.step = self._open()
        kept = []
        for i, item in enumerate(ahead.items):
            call, node = item.call, item.tail
            if call.state is not State.RUNNING or call.sealed or call.span is None or call.span.node is not node:
                continue
            if (node.lo + node.filled, node.hi) == (item.lo, item.hi):
                self._advance(call, step, now)
                kept.append(i)
        self._batches.adopt(ahead, step.items, kept)
        if not kept:
            self.step = None
        return kept

    def _open(self) -> Step:
        return Step(self._token_budget, PAIRS_PER_ROW * self._token_budget)

    def _advance(self, call: Call, step: Step, now: float) -> bool:
        """Schedules what the call can compute next, if it runs and waits for no step. True if anything moved."""
        if call.state is not State.RUNNING or call in step.busy or call.encoded:
            return False
        if call.inputs_ready and not call.sealed and go_on(self._cache, call, step):
            return True
        assert call.span is not None
        for span in call.needs[-1:] if call.inputs_ready else list(call.needs):
            for node in (span.node,) if span.node.lo == span.lo else span.nodes():
                if node.filled == len(node.tokens):
                    continue
                if node.coming:
                    return call in step.busy
                if node.owner is None:  # who computed it has stopped, and what it reads is not locked any more
                    if call not in step.busy:
                        self._park(call)
                    return True
                count = min(step.room(call, node), len(node.tokens) - node.filled)
                if node.owner is not call or count <= 0 or not self._make_room(call, node, step):
                    return call in step.busy
                item = encode(self._cache, call, node, count, step)
                if node.filled < len(node.tokens):
                    return True
                call.inputs_ready = node is call.span.node
                if call.inputs_ready and not call.sealed:
                    index = call.content_end - call.content_begin
                    decode = call.spec.decode
                    forced = decode.forced[index] if decode and decode.forced else NO_TOKEN
                    step.samples.append(Sample(call, item, item.hi - 1, index, forced))
        if call.mending:
            step.mended[call] = None
            return call in step.busy
        if call.sealed and call.span.node.complete:
            step.finishing.append(call)
            self._results.encoded(call, now, step)
            return True
        return call in step.busy

    # ---- room

    def _admit(self, step: Step, now: float, before: Key | None = None) -> bool:
        """Starts waiting calls in order, as long as the next one finds room, or those whose key is less than `before`;
        while a call is mended, none but that. True if any did."""
        states, moved = self._states, False
        while len(states.running) < self._max_running and step.budget > 0:
            call = self._mending.call or states.order.first()
            if call is None or call.state is State.RUNNING or (before is not None and states.order.key(call) >= before):
                break
            try:
                if not self._start(call):
                    break
            except NeverFitsError as error:
                text = (
                    f"call {call.id!r} needs {error.needed} token slots at once, with all that has to be encoded again "
                    f"for it, and the server has {error.size}; use a server with more --num-slots"
                )
                states.end(call, State.FAILED, now, Failure(Reason.NEVER_FITS, text, (call.id,)))
                continue
            states.enter(call, State.RUNNING)
            states.order.begin(call.workflow, now)
            call.started_at = call.started_at if call.started_at is not None else now
            moved = True
            self._advance(call, step, now)
        return moved

    def _start(self, call: Call) -> bool:
        assert call.span is not None
        own, spare = call.span.node, 0
        if call.spec.decode is not None and not call.sealed and not own.complete:
            spare = min(RUN, call.max_tokens - call.generated)
        if self._mending.call is None:
            needs = self._cache.requirements([*inputs(call), call.span])
            try:
                if not self._cache.acquire(needs, call, spare=spare, sparing=self._states.order.sparing):
                    return False
                call.needs = needs
                return True
            except NeverFitsError:
                pass  # what it sees fits, but not with all that has to be encoded again for it
        return self._mending.start(call, spare)

    def _make_room(self, call: Call, node: Node, step: Step) -> bool:
        """Slots for the tokens of a running decode, at the expense of later calls if need be."""
        assert call.span is not None
        if length_of(node.extents or []) >= len(node.tokens) or node is not call.span.node or call.spec.decode is None:
            return True
        if grow(self._cache, call, node):
            return True
        key = self._states.order.key
        while True:
            others = [c for c in self._states.running if c is not call and c not in step.busy and not c.encoded]
            victim = max(others, key=key, default=None)
            if victim is None or key(victim) < key(call):
                self._preempt(call)
                return False
            self._preempt(victim)
            if self._cache.grow(node, len(node)):
                return True

    def _preempt(self, call: Call) -> None:
        self._park(call)
        call.preemptions += 1

    def _park(self, call: Call) -> None:
        """Back to waiting, without locks; what it has computed stays as cache until somebody needs the room."""
        self._states.let_go_of_needs(call)
        self._states.wait(call)

    # ---- what came of it

    def commit(self, result: StepResult, now: float) -> None:
        step = self._close(result.forward_s)
        if self._cache.tier is not None:
            self._cache.tier.costs.observe_step(sum(item.rows for item in step.items), result.forward_s)
        self._results.take(step, result, now)

    def moved(self, report: MoveReport) -> None:
        """Moves of this step, or of earlier ones, have come to an end."""
        assert self._cache.tier is not None
        self._cache.tier.stalls += report.stalls
        self._cache.tier.costs.observe_moves(report.out_tokens, report.out_s, report.in_tokens, report.in_s)
        self._cache.landed(report.arrived, report.failed, report.lost)

    def fail(self, text: str, now: float) -> None:
        """The step has failed: so have its calls, but for those that may try again; these go back to waiting."""
        step = self._close()
        for node, lo, hi in step.first:
            self._cache.unlearn(node, lo, hi)
        for item in step.going_on:
            self._cache.unlearn(item.tail, item.lo, item.hi)
        for item in step.items:
            self._cache.unfill(item.tail, item.lo)
        step.uncount()
        failure = Failure(Reason.RUNNER_FAILED, text)
        for call in dict.fromkeys([*(item.call for item in step.items), *step.finishing]):
            if call.state.ended:
                continue
            if call.spec.lazy:  # nothing was computed for it, and its parents have not failed
                self._results.finish(call, now)
                continue
            call.encoded = False
            if call.attempt >= call.spec.max_attempts:
                self._states.end(call, State.FAILED, now, failure)
            elif call.state is State.RUNNING:  # not twice
                call.attempt += 1
                self._park(call)

    def _close(self, seconds: float = 0.0) -> Step:
        step, self.step = self.step, None
        assert step is not None
        sampled = {id(sample.item) for sample in step.samples}
        work: dict[Tenant, float] = defaultdict(float)
        for workflow, count in Counter([i.call.workflow for i in step.items if id(i) in sampled]).items():
            work[workflow.tenant] += DECODED * count
        for item in [item for item in step.items if id(item) not in sampled]:
            work[item.call.workflow.tenant] += item.rows
        self._states.tenants.serve(work, seconds)
        self.touched = dict.fromkeys([item.call.workflow for item in step.items])
        return step
