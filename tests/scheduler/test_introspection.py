"""Snapshots add up in every state that random steps lead to, and stop nobody for long."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from time import perf_counter

import pytest
from support.fingerprint import FingerprintRunner
from support.harness import FakeRunner, Harness, decode, prefill

from pavane.kernels.pages import PAGE
from pavane.scheduler.errors import RequestError
from pavane.scheduler.introspection import SLICE, HostStats, Inspector, MessageStats, WorkflowStats
from pavane.scheduler.spec import Ended, Outcome, Receipt, Retention, State, TokensAdded
from pavane.scheduler.tally import WINDOW_S, Tally, TokenCounts

KEYS = [("", "a"), ("", "b"), ("tenant", "a")]


class Watched(Harness):
    """Whose events are tallied, as the server does it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tally = Tally(self.now)
        self.inspector = Inspector(self.scheduler, self.tally)
        for key in KEYS:
            self.scheduler.open(*key, 0, 1e9, self.now)

    def collect(self) -> None:
        for events in self.scheduler.take_events().values():
            self.tally.record(events, self.now)

    def workflows(self, **options: object) -> list[WorkflowStats]:
        found = self.inspector.workflows(None, 100, self.now, **options)  # type: ignore[arg-type]
        return [one for one in found if one is not None]

    def messages(self, key: tuple[str, str]) -> list[MessageStats]:
        return [one for one in self.inspector.messages(key, 0, 10_000, self.now) if one is not None]


def check(h: Watched) -> None:
    stats = h.inspector.stats(h.now)
    slots = stats.slots
    assert slots.free + slots.idle + slots.locked == slots.total == h.slots
    assert sum(held for _, held in slots.namespaces) == slots.idle + slots.locked
    held = {node for span in h.scheduler.held()[1] for node in span.nodes()}
    assert slots.locked == sum(extent.length for node in held for extent in node.extents or ())
    states: Counter[str] = Counter()
    in_namespace: Counter[str] = Counter()
    workflows = h.workflows()
    assert [(w.namespace, w.id) for w in workflows] == sorted(h.scheduler.graph.workflows)
    for w in workflows:
        messages = h.messages((w.namespace, w.id))
        counts = {state.value: sum(m.state is state for m in messages) for state in State}
        assert {name: getattr(w.calls, name) for name in counts} == counts
        for state in (State.BLOCKED, State.QUEUED, State.RUNNING):
            states[state.value] += counts[state.value]
        assert w.tokens_on_host == sum(m.tokens_on_host for m in messages)
        assert w.tokens == sum(m.tokens for m in messages)
        assert w.tokens_in_slots == sum(m.tokens_in_slots for m in messages)
        assert all(0 <= m.tokens_in_slots <= m.tokens for m in messages)
        assert [m.serial for m in messages] == sorted(m.serial for m in messages)
        waits = {m.id: Counter(r.id for r in messages if not r.state.ended and m.id in r.parents) for m in messages}
        for m in messages:
            if m.state is State.DONE:
                assert m.readers_left == sum(waits[m.id].values())
        assert w.slots <= dict(slots.namespaces).get(w.namespace, 0)
        in_namespace[w.namespace] += w.slots
        assert (w.ttl_left is None) == any(not m.state.ended for m in messages)
    assert {name: getattr(stats.calls, name) for name in ("blocked", "queued", "running")} == {
        name: states[name] for name in ("blocked", "queued", "running")
    }
    assert stats.calls.running == len(h.scheduler.running)
    unfinished = [(w.namespace, w.id) for w in h.workflows(unfinished=True)]
    assert unfinished == [(w.namespace, w.id) for w in workflows if w.ttl_left is None]


def act(h: Watched, rng: random.Random, names: dict[tuple[str, str], list[str]]) -> None:
    key = rng.choice(KEYS)
    known = names[key]
    live = list(h.scheduler.graph.workflow(*key).calls)
    dice = rng.random()
    if dice < 0.3:
        name = f"m{len(known)}"
        known.append(name)
        parents = rng.sample(live[-6:], min(len(live[-6:]), rng.randint(0, 3)))
        tokens = [rng.randint(3, 5) for _ in range(rng.randint(1, 9))]
        spec = (
            prefill(name, tokens, *parents, exact=rng.random() < 0.2)
            if rng.random() < 0.5
            else decode(name, tokens, *parents, max_tokens=rng.randint(1, 9))
        )
        h.scheduler.submit(*key, [spec], h.now)
    elif dice < 0.34 and live:
        h.scheduler.cancel(*key, [rng.choice(live)], rng.random() < 0.5, h.now)
    elif dice < 0.38 and live:
        h.scheduler.release(*key, [rng.choice(live)], h.now)
    elif dice < 0.42:
        h.cache.evict(rng.choice([1, 20]))
    h.collect()


@pytest.mark.parametrize("seed", range(8))
def test_random_states_add_up(seed: int) -> None:
    rng = random.Random(seed)
    h = Watched(FakeRunner(90), 90, token_budget=rng.choice([4, 30]), max_running=rng.choice([2, 8]))
    names: dict[tuple[str, str], list[str]] = {key: [] for key in KEYS}
    for _ in range(150):
        act(h, rng, names)
        h.step()
        check(h)
    assert h.inspector.stats(h.now).calls.done > 5


