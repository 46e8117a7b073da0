"""What those who watch the cache are told: of which message, in order, and how much they have missed."""

from __future__ import annotations

import asyncio

import pytest
from support.fingerprint import FingerprintRunner
from support.harness import FakeRunner, Harness, decode, prefill
from support.tiers import empty

from pavane.scheduler.cache_events import CacheChange, CacheEvents
from pavane.scheduler.introspection import SLICE


@pytest.fixture
def h() -> Harness:
    return Harness(FakeRunner(120), 120)


def begin(events: CacheEvents) -> int:
    """Watches from here on."""
    for _ in events.open():
        pass
    return events.last


def told(events: CacheEvents, after: int = 0) -> list[tuple[str, str, int]]:
    lost, changes = events.read(after, 1000)
    assert lost == 0
    assert all(change.workflow_id == "w" for change in changes)
    return [(change.kind, change.message_id, change.tokens) for change in changes]


def test_messages_that_come_and_go(h: Harness) -> None:
    events = CacheEvents(h.scheduler)
    h.submit(prefill("before", [3] * 10))
    h.run()
    begin(events)
    h.submit(prefill("p", [4] * 20), decode("d", [5, 6], "p", max_tokens=3))
    h.run()
    answer = [("d", 1), ("d", 6)]  # what is known of its header, and the rest
    assert told(events) == [("stored", "p", 20), *(("stored", *part) for part in answer)]
    after = events.last
    h.cache.evict(120)
    gone = [("evicted", "before", 10), *(("evicted", *part) for part in answer), ("evicted", "p", 20)]
    assert sorted(told(events, after)) == gone
    after = events.last
    h.submit(decode("e", [7], "p", "before", max_tokens=1))
    h.run()
    assert sorted(told(events, after)) == [("stored", "before", 10), ("stored", "e", 4), ("stored", "p", 20)]


def test_messages_that_go_below_and_come_back() -> None:
    runner = FingerprintRunner(60)
    runner.add_tier(0, faulty=False)
    h = Harness(runner, 60, host_pages=4)
    events = CacheEvents(h.scheduler)
    begin(events)
    h.submit(prefill("p", [4] * 20))
    h.run()
    h.cache.evict(60)
    h.submit(decode("d", [5, 6], "p", max_tokens=3, trailer=()))
    h.run()
    came = [("stored", "p", 20), ("left", "p", 20), ("came", "p", 20)]
    assert told(events) == [*came, ("stored", "d", 1), ("stored", "d", 4)]
    after = events.last
    h.cache.evict(60)
    empty(h.cache)
    gone = [("d", 1), ("d", 4), ("p", 20)]
    assert sorted(told(events, after)) == [(kind, *part) for kind in ("left", "lost") for part in gone]


def test_content_keys_tell_equal_encodings(h: Harness) -> None:
    events = CacheEvents(h.scheduler)
    begin(events)
    h.submit(prefill("p", [4] * 20), prefill("other", [5] * 20))
    h.run()
    h.cache.evict(120)
    h.submit(prefill("same", [4] * 20), decode("d", [9], "same"))
    h.run()
    _, changes = events.read(0, 100)
    keys = {(change.kind, change.message_id): change.content_key for change in changes}
    assert keys["stored", "p"] == keys["evicted", "p"] != keys["stored", "other"]
    again = [c for c in changes if c.kind == "stored" and c.content_key == keys["stored", "p"]]
    assert len(again) == 2


def test_a_message_that_is_cut_in_two(h: Harness) -> None:
    """The part that two messages have in common is one of theirs, and so is the rest."""
    events = CacheEvents(h.scheduler)
    begin(events)
    h.submit(prefill("p", [3, 4, 5, 6, 7]))
    h.run()
    h.submit(prefill("q", [3, 4, 8]))
    h.run()
    assert told(events) == [("stored", "p", 5), ("stored", "q", 1)]
    after = events.last
    h.cache.evict(120)
    rows = told(events, after)
    assert sorted((kind, tokens) for kind, _, tokens in rows) == [("evicted", 1), ("evicted", 2), ("evicted", 3)]
    names = {tokens: name for _, name, tokens in rows}
    assert names[3] == "p"
    assert names[1] == "q"
    assert names[2] in ("p", "q")


def test_an_unfinished_answer_is_not_told(h: Harness) -> None:
    """Its tokens are not final, and a key of them would be remembered. What is known of its header is."""
    events = CacheEvents(h.scheduler)
    begin(events)
    h.submit(decode("d", [5, 6], max_tokens=30))
    for _ in range(4):
        h.step()
    h.scheduler.cancel("", "w", ["d"], False, h.now)
    h.submit(decode("e", [5, 6], max_tokens=4))
    h.run()
    assert told(events) == [("stored", "d", 1), ("stored", "e", 7)]


def test_nobody_watches(h: Harness) -> None:
    events = CacheEvents(h.scheduler)
    assert h.cache.on_change is None
    begin(events)
    begin(events)
    events.close()
    assert h.cache.on_change is not None
    h.submit(prefill("p", [4] * 20))
    h.run()
    events.close()
    assert h.cache.on_change is None
    assert (events.last, events.read(1, 10)) == (1, (0, []))
    after = begin(events)
    h.submit(prefill("q", [5] * 20))
    h.run()
    assert [c.sequence for c in events.read(after, 10)[1]] == [2]


def test_who_does_not_read_loses_the_oldest(h: Harness) -> None:
    events = CacheEvents(h.scheduler, kept=50)
    after = begin(events)
    for i in range(200):
        h.submit(prefill(f"m{i}", [3 + i % 90, 3 + i // 90] * 2))
        h.run()
    first = events.read(after, 1000)
    lost, changes = first
    assert events.last > 300
    assert (len(changes), lost) == (50, events.last - 50)
    assert [c.sequence for c in changes] == list(range(lost + 1, events.last + 1))
    assert events.read(events.last - 10, 4) == (0, changes[40:44])
    assert events.read(events.last, 4) == (0, [])


def test_names_of_what_is_gone_are_forgotten(h: Harness) -> None:
    events = CacheEvents(h.scheduler, kept=50)
    begin(events)
    for i in range(400):
        h.submit(prefill(f"m{i}", [3 + i % 90, 3 + i // 90] * 2))
        h.run()
        h.scheduler.release("", "w", [f"m{i}"], h.now)
    assert len(events._names) <= 120


def test_beginning_to_watch_pauses(h: Harness) -> None:
    h.submit(*(prefill(f"m{i}", [3 + i % 90]) for i in range(3 * SLICE)))
    h.run()
    assert sum(1 for _ in CacheEvents(h.scheduler).open()) == 3


async def test_readers_are_woken(h: Harness) -> None:
    events = CacheEvents(h.scheduler)
    begin(events)
    readers = [asyncio.create_task(events.changed()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    h.submit(prefill("p", [4] * 20))
    h.run()
    await asyncio.wait_for(asyncio.gather(*readers), 5)
    span = h.scheduler.graph.workflow("", "w").calls["p"].span
    assert span is not None
    assert events.read(0, 1)[1] == [CacheChange(1, "stored", "", "w", "p", span.node.key, 20)]
