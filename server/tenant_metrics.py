"""What each tenant uses. Names come from clients, so they are bounded: beyond MOST_TENANTS they are others."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pavane.scheduler.spec import Ended
from pavane.scheduler.tenants import Tenants

MOST_TENANTS = 64
OTHERS = "(others)"
USED = ("encoded", "generated")  # classes of tokens that cost a forward pass


class TenantMetrics(Collector):
    def __init__(self, tenants: Tenants, registry: CollectorRegistry) -> None:
        self._tenants = tenants
        self._names = set(sorted(tenants.named)[:MOST_TENANTS])
        self._tokens = Counter(
            "pavane_tenant_tokens", "Tokens computed for calls that have ended.", ["tenant", "class"], registry=registry
        )
        self._ended = Counter("pavane_tenant_calls_ended", "Calls that have ended.", ["tenant"], registry=registry)
        registry.register(self)

    def label(self, namespace: str) -> str:
        """The tenant's name, as long as there are few."""
        if namespace not in self._names:
            if len(self._names) >= MOST_TENANTS:
                return OTHERS
            self._names.add(namespace)
        return namespace

    def ended(self, namespace: str, event: Ended) -> None:
        label, receipt = self.label(namespace), event.outcome.receipt
        self._ended.labels(label).inc()
        for name in USED:
            self._tokens.labels(label, name).inc(getattr(receipt, name))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges of those that the engine knows now."""
        for name, text in (
            ("running", "Calls that run."),
            ("waiting", "Calls that are ready and wait for room."),
            ("stored_tokens", "Tokens of messages that are not released."),
        ):
            sums: dict[str, int] = {}
            for tenant in list(self._tenants.known.values()):
                label = self.label(tenant.name)
                sums[label] = sums.get(label, 0) + getattr(tenant, name)
            family = GaugeMetricFamily(f"pavane_tenant_{name}", text, labels=["tenant"])
            for label, value in sums.items():
                family.add_metric([label], value)
            yield family
