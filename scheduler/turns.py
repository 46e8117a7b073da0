"""Whose turn it is: which workflows are under way, and which wait until what they need fits the slots as well.

Workflows of which each alone fits, but not all together, drop what the others are about to read, and encode more again
than anew. So a workflow begins only if its working set fits together with those of the ones under way (Denning, "The
Working Set Model for Program Behavior", 1968). If it does not, it is passed over, and with it all that come after it
and have not begun: what is under way goes on, ends, and makes room. It is under way until it rests, or until another
has waited while it had its slice of time: one that comes before it in the order, or any if it grows without end in
sight, being sent in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.lifetimes import Lifetimes
from pavane.scheduler.order import GraphOrder, Key, Order
from pavane.scheduler.tenants import Tenant
from pavane.scheduler.working_set import WorkingSets

SLICE_S = 120.0  # that a workflow has been under way before it may have to wait for another


class Turns:
    """An Order, made of two: one of the calls whose workflow is under way, one of all others. With `begun` None there
    is only one, and every workflow begins when a call of it finds room. Owner of `Workflow.begun_at`."""

    def __init__(
        self,
        new: Order,
        begun: GraphOrder | None,
        sets: WorkingSets,
        lifetimes: Lifetimes,
        running: Mapping[Call, None],
    ) -> None:
        self._new = new
        self._begun = begun
        self._sets = sets
        self._lifetimes = lifetimes
        self._running = running
        self._waiting: dict[Workflow, dict[Call, None]] = {}
        self._under_way: dict[Workflow, None] = {}
        self._refused: Workflow | None = None  # the one that does not fit, until something changes

    # ---- as an Order

    @property
    def fair(self) -> bool:
        return self._new.fair

    def push(self, call: Call) -> None:
        self._waiting.setdefault(call.workflow, {})[call] = None
        self._order(call.workflow).push(call)

    def remove(self, call: Call) -> None:
        waiting = self._waiting[call.workflow]
        del waiting[call]
        if not waiting:
            del self._waiting[call.workflow]
        self._order(call.workflow).remove(call)

    def first(self) -> Call | None:
        new = self._new.first()
        if self._begun is None:
            return new
        begun = self._begun.first()
        if new is None or (begun is not None and self._before(begun, new)):
            return begun
        idle = begun is None and not self._running
        return new if idle or self._fits(new.workflow) else begun

    def key(self, call: Call) -> Key:
        return self._new.key(call)

    def in_order(self, calls: Iterable[Call]) -> list[Call]:
        return self._new.in_order(calls)

    def raised(self, call: Call) -> None:
        self._order(call.workflow).raised(call)

    def changed(self, workflow: Workflow) -> None:
        if self._sets.changed(workflow):
            self._refused = None
        self._new.changed(workflow)
        if self._begun is not None:
            self._begun.changed(workflow)

    def free(self, tenant: Tenant) -> None:
        self._new.free(tenant)
        if self._begun is not None:
            self._begun.free(tenant)

    # ---- beginning, and waiting again

    @property
    def sparing(self) -> bool:
        """Whether a call may start only if that drops nothing that workflows under way are to read: while others run,
        and will make room."""
        return self._begun is not None and bool(self._running)

    def begin(self, workflow: Workflow, now: float) -> None:
        """A call of it has started."""
        if workflow.begun_at is None:
            self._under_way[workflow] = None
            self._move(workflow, now)

    def suspend(self, workflow: Workflow) -> None:
        """It rests, or is to wait for its turn again; calls of it that run go on."""
        if workflow.begun_at is not None:
            del self._under_way[workflow]
            self._move(workflow, None)

    def forget(self, workflow: Workflow) -> None:
        self._under_way.pop(workflow, None)
        self._sets.forget(workflow)
        self._refused = None

    def make_way(self, now: float) -> None:
        """Those that had their slice wait again, if that lets the first of the others begin."""
        new = self._new.first()
        if self._begun is None or new is None or self._fits(new.workflow):
            return
        over = [w for w in self._under_way if w.begun_at is not None and now - w.begun_at >= SLICE_S]
        if not over:
            return
        place = self._begun.place
        here = place(new.workflow)
        over = sorted((w for w in over if w.grows or here < place(w)), key=place)
        excess, going = self._sets.excess(new.workflow, self._under_way), []
        while over and excess > 0:
            going.append(over.pop())
            excess -= self._sets.need(going[-1])
        if excess <= 0:
            for workflow in going:
                self.suspend(workflow)

    def _before(self, call: Call, other: Call) -> bool:
        """Priorities, the second of a key, count within a tenant only."""
        a, b = self.key(call), self.key(other)
        return a < b if call.workflow.tenant is other.workflow.tenant else (a[0], *a[2:]) < (b[0], *b[2:])

    def _order(self, workflow: Workflow) -> Order:
        return self._new if self._begun is None or workflow.begun_at is None else self._begun

    def _fits(self, workflow: Workflow) -> bool:
        if workflow is self._refused:
            return False
        if self._under_way and self._sets.excess(workflow, self._under_way) > 0:
            self._refused = workflow
            return False
        return True

    def _move(self, workflow: Workflow, begun_at: float | None) -> None:
        calls = self._waiting.get(workflow, {}) if self._begun is not None else {}
        for call in calls:
            self._order(workflow).remove(call)
        workflow.begun_at = begun_at
        for call in calls:
            self._order(workflow).push(call)
        self._refused = None
        self._lifetimes.turned(workflow)
