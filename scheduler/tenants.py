"""Tenants, one per namespace: their share of the server, their bounds, and what they use of both."""

from __future__ import annotations

from dataclasses import dataclass, field

NO_BOUND = 1 << 62


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
    service: float = 0.0  # work done for it, divided by its weight
    waiting: int = 0  # calls that are ready and wait for room
    running: int = 0
    unfinished: int = 0
    stored_tokens: int = 0
    workflows: int = 0

    @property
    def active(self) -> bool:
        return bool(self.waiting or self.running)


@dataclass(slots=True)
class Tenants:
    """Owner of all tenants. One that nobody uses any more is forgotten."""

    default: TenantLimits = field(default_factory=TenantLimits)
    named: dict[str, TenantLimits] = field(default_factory=dict)
    known: dict[str, Tenant] = field(default_factory=dict)
    floor: float = 0.0  # the service of the tenant that was served last

    def get(self, name: str) -> Tenant:
        tenant = self.known.get(name)
        if tenant is None:
            tenant = self.known[name] = Tenant(name, self.named.get(name, self.default))
        return tenant

    def joins(self, tenant: Tenant) -> None:
        """A call of it begins to wait: rest saves nothing up (start-time fair queueing, Goyal et al. 1996)."""
        if not tenant.active:
            tenant.service = max(tenant.service, self.floor)

    def charge(self, tenant: Tenant, work: float) -> None:
        tenant.service += work / tenant.limits.weight

    def fair_share(self, tenant: Tenant, total: int) -> float:
        """Of `total` places, among those that have calls to run."""
        weights = sum(other.limits.weight for other in self.known.values() if other.active or other is tenant)
        return total * tenant.limits.weight / weights

    def forget_unused(self) -> None:
        for name in [name for name, t in self.known.items() if not (t.active or t.unfinished or t.workflows)]:
            if self.known[name].service <= self.floor:
                del self.known[name]
