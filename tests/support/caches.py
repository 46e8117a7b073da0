"""Messages put into a cache by hand, without a scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.cache import GraphCache, Keep, Member, Span, audit

N = ""
A, B, C = [3, 4, 5], [6, 7], [8, 9, 10, 11]


def put(
    cache: GraphCache,
    tokens: Sequence[int],
    visible: Sequence[Member] = (),
    start: int = 0,
    *,
    level: Keep = Keep.HELD,
) -> Span:
    """A message: known, not yet computed."""
    span = cache.extend(cache.position(N, visible, start).node, tokens)
    cache.retain(span, level)
    return span


def compute(cache: GraphCache, *spans: Span, owner: object = "call") -> list[Span]:
    """Acquires, writes and gives back."""
    needs = cache.requirements(spans)
    assert cache.acquire(needs, owner)
    for need in needs:
        for node in need.nodes():
            if node.owner is owner:
                cache.fill(node, len(node) - node.filled)
    cache.abandon(needs, owner)
    return needs


def message(
    cache: GraphCache,
    tokens: Sequence[int],
    visible: Sequence[Member] = (),
    start: int = 0,
    *,
    level: Keep = Keep.HELD,
) -> Span:
    span = put(cache, tokens, visible, start, level=level)
    compute(cache, span)
    return span


def stored(cache: GraphCache, span: Span) -> bool:
    return all(node.complete for node in span.nodes())


def leave(cache: GraphCache, *spans: Span | tuple[Span, Keep]) -> None:
    """Nothing stays once everything is released and evicted."""
    for item in spans:
        span, level = (item, Keep.HELD) if isinstance(item, Span) else item
        cache.release(span, level)
    audit(cache)
    cache.evict(cache.pool.size)
    audit(cache)
    assert cache.contexts == {}
    assert cache.pool.free == cache.pool.size
    assert cache.idle_slots == 0
