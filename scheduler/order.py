"""In which order waiting calls start, and which running ones give way.

`FirstCome` goes by when a call became ready. `GraphOrder` knows the graph. Tenants within their share come first, then
the others, the one that is least beyond it before; of a tenant's workflows the one with the highest priority; between
workflows the one that is due first; of a workflow's calls the one with the longest chain below it. A workflow is due
after a multiple of the time that the server would need for what is left of it, and for a part of what its tenant asks
for in all: so less work left goes first, age counts, and who sends much more than others comes after them before it has
used up its share. (Longest chain first between workflows would be longest job first.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Protocol

from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.spec import State
from pavane.scheduler.standings import Head, Standings
from pavane.scheduler.tenants import Tenant, Tenants

Key = tuple[float, ...]

STRETCH = 10.0  # a workflow is due after so many times the time that the whole server needs for what is left of it
CROWD = 0.1  # of all that its tenant asks for counts with it


class Order(Protocol):
    """The waiting calls. Smaller keys go first; the greatest is preempted first."""

    def push(self, call: Call) -> None:
        """The call begins to wait; its state says so already."""
        ...

    def remove(self, call: Call) -> None:
        """The call, which still is in state QUEUED, waits no more."""
        ...

    def first(self) -> Call | None: ...

    def key(self, call: Call) -> Key: ...

    def in_order(self, calls: Iterable[Call]) -> list[Call]:
        """By their keys."""
        ...

    def raised(self, call: Call) -> None:
        """The chain below a waiting call has grown."""
        ...

    def changed(self, workflow: Workflow) -> None:
        """What is left to do in the workflow has changed, and so for its tenant, or its priority."""
        ...

    def free(self, tenant: Tenant) -> None:
        """A running call of the tenant has stopped."""
        ...

    @property
    def fair(self) -> bool:
        """Whether a call may be preempted because its tenant has more than its share of the running calls."""
        ...


class FirstCome:
    """By when the call became ready: its arrival, for an engine that is sent calls one by one. Calls of tenants at
    their bound of running ones stand aside."""

    fair = False

    def __init__(self) -> None:
        self._heap: list[tuple[Key, Call]] = []
        self._aside: dict[Tenant, list[tuple[Key, Call]]] = {}
        self._waiting = 0

    def push(self, call: Call) -> None:
        heapq.heappush(self._heap, (self.key(call), call))
        self._waiting += 1

    def remove(self, call: Call) -> None:
        self._waiting -= 1
        if len(self._heap) > 2 * self._waiting + 64:
            self._heap = [entry for entry in self._heap if entry[1].state is State.QUEUED and entry[1] is not call]
            heapq.heapify(self._heap)

    def first(self) -> Call | None:
        while self._heap:
            call = self._heap[0][1]
            if call.state is State.QUEUED:
                tenant = call.workflow.tenant
                if tenant.running < tenant.limits.max_running:
                    return call
                self._aside.setdefault(tenant, []).append(self._heap[0])
            heapq.heappop(self._heap)
        return None

    def key(self, call: Call) -> Key:
        return (call.ready_at or 0.0, call.serial)

    def in_order(self, calls: Iterable[Call]) -> list[Call]:
        return sorted(calls, key=self.key)

    def raised(self, call: Call) -> None:
        pass

    def changed(self, workflow: Workflow) -> None:
        pass

    def free(self, tenant: Tenant) -> None:
        for entry in self._aside.pop(tenant, ()):
            heapq.heappush(self._heap, entry)


class GraphOrder:
    """See the module's docstring. Heaps of tenants, of a tenant's workflows and of a workflow's calls, in which entries
    that are out of date are passed over."""

    fair = True

    def __init__(self, tenants: Tenants, stretch: float = STRETCH) -> None:
        self._tenants = tenants
        self._stretch = stretch
        self._shares: dict[Tenant, _Share] = {}  # of tenants with waiting calls
        self._standings = Standings(tenants, self._head)

    def push(self, call: Call) -> None:
        workflow = call.workflow
        share = self._shares.setdefault(workflow.tenant, _Share())
        queue = share.queues.get(workflow)
        if queue is None:
            queue = share.queues[workflow] = _Queue(self._due(workflow), workflow.serial)
            share.push(workflow, queue)
            self._regard(workflow.tenant, share)
        queue.waiting += 1
        queue.put(call)

    def remove(self, call: Call) -> None:
        workflow = call.workflow
        share = self._shares[workflow.tenant]
        queue = share.queues[workflow]
        queue.waiting -= 1
        if queue.waiting == 0:
            del share.queues[workflow]
            if not share.queues:
                del self._shares[workflow.tenant]
            self._standings.changed(workflow.tenant)

    def first(self) -> Call | None:
        tenant = self._standings.first()
        return self._shares[tenant].first().first() if tenant is not None else None

    def key(self, call: Call) -> Key:
        return (*self.place(call.workflow), -call.chain, call.serial)

    def in_order(self, calls: Iterable[Call]) -> list[Call]:
        places: dict[Workflow, Key] = {}

        def key(call: Call) -> Key:
            place = places.get(call.workflow)
            if place is None:
                place = places[call.workflow] = self.place(call.workflow)
            return (*place, -call.chain, call.serial)

        return sorted(calls, key=key)

    def place(self, workflow: Workflow) -> Key:
        """The order among workflows, smaller first. Between tenants priorities do not count when calls start."""
        tenant = workflow.tenant
        return (self._tenants.over(tenant), -workflow.priority, self._due(workflow) + self._behind(tenant))

    def raised(self, call: Call) -> None:
        self._shares[call.workflow.tenant].queues[call.workflow].put(call)

    def changed(self, workflow: Workflow) -> None:
        share = self._shares.get(workflow.tenant)
        if share is None:
            return
        queue = share.queues.get(workflow)
        if queue is not None:
            queue.due = self._due(workflow)
            share.push(workflow, queue)
        self._regard(workflow.tenant, share)

    def free(self, tenant: Tenant) -> None:
        self._standings.changed(tenant)

    def _head(self, tenant: Tenant) -> Head | None:
        share = self._shares.get(tenant)
        if share is None:
            return None
        queue = share.first()
        return queue.due + share.behind, queue.serial

    def _regard(self, tenant: Tenant, share: _Share) -> None:
        """What the tenant asks for has changed, or its workflows."""
        share.behind = self._behind(tenant)
        self._standings.changed(tenant)

    def _behind(self, tenant: Tenant) -> float:
        return self._stretch * self._tenants.seconds(CROWD * tenant.asked / tenant.limits.weight)

    def _due(self, workflow: Workflow) -> float:
        return workflow.busy_since + self._stretch * self._tenants.seconds(workflow.work)


class _Queue:
    """The waiting calls of one workflow."""

    __slots__ = ("due", "heap", "serial", "waiting")

    def __init__(self, due: float, serial: int) -> None:
        self.due = due
        self.serial = serial  # of the workflow
        self.heap: list[tuple[float, int, Call]] = []
        self.waiting = 0

    def put(self, call: Call) -> None:
        heapq.heappush(self.heap, (-call.chain, call.serial, call))

    def first(self) -> Call:
        while True:
            chain, _, call = self.heap[0]
            if call.state is State.QUEUED and chain == -call.chain:
                return call
            heapq.heappop(self.heap)


class _Share:
    """The workflows of one tenant that have waiting calls; `behind` is how much later they are due because of all that
    it asks for."""

    __slots__ = ("behind", "heap", "queues")

    def __init__(self) -> None:
        self.behind = 0.0
        self.queues: dict[Workflow, _Queue] = {}
        self.heap: list[tuple[int, float, int, Workflow]] = []

    def push(self, workflow: Workflow, queue: _Queue) -> None:
        heapq.heappush(self.heap, _entry(workflow, queue))
        if len(self.heap) > 2 * len(self.queues) + 64:
            self.heap = [_entry(workflow, queue) for workflow, queue in self.queues.items()]
            heapq.heapify(self.heap)

    def first(self) -> _Queue:
        while True:
            priority, due, _, workflow = self.heap[0]
            queue = self.queues.get(workflow)
            if queue is not None and queue.due == due and workflow.priority == -priority:
                return queue
            heapq.heappop(self.heap)


def _entry(workflow: Workflow, queue: _Queue) -> tuple[int, float, int, Workflow]:
    return (-workflow.priority, queue.due, workflow.serial, workflow)
