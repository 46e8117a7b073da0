"""Tenants, one per namespace: their share of the server, their bounds, and what they use of both.

A tenant is within its share as long as it was not served more. What it did not use of its share is saved up, and what
it used beyond is remembered, but no more than a `burst` of the one and `REMEMBERED` of the other: a leaky bucket per
tenant, that fills at the rate of an even share (the virtual time of generalised processor sharing, Parekh and Gallager
1993). A new tenant is like one that has rested. Savings are for bursts: who asks for far more has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_BOUND = 1 << 62
# In units of estimates.py, some twelve thousand generated tokens: several workflows, so that these can be put in order
# whoever sent them.
BURST = 200_000.0
# In bursts: one that floods takes what the others leave for long; what they then want for a while, having saved up, it
# has had before. Were that forgotten, it would be within its share in the midst of it.
REMEMBERED = 3.0
PLENTY = 2.0  # bursts of work that a tenant may ask for at once; what it asks for beyond is taken from its savings
FORGET = 0.999  # of what is known of the server's pace, by each step


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """`weight` is the tenant's share against the others; the rest are upper bounds."""

    weight: float = 1.0
    max_running: int = NO_BOUND  # calls that hold their locks at once; more wait
    max_unfinished: int = NO_BOUND  # calls accepted and not ended
    max_stored_tokens: int = NO_BOUND  # of messages that are not released, and of those that are to come
    max_workflows: int = NO_BOUND  # open at once
    max_streams: int = NO_BOUND  # requests that are being answered at once; the server counts them


@dataclass(slots=True, eq=False)
class Tenant:
    name: str
    limits: TenantLimits
    service: float = 0.0  # work done for it, divided by its weight; near `Tenants.even`
    asked: float = 0.0  # work left of all its workflows
    waiting: int = 0  # calls that are ready and wait for room
    running: int = 0
    unfinished: int = 0
    stored_tokens: int = 0
    workflows: int = 0

    @property
    def active(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def may_start(self) -> int:
        """How many of the calls that wait its bound of running ones allows."""
        return min(self.waiting, self.limits.max_running - self.running)


@dataclass(slots=True)
class Tenants:
    """Owner of all tenants. One that nobody uses any more is forgotten."""

    default: TenantLimits = field(default_factory=TenantLimits)
    named: dict[str, TenantLimits] = field(default_factory=dict)
    burst: float = BURST
    known: dict[str, Tenant] = field(default_factory=dict)
    active: dict[Tenant, None] = field(default_factory=dict)
    even: float = 0.0  # the service of a tenant that always had calls to run, and got its share
    fastest_step: float = 0.0  # seconds, of those that computed anything; 0: not known
    _work: float = 5_000.0  # done lately, in ...
    _seconds: float = 1.0

    def get(self, name: str) -> Tenant:
        tenant = self.known.get(name)
        if tenant is None:
            tenant = self.known[name] = Tenant(name, self.named.get(name, self.default), self.even - self.burst)
        return tenant

    def moved(self, tenant: Tenant) -> None:
        """The number of its calls that wait or run has changed."""
        if tenant.active:
            self.active[tenant] = None
        else:
            self.active.pop(tenant, None)

    def serve(self, work: Mapping[Tenant, float], seconds: float) -> None:
        """A step that took `seconds` (0: not known) has done `work`."""
        total = sum(work.values())
        even = self.even + total / (sum(tenant.limits.weight for tenant in self.active) or 1.0)
        for tenant, units in work.items():
            kept = max(tenant.service, self.even - self._savings(tenant))
            tenant.service = min(kept + units / tenant.limits.weight, even + REMEMBERED * self.burst)
        self.even = even
        if seconds > 0 and total:
            self.fastest_step = min(seconds, self.fastest_step or seconds)
        if seconds > 0:
            self._work = FORGET * self._work + total
            self._seconds = FORGET * self._seconds + seconds

    def _savings(self, tenant: Tenant) -> float:
        """The most that it may have saved up."""
        asked = tenant.asked / tenant.limits.weight
        return min(self.burst, max(0.0, (PLENTY + 1.0) * self.burst - asked))

    def over(self, tenant: Tenant) -> float:
        """What it was served beyond its share and what it had saved up; 0 within its share."""
        return max(0.0, tenant.service - self.even)

    def seconds(self, work: float) -> float:
        """That the whole server needs for it, as things went lately."""
        return work * self._seconds / self._work

    def fair_share(self, tenant: Tenant, total: int) -> float:
        """Of `total` places, among those that have calls to run."""
        weights = sum(other.limits.weight for other in self.active if other is not tenant) + tenant.limits.weight
        return total * tenant.limits.weight / weights

    def forget_unused(self) -> None:
        for name in [name for name, t in self.known.items() if not (t.active or t.unfinished or t.workflows)]:
            if self.known[name].service <= self.even - self.burst:
                del self.known[name]
