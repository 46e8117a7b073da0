"""The short way of a decode through a step, against the long one that every other call takes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from support.harness import FakeRunner, Harness, decode
from support.random_driver import Driver, drive

from pavane.cache import GraphCache
from pavane.scheduler import steps
from pavane.scheduler.calls import Call
from pavane.scheduler.encode import go_on
from pavane.scheduler.plan import Step


def what_came_of(driver: Driver) -> tuple[object, ...]:
    cache = driver.s.cache
    return driver.h.ended, driver.done, driver.steps, cache.evicted_nodes, cache.evicted_tokens


@pytest.mark.parametrize("chatty", [False, True])
def test_the_short_way_leads_where_the_long_one_does(monkeypatch: pytest.MonkeyPatch, chatty: bool) -> None:
    """Answers, receipts, what was evicted, and how often each thing has happened, failed steps among them."""
    cases, things = range(500, 512), 80
    taken: Counter[bool] = Counter()

    def counted(cache: GraphCache, call: Call, step: Step) -> bool:
        done = go_on(cache, call, step)
        taken[done] += 1
        return done

    monkeypatch.setattr(steps, "go_on", counted)
    short = [what_came_of(drive(seed, things, chatty=chatty)) for seed in cases]
    assert taken[True] > 100
    monkeypatch.setattr(steps, "go_on", lambda *_: False)
    assert [what_came_of(drive(seed, things, chatty=chatty)) for seed in cases] == short


def test_many_calls_at_once_are_put_in_the_order_of_their_keys() -> None:
    rng = random.Random(0)
    h = Harness(FakeRunner(20_000), 20_000, policy="graph", check=False)
    for i in range(9):
        key = rng.choice(["", "other"]), f"w{i}"
        h.scheduler.open(*key, 0, 1e9, float(i), priority=rng.choice([0, 2]))
        calls = [decode(f"{i}.{k}", [3] * rng.randint(1, 5), max_tokens=rng.choice([2, 9, 20])) for k in range(6)]
        h.scheduler.submit(*key, calls, float(i))
    order, most = h.scheduler._states.order, 0
    while h.step():
        running = list(h.scheduler.running)
        rng.shuffle(running)
        assert order.in_order(running) == sorted(running, key=order.key)
        most = max(most, len(running))
    assert most == 16
