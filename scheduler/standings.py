"""Which of the tenants that have waiting calls is next: those within their share by what is due, then the others by how
far they are beyond it.

A tenant stands in one of two heaps. What a tenant was served and what is due only grow while nobody tells, so an entry
may be too good, never too bad: it is looked at again when it has come to the top. What everybody's share is grows as
well; tenants that were beyond theirs go over to the other heap once it has reached what they were served.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from pavane.scheduler.tenants import Tenant, Tenants

Head = tuple[float, int]  # when its first workflow is due, and the number of that, which is like no other's
Entry = tuple[float, float, int, Tenant]  # what it was served if that is beyond its share, else 0; then its head


class Standings:
    """`head` gives a tenant's head while it has waiting calls, else None. Those at their bound of running calls stand
    aside."""

    def __init__(self, tenants: Tenants, head: Callable[[Tenant], Head | None]) -> None:
        self._tenants = tenants
        self._head = head
        self._stands: dict[Tenant, Entry] = {}  # the one entry of each that counts
        self._within: list[Entry] = []
        self._beyond: list[Entry] = []

    def changed(self, tenant: Tenant) -> None:
        """Its head may be another, or it may start calls again."""
        now, before = self._entry(tenant), self._stands.get(tenant)
        if now is None:
            self._stands.pop(tenant, None)
        elif before is None or now < before:
            self._stands[tenant] = now
            heap = self._beyond if now[0] else self._within
            heapq.heappush(heap, now)
            if len(heap) > 2 * len(self._stands) + 64:
                heap[:] = [entry for entry in heap if self._stands.get(entry[-1]) is entry]
                heapq.heapify(heap)

    def first(self) -> Tenant | None:
        while self._beyond and self._beyond[0][0] <= self._tenants.even:
            self._again(self._beyond)
        for heap in (self._within, self._beyond):
            while heap:
                tenant = heap[0][-1]
                if self._stands.get(tenant) is heap[0] and heap[0] == self._entry(tenant):
                    return tenant
                self._again(heap)
        return None

    def _again(self, heap: list[Entry]) -> None:
        """Takes out the first entry; its tenant enters where it stands now, if this was the one that counts."""
        entry = heapq.heappop(heap)
        tenant = entry[-1]
        if self._stands.get(tenant) is entry:
            del self._stands[tenant]
            self.changed(tenant)

    def _entry(self, tenant: Tenant) -> Entry | None:
        head = self._head(tenant) if tenant.running < tenant.limits.max_running else None
        if head is None:
            return None
        return (tenant.service if self._tenants.over(tenant) else 0.0, *head, tenant)
