"""What is refused because of what is there already."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import FakeRunner, Harness, decode, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import CallSpec, State
from pavane.scheduler.tenants import TenantLimits, Tenants


def harness(limits: TenantLimits | None = None, max_running: int = 16) -> Harness:
    h = Harness(FakeRunner(1000), 1000)
    tenants = Tenants(named={"t": limits or TenantLimits()})
    h.scheduler = Scheduler(h.cache, h.scheduler.graph.limits, h.text, max_running=max_running, tenants=tenants)
    h.scheduler.open("t", "w", 0, 1e9, h.now)
    return h


def submit(h: Harness, *specs: CallSpec) -> None:
    h.scheduler.submit("t", "w", specs, h.now)
    h.collect()


def refused(h: Harness, *specs: CallSpec) -> RequestError:
    before = h.scheduler.tenants.get("t").unfinished, h.scheduler.tenants.get("t").stored_tokens
    with pytest.raises(RequestError) as caught:
        submit(h, *specs)
    assert (h.scheduler.tenants.get("t").unfinished, h.scheduler.tenants.get("t").stored_tokens) == before
    assert not any(spec.id in h.scheduler.graph.workflow("t", "w").digests for spec in specs)
    return caught.value


def test_unfinished_calls_of_a_tenant() -> None:
    h = harness(TenantLimits(max_unfinished=2))
    submit(h, decode("a", [3], max_tokens=5), decode("b", [4], max_tokens=5))
    error = refused(h, prefill("c", [5]))
    assert error.reason is Reason.TENANT_LIMIT
    assert error.retry_after is not None
    assert "tenant 't' has 2 unfinished calls of 2" in error.text
    h.run()
    submit(h, prefill("c", [5]))
    assert refused(h, *(prefill(f"x{i}", [5]) for i in range(3))).reason is Reason.TOO_LARGE, "waiting does not help"


def test_stored_tokens_count_what_may_come_and_then_what_came() -> None:
    h = harness(TenantLimits(max_stored_tokens=30))
    submit(h, decode("a", [3], max_tokens=24, end_ids=frozenset(range(3, 97))))
    assert refused(h, prefill("b", [4] * 6)).reason is Reason.TENANT_LIMIT
    h.run()
    assert h.scheduler.tenants.get("t").stored_tokens == len(h.scheduler.outcome("t", "w", "a", h.now).tokens)
    submit(h, prefill("b", [4] * 6))
    h.run()
    h.scheduler.release("t", "w", ["a", "b"], h.now)
    assert h.scheduler.tenants.get("t").stored_tokens == 0
    assert refused(h, prefill("c", [4] * 31)).reason is Reason.TOO_LARGE


def test_open_workflows() -> None:
    h = harness(TenantLimits(max_workflows=1))
    assert h.scheduler.open("t", "w", 0, None, h.now), "the one that is open may be opened again"
    with pytest.raises(RequestError, match="has 1 open workflows") as caught:
        h.scheduler.open("t", "v", 0, None, h.now)
    assert caught.value.reason is Reason.TENANT_LIMIT
    h.scheduler.open("other", "v", 0, None, h.now)
    h.scheduler.close("t", "w", h.now)
    h.scheduler.open("t", "v", 0, None, h.now)


def test_a_deadline_without_hope_is_refused_at_once() -> None:
    h = harness(max_running=1)
    submit(h, *(decode(f"a{i}", [3, i], max_tokens=20) for i in range(20)))
    for _ in range(60):
        h.step()
    error = refused(h, replace(prefill("hasty", [5]), timeout=3.0))
    assert error.reason is Reason.DEADLINE_HOPELESS
    assert error.retry_after is not None
    submit(h, replace(prefill("patient", [5]), timeout=1000.0))
    h.run()
    submit(h, replace(prefill("hasty", [5]), timeout=3.0))


def test_the_deadline_of_a_workflow_covers_all_its_calls() -> None:
    h = harness()
    submit(h, decode("before", [3], max_tokens=100))
    h.scheduler.open("t", "w", 0, None, h.now, deadline=10.0)
    submit(h, decode("after", [4], max_tokens=100), replace(decode("own", [5], max_tokens=100), timeout=4.0))
    h.run()
    for name, at in (("before", "of its workflow"), ("after", "of its workflow"), ("own", "4 s after acceptance")):
        failure = h.ended[name].failure
        assert failure is not None
        assert failure.reason is Reason.DEADLINE_EXCEEDED
        assert at in failure.text
    assert h.ended["own"].receipt.total_s < h.ended["after"].receipt.total_s
    assert refused(h, prefill("late", [6])).reason is Reason.DEADLINE_EXCEEDED
    h.scheduler.open("t", "w", 0, None, h.now, deadline=10.0)
    submit(h, prefill("late", [6]))
    h.run()
    assert h.ended["late"].state is State.DONE
