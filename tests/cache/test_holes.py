"""KV goes and what it was the KV of stays known: who can still read, and when nothing is left."""

from __future__ import annotations

import pytest
from support.caches import A, B, C, compute, leave, message, put, stored

from pavane.cache import GraphCache, Member, Span, audit


def test_what_runs_is_inviolable() -> None:
    cache = GraphCache(10)
    a, b = message(cache, A), message(cache, B, [], 40)
    needs = cache.requirements([a])
    assert cache.acquire(needs, "call")
    assert cache.evict(100) == 2
    assert stored(cache, a)
    assert cache.idle_slots == 0
    cache.abandon(needs, "call")
    assert cache.idle_slots == 3
    assert cache.evict(100) == 3
    leave(cache, a, b)


def test_a_reader_does_not_need_what_its_message_saw() -> None:
    """A hole: the KV of A is gone, that of B is still there."""
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 0)], 3)
    compute(cache, b)  # A is the oldest now
    cache.evict(1)
    assert not stored(cache, a)
    assert stored(cache, b)
    assert cache.requirements([b]) == [b]
    later = put(cache, C, [Member(a, 0), Member(b, 3)], 5)
    needs = [need.node for need in cache.requirements([later])]
    assert needs.index(a.node) < needs.index(later.node)
    assert cache.acquire([Span(node, node.lo) for node in needs], "call")
    assert [node.owner for node in needs if node is not b.node] == ["call", "call"], "only the hole is mended"
    assert b.node.owner is None


def test_a_context_keeps_what_it_names_known_without_its_kv() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 9)], 12)
    cache.release(a)
    cache.evict(100)
    audit(cache, [b])
    assert a.node.attached
    compute(cache, b)
    assert stored(cache, b)
    leave(cache, b)


@pytest.mark.parametrize("bos", [None, 1])
def test_nothing_is_left_behind(bos: int | None) -> None:
    cache = GraphCache(200, bos_id=bos)
    spans = [message(cache, A)]
    for i in range(12):
        seen = [Member(span, 7 * j) for j, span in enumerate(spans[-(i % 4) :])]
        spans.append(message(cache, [3 + i % 3, 4, 5][: 1 + i % 3], seen, 30))
        audit(cache, spans)
    leave(cache, *spans)
