"""What is refused because of what has been accepted already: bounds of tenants, deadlines without hope."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.scheduler.calls import Workflow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.foresight import Foresight
from pavane.scheduler.spec import CallSpec
from pavane.scheduler.states import States
from pavane.scheduler.tenants import Tenant

DOUBT = 0.5  # of what is expected to take so long is taken for certain


class Admission:
    def __init__(self, states: States, places: int, limit: int) -> None:
        """`limit` stands for a max_tokens that is not given."""
        self._states = states
        self._places = places
        self._limit = limit

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
        given = {spec.id: min(t for t in (spec.timeout, left) if t is not None)
                 for spec in specs if spec.timeout is not None or left is not None}  # fmt: skip
        if not given:
            return
        wait = DOUBT * self._wait(workflow.tenant)
        least = self._least(workflow, specs)
        for name, seconds in given.items():
            if seconds < wait:
                raise RequestError(
                    Reason.DEADLINE_HOPELESS,
                    f"call {name!r} has {seconds:.2g} s, and the calls before it are expected to take more than "
                    f"{wait:.2g} s; give it more, or send it later",
                    (name,),
                    retry_after=wait,
                )
            if seconds < least[name]:
                raise RequestError(
                    Reason.DEADLINE_HOPELESS,
                    f"call {name!r} has {seconds:.2g} s, and its answer is expected to take more than "
                    f"{least[name]:.2g} s with those that it waits for; give it more, or ask for fewer max_tokens",
                    (name,),
                )

    def _least(self, workflow: Workflow, specs: Sequence[CallSpec]) -> dict[str, float]:
        """Seconds until new calls can have ended, by id: a step for each token, one after the other."""
        step = DOUBT * self._states.tenants.fastest_step
        foresight = Foresight(workflow, self._states.estimates, self._limit)
        return {name: step * steps for name, steps in foresight.steps(specs).items()}

    def _wait(self, tenant: Tenant) -> float:
        """Seconds until the calls of the tenant that wait now have started, as far as can be said."""
        share = max(1.0, self._states.tenants.fair_share(tenant, self._places))
        return self._states.seconds_per_call * tenant.waiting / share

    def _over(self, tenant: Tenant, what: str) -> RequestError:
        return RequestError(Reason.TENANT_LIMIT, f"tenant {tenant.name!r} {what}", retry_after=self.retry_after())
