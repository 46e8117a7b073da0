"""The short way of a decode through a step, against the long one that every other call takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from support.random_driver import Driver, drive

from pavane.cache import GraphCache
from pavane.scheduler import steps
from pavane.scheduler.calls import Call
from pavane.scheduler.encode import go_on
from pavane.scheduler.order import GraphOrder
from pavane.scheduler.plan import Step


def what_came_of(driver: Driver) -> tuple[object, ...]:
    cache = driver.s.cache
    return driver.h.ended, driver.done, driver.steps, cache.evicted_nodes, cache.evicted_tokens


@pytest.mark.parametrize("chatty", [False, True])
def test_the_short_way_leads_where_the_long_one_does(monkeypatch: pytest.MonkeyPatch, chatty: bool) -> None:
    """Answers, receipts, what was evicted, and how often each thing has happened, failed steps among them."""
    cases, things = range(500, 516), 80
    taken: Counter[bool] = Counter()

    def counted(cache: GraphCache, call: Call, step: Step) -> bool:
        done = go_on(cache, call, step)
        taken[done] += 1
        return done

    monkeypatch.setattr(steps, "go_on", counted)
    short = [what_came_of(drive(seed, things, chatty=chatty)) for seed in cases]
    assert taken[True] > 150
    monkeypatch.setattr(steps, "go_on", lambda *_: False)
    assert [what_came_of(drive(seed, things, chatty=chatty)) for seed in cases] == short


def test_many_calls_at_once_are_put_in_the_order_of_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    in_order, most = GraphOrder.in_order, 0

    def checked(order: GraphOrder, calls: Iterable[Call]) -> list[Call]:
        nonlocal most
        found = in_order(order, calls)
        assert found == sorted(calls, key=order.key)
        most = max(most, len(found))
        return found

    monkeypatch.setattr(GraphOrder, "in_order", checked)
    for seed in range(8):
        drive(seed, 100)
    assert most >= 3
