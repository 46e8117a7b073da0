"""What becomes of a decode that stops between its last token and its trailer."""

from __future__ import annotations

from pavane.cache import GraphCache, audit


def test_a_sealed_decode_that_stops_before_its_trailer_has_slots() -> None:
    cache, owner = GraphCache(8), object()
    span = cache.branch(cache.position("", [], 0).node, [3, 4])
    cache.retain(span)
    needs = cache.requirements([span])
    assert cache.acquire(needs, owner)
    cache.fill(span.node, 2)
    cache.append(span.node, [1, 2], owner)
    span = cache.seal(span, needs)
    cache.abandon(needs, owner)
    audit(cache, [span])
    assert [(node.tokens.tolist(), node.filled) for node in span.nodes()] == [([3, 4], 2), ([1, 2], 0)]
    assert cache.idle_slots == 2, "what is written may be used, or dropped"
    assert cache.evict(8) == 2
    audit(cache, [span])
    cache.release(span)
    assert cache.contexts == {}