def test_entries_of_a_workflow() -> None:
    h = Watched(FakeRunner(200), 200)
    h.scheduler.open("", "x", 500, 60.0, h.now, priority=3)
    pinned = prefill("p", [3] * 20, retention=Retention(pin=True))
    h.scheduler.submit("", "x", [pinned, prefill("same", [3] * 20), decode("d", [4, 5], "p", max_tokens=4)], h.now)
    h.run()
    h.now += 7.5
    (x,) = [w for w in h.workflows(namespace="") if w.id == "x"]
    assert (x.tokens, x.tokens_in_slots, x.slots) == (48, 48, 28), "equal messages share their slots"
    assert (x.budget, x.priority, x.ttl) == (500, 3, 60.0)
    assert x.spent == x.ended.encoded + x.ended.generated + x.ended.trailer == 28
    assert x.ttl_left is not None
    assert x.ttl_left + x.idle == 60.0
    p, same, d = h.messages(("", "x"))
    assert (p.pinned, p.decode, same.pinned) == (True, False, False)
    assert (d.decode, d.parents, d.tokens) == (True, ("p",), 8)
    h.cache.evict(200)
    assert [m.tokens_in_slots for m in h.messages(("", "x"))] == [0, 0, 0]


def test_messages_below_the_slots() -> None:
    runner = FingerprintRunner(60)
    runner.add_tier(0, faulty=False)
    h = Watched(runner, 60, host_pages=9)
    h.scheduler.submit("", "a", [prefill("p", [3] * 20), prefill("same", [3] * 20), prefill("q", [4] * 40)], h.now)
    h.run()
    h.cache.evict(60)
    h.run()
    assert [(m.tokens_in_slots, m.tokens_on_host) for m in h.messages(("", "a"))] == [(0, 20), (0, 20), (0, 40)]
    (a,) = [w for w in h.workflows(namespace="") if w.id == "a"]
    assert (a.tokens_in_slots, a.tokens_on_host) == (0, 80)
    stats = h.inspector.stats(h.now)
    assert stats.slots.evicted == 60
    assert stats.host == HostStats(9 * PAGE, (-(-20 // PAGE) - (-40 // PAGE)) * PAGE, 60, 0, 0)
    h.scheduler.submit("", "a", [decode("d", [5], "p", max_tokens=1)], h.now)
    h.run()
    p = h.messages(("", "a"))[0]
    assert (p.tokens_in_slots, p.tokens_on_host) == (20, 20), "what has come back stays there as well"
    host = h.inspector.stats(h.now).host
    assert host is not None
    assert (host.fetched, host.failed) == (20, 0)


def test_ten_thousand_messages_do_not_stop_the_loop() -> None:
    h = Watched(FakeRunner(200), 200, check=False)
    h.scheduler.submit("", "a", [prefill(f"m{i}", [3], exact=True) for i in range(10_000)], h.now)
    h.run()

    def turns(found: Iterator[object]) -> list[int]:
        """Steps between pauses."""
        counts = [0]
        for one in found:
            counts[-1] += 1
            if one is None:
                counts.append(0)
        return counts

    assert max(turns(h.inspector.messages(("", "a"), 0, 10_000, h.now))) == SLICE + 1
    assert len(turns(h.inspector.workflows(None, 10, h.now))) == 10_000 // SLICE + 1
    began = perf_counter()
    found = h.inspector.workflows(None, 10, h.now)
    longest = 0.0
    for _ in found:
        longest = max(longest, perf_counter() - began)
        began = perf_counter()
    assert longest < 0.05, "some milliseconds, with room for a busy machine"


def test_what_changes_in_a_pause() -> None:
    h = Watched(FakeRunner(200), 200)
    h.scheduler.submit("", "a", [prefill(f"m{i}", [3]) for i in range(SLICE + 5)], h.now)
    h.run()
    found = h.inspector.workflows(None, 10, h.now)
    assert next(found) is None
    h.scheduler.close("", "a", h.now)
    h.scheduler.close("tenant", "a", h.now)
    assert [w.id for w in found if w is not None][1:] == ["b", "w"], "the one that was begun, and those that are left"
    with pytest.raises(RequestError, match="no workflow 'a'"):
        h.inspector.messages(("", "a"), 0, 1, h.now)


def ended(**counts: int) -> Ended:
    return Ended("x", Outcome("x", State.DONE, receipt=Receipt(**counts)))


def test_tally() -> None:
    tally = Tally(1000.5)
    tally.record([TokensAdded("x", (3, 4), ()), ended(in_place=5, encoded=2)], 1000.6)
    tally.step(10, 0.25, 0.125, 1000.7)
    tally.record([ended(in_place=1, repositioned=4, generated=3, trailer=1, reencoded=9)], 1030.0)
    tally.step(30, 0.5, 0.25, 1030.0)
    whole = tally.since_start()
    assert whole.ended == TokenCounts(6, 4, 2, 3, 1, 9)
    assert (whole.sampled, whole.steps, whole.rows, whole.step_s, whole.forward_s) == (2, 2, 40, 0.75, 0.375)
    assert tally.recent(1030.0) == whole
    later = tally.recent(1000.5 + WINDOW_S)
    assert (later.sampled, later.rows, later.ended.encoded, later.ended.trailer) == (0, 30, 0, 1)
    assert tally.recent(5000.0).ended == TokenCounts()
    assert tally.since_start() == whole
    assert tally.window(1010.5) == 10.0
    assert WINDOW_S - 1 <= tally.window(5000.0) <= WINDOW_S
    times = tally.step_times()
    assert (times.steps, times.median, times.p95, times.longest) == (2, 0.25, 0.5, 0.5)
    for i in range(2000):
        tally.step(1, i / 1000, 0.0, 2000.0)
    times = tally.step_times()
    assert (times.steps, times.longest) == (1024, 1.999)
    assert times.median == pytest.approx(1.4875, abs=0.002)
    assert times.p95 == pytest.approx(1.948, abs=0.002)
