"""Which running calls give way to those of other tenants, that have less than their share of the places."""

from __future__ import annotations

from pavane.scheduler.calls import Call
from pavane.scheduler.states import States
from pavane.scheduler.tenants import Tenant


class Yielding:
    def __init__(self, states: States, places: int) -> None:
        self._states = states
        self._places = places

    def to_others(self) -> list[Call]:
        """Those to preempt before the next step, if all places are taken and the call that is next is of a tenant that
        has fewer than its share while another has more. What is preempted has lost nothing but time: its encodings stay
        as cache."""
        states = self._states
        if not states.order.fair or len(states.running) < self._places:
            return []
        call = states.order.first()
        if call is None:
            return []
        tenant = call.workflow.tenant
        missing = min(tenant.waiting, int(states.tenants.fair_share(tenant, self._places)) - tenant.running)
        victims: list[Call] = []
        for other in sorted(states.tenants.known.values(), key=self._excess, reverse=True) if missing > 0 else ():
            excess = int(self._excess(other))
            if len(victims) == missing or excess <= 0:
                break
            running = sorted((c for c in states.running if c.workflow.tenant is other), key=states.order.key)
            victims += running[-min(excess, missing - len(victims)) :]
        return victims

    def _excess(self, tenant: Tenant) -> float:
        return tenant.running - self._states.tenants.fair_share(tenant, self._places)
