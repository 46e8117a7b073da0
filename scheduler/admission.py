"""What is refused because of what has been accepted already: bounds of tenants, deadlines without hope."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.scheduler.calls import Workflow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec
from pavane.scheduler.states import States
from pavane.scheduler.tenants import Tenant

DOUBT = 0.5  # of the estimated wait is taken for certain


class Admission:
    def __init__(self, states: States, places: int) -> None:
        self._states = states
        self._places = places

    def retry_after(self) -> float:
        """Seconds until some of the calls that wait will have ended."""
        waiting = len(self._states.running) + sum(t.waiting for t in self._states.tenants.known.values())
        return min(60.0, max(0.2, self._states.seconds_per_call * max(1, waiting) / 4))

    def workflow(self, tenant: Tenant) -> None:
        """A workflow is to be opened."""
        limit = tenant.limits.max_workflows
        if tenant.workflows >= limit:
            raise self._over(tenant, f"has {tenant.workflows} open workflows, its bound; close some")

    def calls(self, workflow: Workflow, specs: Sequence[CallSpec], now: float) -> None:
        """New calls, correct in themselves."""
        tenant, limits = workflow.tenant, workflow.tenant.limits
        if len(specs) > limits.max_unfinished:
            raise RequestError(
                Reason.TOO_LARGE,
                f"{len(specs)} calls in one submission; tenant {tenant.name!r} may have {limits.max_unfinished} open",
            )
        if tenant.unfinished + len(specs) > limits.max_unfinished:
            raise self._over(tenant, f"has {tenant.unfinished} unfinished calls of {limits.max_unfinished}; send later")
        tokens = sum(spec.stored_tokens for spec in specs)
        if tokens > limits.max_stored_tokens:
            raise RequestError(
                Reason.TOO_LARGE,
                f"{tokens} tokens in one submission; tenant {tenant.name!r} may store {limits.max_stored_tokens}",
            )
        if tenant.stored_tokens + tokens > limits.max_stored_tokens:
            raise self._over(
                tenant,
                f"stores {tenant.stored_tokens} tokens of {limits.max_stored_tokens}, and these calls add {tokens}; "
                "release messages or close workflows",
            )
        self._deadlines(workflow, specs, now)

    def _deadlines(self, workflow: Workflow, specs: Sequence[CallSpec], now: float) -> None:
        left = None if workflow.deadline is None else workflow.deadline - now
        if left is not None and left <= 0 and specs:
            raise RequestError(
                Reason.DEADLINE_EXCEEDED,
                f"the deadline of workflow {workflow.id!r} was {-left:.1f} s ago; open it again with a later one",
                (workflow.id,),
            )
        wait = DOUBT * self._wait(workflow.tenant)
        for spec in specs:
            given = min((t for t in (spec.timeout, left) if t is not None), default=None)
            if given is not None and given < wait:
                raise RequestError(
                    Reason.DEADLINE_HOPELESS,
                    f"call {spec.id!r} has {given:.2g} s, and the calls before it are expected to take more than "
                    f"{wait:.2g} s; give it more, or send it later",
                    (spec.id,),
                    retry_after=wait,
                )

    def _wait(self, tenant: Tenant) -> float:
        """Seconds until the calls of the tenant that wait now have started, as far as can be said."""
        share = max(1.0, self._states.tenants.fair_share(tenant, self._places))
        return self._states.seconds_per_call * tenant.waiting / share

    def _over(self, tenant: Tenant, what: str) -> RequestError:
        return RequestError(Reason.TENANT_LIMIT, f"tenant {tenant.name!r} {what}", retry_after=self.retry_after())
