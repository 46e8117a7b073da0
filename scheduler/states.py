"""Which call is in which state, and the one way out. Owner of the running and the waiting calls, and of the events."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from pavane.cache import GraphCache
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.errors import Reason
from pavane.scheduler.estimates import Estimates
from pavane.scheduler.graph import Graph
from pavane.scheduler.groups import Groups
from pavane.scheduler.lifetimes import Lifetimes, reading
from pavane.scheduler.order import GraphOrder, Order
from pavane.scheduler.spec import Ended, Event, Failure, State, StateChanged
from pavane.scheduler.tenants import Tenants
from pavane.scheduler.turns import Turns
from pavane.scheduler.working_set import WorkingSets


class States:
    """`ready` are calls whose parents are complete and that nobody has resolved yet."""

    def __init__(
        self, cache: GraphCache, graph: Graph, tenants: Tenants, order: Order, begun: GraphOrder | None = None
    ) -> None:
        """`order`, `begun`: see Turns."""
        self.cache = cache
        self.graph = graph
        self.tenants = tenants
        self.estimates = Estimates()
        self.lifetimes = Lifetimes(cache)
        sets = WorkingSets(cache, self.estimates, graph.limits.max_model_len)
        self.groups = Groups(self)
        self.running: dict[Call, None] = {}
        self.order = Turns(order, begun, sets, self.lifetimes, self.running)
        self.counts: Counter[State] = Counter()  # calls that are, or have ended, in each state
        self.ready: deque[Call] = deque()
        self.to_expire: list[Call] = []  # have ended well, and are kept for a time
        self.seconds_per_call = 1.0
        self._events: dict[Workflow, list[Event]] = {}

    def accept(self, call: Call, limit: int) -> None:
        """A new call, BLOCKED. `limit`: see Estimates.work."""
        tenant = call.workflow.tenant
        self.counts[State.BLOCKED] += 1
        self.lifetimes.accepted(call)
        call.stored = call.spec.stored_tokens
        tenant.unfinished += 1
        tenant.stored_tokens += call.stored
        for longer in self.estimates.link(call, limit):
            if longer.state is State.QUEUED:
                self.order.raised(longer)

    def enter(self, call: Call, state: State) -> None:
        self.move(call, state)
        self.announce(call)

    def move(self, call: Call, state: State) -> None:
        tenant = call.workflow.tenant
        if call.state is State.RUNNING:
            del self.running[call]
            tenant.running -= 1
        elif call.state is State.QUEUED:
            self.order.remove(call)
            tenant.waiting -= 1
        was_running = call.state is State.RUNNING
        self.counts[call.state] -= 1
        self.counts[state] += 1
        call.state = state
        if state is State.RUNNING:
            self.running[call] = None
            tenant.running += 1
        elif state is State.QUEUED:
            tenant.waiting += 1
            self.order.push(call)
        self.tenants.moved(tenant)
        if was_running:
            self.order.free(tenant)

    def wait(self, call: Call) -> None:
        """A running call waits again. While it is mended, it keeps its locks."""
        call.inputs_ready = call.mending = False
        self.estimates.waits_again(call)
        self.enter(call, State.QUEUED)
        self.order.changed(call.workflow)

    def encoded(self, call: Call) -> None:
        """The call's message is complete, or will be with the step that is being put together."""
        call.encoded = True
        if call.promised:
            return
        call.promised = True
        for child in call.children:
            self.kept(child)

    def kept(self, child: Call) -> None:
        """One of the promises that `child` waits for is kept."""
        child.pending -= 1
        if child.pending == 0 and not child.state.ended:
            self.ready.append(child)

    # ---- ends

    def end(
        self, call: Call, state: State, now: float, failure: Failure | None = None, spare: set[Call] | None = None
    ) -> None:
        """Unless DONE, what waits for the call fails too, but for the calls in `spare`."""
        pending = [(call, state, failure)]
        while pending:
            call, state, failure = pending.pop()
            if call.state.ended:
                continue
            self.let_go_of_needs(call)
            for use in call.uses:
                if use.exact:
                    self.cache.release(use.span, reading(call.workflow))
            call.ended_at = now
            call.failure = failure
            if state is not State.DONE:
                self.lifetimes.drop(call)
            self.move(call, state)
            self._count_out(call, state, now)
            outcome = call.outcome(now)
            call.workflow.total = call.workflow.total.plus(outcome.receipt)
            self.publish(call, Ended(call.id, outcome))
            if state is not State.DONE:
                pending.extend(
                    (child, State.FAILED, because_of(call)) for child in call.children if child not in (spare or ())
                )
            for group in self.groups.ended(call):
                assert group.failure is not None
                pending.extend((child, State.FAILED, group.failure) for child in group.children)
                group.children = {}
            if call.scoring is not None:
                freed, others = call.scoring.scoring.ended(call, now)
                pending.extend((other, state, failure) for other in others)
                for other in freed:
                    self.kept(other)
            call.visible = []
            call.edits = None
            if call.attention is not None:
                call.attention.pieces = ()
            self.lifetimes.refresh(call)
            self._let_go_of_parents(call)

    def end_all(self, calls: Iterable[Call], state: State, failure: Failure, now: float) -> list[Call]:
        """Those of `calls` that have not ended, each for the same reason; returns them."""
        unfinished = [call for call in calls if not call.state.ended]
        spare = set(unfinished)
        for call in unfinished:
            self.end(call, state, now, failure, spare=spare)
        return unfinished

    def let_go_of_needs(self, call: Call) -> None:
        if call.needs:
            self.cache.abandon(call.needs, call)
            call.needs = []

    def release(self, call: Call) -> None:
        """Nobody may name the message any more; its encoding goes with its last reader."""
        call.released = True
        if not call.state.ended:
            self.lifetimes.refresh(call)
            return
        if call.workflow.calls.pop(call.id, None) is not None:
            call.workflow.tenant.stored_tokens -= call.stored
        if call.unfinished_readers == 0:
            self.lifetimes.drop(call)
        else:
            self.lifetimes.refresh(call)

    def _count_out(self, call: Call, state: State, now: float) -> None:
        workflow = call.workflow
        workflow.unfinished -= 1
        del workflow.open[call]
        workflow.touched_at = now
        workflow.tenant.unfinished -= 1
        self.graph.unfinished -= 1
        stored = len(call.tokens) if state is State.DONE else 0
        workflow.tenant.stored_tokens += stored - call.stored
        call.stored = stored
        self.estimates.unlink(call)
        self.order.changed(workflow)
        if state is State.DONE:
            if call.spec.retention.ttl is not None:
                self.to_expire.append(call)
            self.estimates.observe(call)
            if call.started_at is not None:
                self.seconds_per_call += 0.05 * (now - call.started_at - self.seconds_per_call)

    def _let_go_of_parents(self, call: Call) -> None:
        last_uses = {edge.id for edge in call.spec.parents if edge.last_use}
        for group in call.groups:
            group.children.pop(call, None)
            if group.id in last_uses:
                last_uses.update(winner.id for winner in group.winners)
                self.groups.release(group)
        for parent in call.parents:
            parent.unfinished_readers -= 1
            parent.children.pop(call, None)
            if parent.id in last_uses:
                parent.released = True
            if parent.released:
                self.release(parent)
            elif not parent.children:  # else it is kept for them as before
                self.lifetimes.refresh(parent)
        call.parents = []
        call.groups = []
        if call.released:
            self.release(call)

    # ---- telling

    def announce(self, call: Call) -> None:
        self.publish(call, StateChanged(call.id, call.state))

    def publish(self, call: Call, event: Event) -> None:
        self.tell(call.workflow, event)

    def tell(self, workflow: Workflow, event: Event) -> None:
        events = self._events.get(workflow)
        if events is None:
            events = self._events[workflow] = []
        events.append(event)

    def take_events(self) -> dict[tuple[str, str], list[Event]]:
        """What has happened since the last time, by workflow (namespace, id)."""
        events, self._events = self._events, {}
        out: dict[tuple[str, str], list[Event]] = {}
        for workflow, told in events.items():
            known = out.setdefault(workflow.key, told)
            if known is not told:  # it was closed, and opened again
                known += told
        return out


def because_of(parent: Call) -> Failure:
    if parent.state is State.CANCELLED:
        return Failure(Reason.PARENT_CANCELLED, f"parent {parent.id!r} was cancelled", (parent.id,))
    why = parent.failure.text if parent.failure is not None else "unknown"
    return Failure(Reason.PARENT_FAILED, f"parent {parent.id!r} failed: {why}", (parent.id,))
