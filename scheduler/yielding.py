"""Which running calls give way to those of tenants that are within their share."""

from __future__ import annotations

from pavane.scheduler.calls import Call
from pavane.scheduler.states import States

CLEARLY = 16  # a tenant is, from this part of a burst beyond its share on: else two would take turns at giving way


class Yielding:
    def __init__(self, states: States, places: int) -> None:
        self._states = states
        self._places = places

    def to_others(self) -> list[Call]:
        """Those to preempt before the next step, if all places are taken: calls of tenants that are clearly beyond
        their share, one for each that waits and whose tenant is within its own. What is preempted has lost nothing but
        time: its encodings stay as cache."""
        states, tenants = self._states, self._states.tenants
        if not states.order.fair or len(states.running) < self._places:
            return []
        waiting = sum(tenant.may_start for tenant in tenants.active if not tenants.over(tenant))
        if not waiting:
            return []
        beyond = tenants.burst / CLEARLY
        victims = [call for call in states.running if tenants.over(call.workflow.tenant) > beyond]
        return sorted(victims, key=states.order.key)[-waiting:]
