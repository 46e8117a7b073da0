"""In which order waiting calls start, and which running ones give way.

`FirstCome` goes by when a call became ready. `GraphOrder` knows the graph: the tenant that was served least, for its
weight, comes first; of a tenant's workflows the one with the highest priority, then the one with the least work left,
ageing counted; of a workflow's calls the one with the longest chain below it. (Longest chain first between workflows
would be longest job first.)
"""

from __future__ import annotations

import heapq
from typing import Protocol

from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.spec import State
from pavane.scheduler.tenants import Tenant, Tenants

Key = tuple[float, ...]

AGEING = 400.0  # work that a workflow may have more for each second that it has been busy longer


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

    def raised(self, call: Call) -> None:
        """The chain below a waiting call has grown."""
        ...

    def changed(self, workflow: Workflow) -> None:
        """What is left to do in the workflow has changed, or its priority."""
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

    def raised(self, call: Call) -> None:
        pass

    def changed(self, workflow: Workflow) -> None:
        pass

    def free(self, tenant: Tenant) -> None:
        for entry in self._aside.pop(tenant, ()):
            heapq.heappush(self._heap, entry)


class GraphOrder:
    """See the module's docstring. Three heaps, one in the other; entries that are out of date are passed over."""

    fair = True

    def __init__(self, tenants: Tenants, ageing: float = AGEING) -> None:
        self._tenants = tenants
        self._ageing = ageing
        self._by_service: list[tuple[float, str]] = []
        self._offered: set[str] = set()  # the names in it
        self._shares: dict[str, _Share] = {}

    def push(self, call: Call) -> None:
        workflow = call.workflow
        share = self._shares.setdefault(workflow.tenant.name, _Share())
        queue = share.queues.get(workflow)
        if queue is None:
            queue = share.queues[workflow] = _Queue(self.place(workflow))
            share.push(workflow, queue)
        queue.waiting += 1
        queue.put(call)
        self._offer(workflow.tenant)

    def remove(self, call: Call) -> None:
        workflow = call.workflow
        share = self._shares[workflow.tenant.name]
        queue = share.queues[workflow]
        queue.waiting -= 1
        if queue.waiting == 0:
            del share.queues[workflow]
            if not share.queues:
                del self._shares[workflow.tenant.name]

    def first(self) -> Call | None:
        while self._by_service:
            service, name = self._by_service[0]
            share, tenant = self._shares.get(name), self._tenants.known.get(name)
            if share is None or tenant is None or tenant.running >= tenant.limits.max_running:
                heapq.heappop(self._by_service)
                self._offered.remove(name)
            elif service != tenant.service:
                heapq.heapreplace(self._by_service, (tenant.service, name))
            else:
                return share.first()
        return None

    def key(self, call: Call) -> Key:
        return (call.workflow.tenant.service, *self.place(call.workflow), -call.chain, call.serial)

    def raised(self, call: Call) -> None:
        self._shares[call.workflow.tenant.name].queues[call.workflow].put(call)

    def changed(self, workflow: Workflow) -> None:
        share = self._shares.get(workflow.tenant.name)
        queue = share.queues.get(workflow) if share is not None else None
        if share is not None and queue is not None:
            queue.place = self.place(workflow)
            share.push(workflow, queue)

    def free(self, tenant: Tenant) -> None:
        if tenant.name in self._shares:
            self._offer(tenant)

    def place(self, workflow: Workflow) -> Key:
        """Of a workflow among those of all tenants, their shares aside; smaller goes first."""
        # Work left minus ageing * age; what is the same for all at a time is left out, so that it need not change.
        return (-workflow.priority, workflow.work + self._ageing * workflow.busy_since)

    def _offer(self, tenant: Tenant) -> None:
        if tenant.name not in self._offered:
            self._offered.add(tenant.name)
            heapq.heappush(self._by_service, (tenant.service, tenant.name))


class _Queue:
    """The waiting calls of one workflow."""

    __slots__ = ("heap", "place", "waiting")

    def __init__(self, place: Key) -> None:
        self.place = place
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
    """The workflows of one tenant that have waiting calls."""

    __slots__ = ("heap", "queues")

    def __init__(self) -> None:
        self.queues: dict[Workflow, _Queue] = {}
        self.heap: list[tuple[Key, int, Workflow]] = []

    def push(self, workflow: Workflow, queue: _Queue) -> None:
        heapq.heappush(self.heap, (queue.place, workflow.serial, workflow))
        if len(self.heap) > 2 * len(self.queues) + 64:
            self.heap = [(queue.place, workflow.serial, workflow) for workflow, queue in self.queues.items()]
            heapq.heapify(self.heap)

    def first(self) -> Call:
        while True:
            place, _, workflow = self.heap[0]
            queue = self.queues.get(workflow)
            if queue is not None and queue.place == place:
                return queue.first()
            heapq.heappop(self.heap)
