"""What runs first: tenants, priorities, workflows by what is left of them, chains within them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import FakeRunner, Harness, decode, prefill

from pavane.scheduler.estimates import DECODED, Estimates
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import CallSpec
from pavane.scheduler.tenants import PLENTY, REMEMBERED, Tenant, TenantLimits, Tenants
from pavane.scheduler.yielding import CLEARLY


def harness(max_running: int = 1, *, policy: str = "graph", tenants: Tenants | None = None) -> Harness:
    h = Harness(FakeRunner(4000), 4000, max_running=max_running, policy=policy)
    h.scheduler = Scheduler(
        h.cache, h.scheduler.graph.limits, h.text, max_running=max_running, policy=policy, tenants=tenants
    )
    return h


def submit(h: Harness, workflow: str, *calls: CallSpec, tenant: str = "", priority: int | None = None) -> None:
    h.scheduler.open(tenant, workflow, 0, 1e9, h.now, priority=priority)
    h.scheduler.submit(tenant, workflow, [replace(c, id=f"{tenant}{workflow}.{c.id}") for c in calls], h.now)
    h.collect()


def finished(h: Harness) -> list[str]:
    h.run()
    return sorted(h.ended, key=lambda name: (h.ended[name].receipt.total_s, name))


def test_the_workflow_with_the_least_left_goes_first() -> None:
    h = harness()
    submit(h, "long", *(decode(f"a{i}", [3, i + 4], max_tokens=30) for i in range(3)))
    submit(h, "short", decode("a", [3, 9], max_tokens=5))
    assert finished(h)[0] == "short.a"


def test_by_arrival_with_fcfs() -> None:
    h = harness(policy="fcfs")
    submit(h, "long", *(decode(f"a{i}", [3, i + 4], max_tokens=30) for i in range(3)))
    submit(h, "short", decode("a", [3, 9], max_tokens=5))
    assert finished(h)[-1] == "short.a"


def test_one_that_has_waited_long_enough_goes_before_a_shorter_one() -> None:
    h = harness()
    submit(h, "blocker", decode("a", [3], max_tokens=8))
    h.step()
    submit(h, "old", decode("a", [3, 4], max_tokens=100))
    h.now += 100
    submit(h, "new", decode("a", [3, 5], max_tokens=5))
    h.run()
    assert h.ended["old.a"].receipt.queued_s < h.ended["new.a"].receipt.queued_s + 100


def test_priority_goes_before_what_is_left_but_not_before_the_tenants_share() -> None:
    h = harness()
    submit(h, "blocker", decode("a", [3], max_tokens=8), tenant="z")
    h.step()
    submit(h, "low", decode("a", [3, 4], max_tokens=5))
    submit(h, "high", decode("a", [3, 5], max_tokens=60), priority=2)
    ended = finished(h)
    assert (
        ended.index("high.a") < ended.index("low.a")
        or h.ended["high.a"].receipt.queued_s < h.ended["low.a"].receipt.queued_s
    )


def test_a_new_priority_moves_what_waits() -> None:
    h = harness()
    submit(h, "blocker", decode("a", [3], max_tokens=8))
    h.step()
    submit(h, "first", decode("a", [3, 4], max_tokens=5))
    submit(h, "second", decode("a", [3, 5], max_tokens=9))
    h.scheduler.open("", "second", 0, None, h.now, priority=1)
    h.run()
    assert h.ended["second.a"].receipt.queued_s < h.ended["first.a"].receipt.queued_s


def test_within_a_workflow_the_longest_chain_goes_first() -> None:
    h = harness()
    submit(
        h, "w", decode("leaf", [3, 4], max_tokens=20), decode("root", [3, 5], max_tokens=10),
    )  # fmt: skip
    h.scheduler.submit("", "w", [prefill("x", [6], "w.root"), decode("y", [7], "x", max_tokens=50)], h.now)
    h.run()
    assert h.ended["w.root"].receipt.queued_s < h.ended["w.leaf"].receipt.queued_s


def test_a_call_of_a_tenant_within_its_share_gets_the_place_of_one_beyond() -> None:
    h = harness(max_running=2, tenants=Tenants(burst=16.0))
    for i in range(10):
        submit(h, f"w{i}", decode("a", [3, i + 4], max_tokens=20), tenant="loud", priority=9)
    for _ in range(5):
        h.step()
    submit(h, "w", decode("a", [3, 90], max_tokens=5), tenant="quiet")
    h.run()
    assert h.ended["quietw.a"].receipt.queued_s <= 3.0, "a call of the other tenant gave way"
    assert sum(outcome.receipt.preemptions for outcome in h.ended.values()) == 1


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_shares_go_by_weight(weight: float) -> None:
    tenants = Tenants(named={"a": TenantLimits(weight=weight)}, burst=200.0)
    h = harness(max_running=4, tenants=tenants)
    for tenant in ("a", "b"):
        for i in range(100):
            submit(h, f"w{i}", decode("x", [3, i % 90 + 4], max_tokens=5 + i % 9, end_ids=frozenset()), tenant=tenant)
    for _ in range(300):
        h.step()
    tokens = [sum(o.receipt.generated for n, o in h.ended.items() if n.startswith(t)) for t in ("a", "b")]
    assert tokens[0] / tokens[1] == pytest.approx(weight, rel=0.2)


def test_who_was_away_gets_no_more_than_the_share_from_those_who_were_not() -> None:
    h = harness(max_running=1, tenants=Tenants(burst=1.0))
    for i in range(20):
        submit(h, f"w{i}", decode("x", [3, i + 4], max_tokens=10), tenant="a")
    for _ in range(100):
        h.step()
    for i in range(20):
        submit(h, f"w{i}", decode("x", [3, i + 40], max_tokens=10), tenant="b")
    before = len(h.ended)
    for _ in range(100):
        h.step()
    names = list(h.ended)[before:]
    counts = [sum(name.startswith(t) for name in names) for t in ("a", "b")]
    assert abs(counts[0] - counts[1]) <= 2, "b does not get all because it was idle before"


def test_what_a_tenant_saves_up_and_owes_is_bounded() -> None:
    tenants = Tenants(burst=100.0)
    a, b = (tenants.get(name) for name in "ab")
    assert a.service == tenants.even - 100, "a new one is like one that has rested"

    def serve(*served: tuple[Tenant, float], active: tuple[Tenant, ...] = (a, b)) -> None:
        for tenant in (a, b):
            tenant.waiting = int(tenant in active)
            tenants.moved(tenant)
        tenants.serve(dict(served), 1.0)

    serve((a, 1000.0), active=(a,))
    assert (a.service, tenants.even) == (900.0, 1000.0), "nobody else wanted anything"
    serve((b, 300.0))
    assert tenants.over(b) == pytest.approx(300 - 100 - 150), "what it had saved up is used up"
    serve((b, 900.0))
    assert tenants.over(b) == pytest.approx(REMEMBERED * 100)
    serve((a, 200.0))
    assert (tenants.over(a), tenants.over(b)) == (0.0, pytest.approx(REMEMBERED * 100 - 100)), "a part is paid"
    serve((a, 200.0), active=(a,))
    assert tenants.over(b) == tenants.over(a) == 0.0, "what was owed is paid, or was saved up"
    assert tenants.seconds(5000.0 + 2600.0) == pytest.approx(1.0 + 5.0, rel=0.01), "what it was at first, and since"


def test_who_asks_for_far_more_than_a_burst_has_saved_nothing() -> None:
    tenants = Tenants(burst=100.0)
    a, b = (tenants.get(name) for name in "ab")
    for tenant in (a, b):
        tenant.waiting = 1
        tenants.moved(tenant)
    tenants.serve({a: 50.0, b: 50.0}, 1.0)
    assert tenants.even - a.service == tenants.even - b.service == 100 - 50 + 50
    a.asked, b.asked = (PLENTY + 0.5) * 100, (PLENTY + 1) * 100
    tenants.serve({a: 10.0, b: 10.0}, 1.0)
    assert tenants.even - a.service == pytest.approx(50.0), "a part of it is left"
    assert tenants.even - b.service == pytest.approx(0.0)


def test_within_their_share_tenants_go_by_what_is_due_and_not_by_priority() -> None:
    tenants = Tenants(burst=1e6)
    h = harness(tenants=tenants)
    submit(h, "blocker", decode("x", [3, 7], max_tokens=8), tenant="a")
    h.step()
    submit(h, "long", decode("x", [3, 4], max_tokens=60), tenant="a", priority=9)
    submit(h, "short", decode("x", [3, 5], max_tokens=5), tenant="b")
    h.run()
    assert h.ended["bshort.x"].receipt.queued_s < h.ended["along.x"].receipt.queued_s


def test_of_two_within_their_share_the_one_that_asks_for_less_goes_first() -> None:
    h = harness(tenants=Tenants(burst=1e6))
    submit(h, "blocker", decode("x", [3, 7], max_tokens=8), tenant="c")
    h.step()
    for i in range(9):
        submit(h, f"w{i}", decode("x", [3, i + 10], max_tokens=20), tenant="a")
    submit(h, "w", decode("x", [3, 5], max_tokens=20), tenant="b")
    h.run()
    assert all(h.ended["bw.x"].receipt.queued_s < h.ended[f"aw{i}.x"].receipt.queued_s for i in range(9))


def test_calls_give_way_only_where_their_tenant_is_clearly_beyond_its_share() -> None:
    tenants = Tenants(burst=1_000.0)
    h = harness(max_running=2, tenants=tenants)
    for i in range(4):
        submit(h, f"w{i}", decode("x", [3, i + 4], max_tokens=40), tenant="a")
    h.step()
    tenants.known["a"].service = tenants.even
    submit(h, "w", decode("x", [3, 50], max_tokens=40), tenant="b")
    submit(h, "v", decode("x", [3, 60], max_tokens=40), tenant="b")
    beyond = 0.0
    while all(call.workflow.namespace == "a" for call in h.scheduler.running):
        beyond = tenants.over(tenants.known["a"])
        h.step()
    assert beyond == pytest.approx(1_000 / CLEARLY, abs=DECODED)
    h.run()
    assert len(h.ended) == 6


@pytest.mark.parametrize("policy", ["graph", "fcfs"])
def test_a_tenant_at_its_bound_of_running_calls_lets_others_pass(policy: str) -> None:
    tenants = Tenants(named={"a": TenantLimits(max_running=2)})
    h = harness(max_running=4, policy=policy, tenants=tenants)
    for i in range(6):
        submit(h, f"w{i}", decode("x", [3, i + 4], max_tokens=10), tenant="a")
    submit(h, "w", decode("x", [3, 50], max_tokens=10), tenant="b")
    while h.step():
        assert sum(call.workflow.namespace == "a" for call in h.scheduler.running) <= 2
    assert h.ended["bw.x"].receipt.queued_s <= 1.0
    assert len(h.ended) == 7


def test_lengths_are_learned() -> None:
    h = harness(max_running=4)
    estimates = h.scheduler._states.estimates
    before = estimates.length("", 60)
    for i in range(40):
        submit(h, f"w{i}", decode("x", [3, i + 4], max_tokens=60, forced=()), tenant="")
    h.run()
    ratio = sum(o.receipt.generated for o in h.ended.values()) / (60 * len(h.ended))
    prior = 8 / (8 + len(h.ended))
    assert estimates.length("", 60) == pytest.approx(60 * (ratio * (1 - prior) + before / 60 * prior), rel=0.01)
    assert Estimates().length("", 60) == before


def test_all_work_is_unlinked_in_the_end() -> None:
    h = harness(max_running=3)
    submit(h, "w", *(decode(f"a{i}", [3, i + 4], max_tokens=5) for i in range(5)))
    workflow = h.scheduler.graph.workflow("", "w")
    assert workflow.tenant.asked == workflow.work > 0
    h.run()
    assert (workflow.work, workflow.tenant.asked) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert workflow.tenant.unfinished == 0
