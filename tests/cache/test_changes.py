"""What an observer of the cache is told, and whose the slots are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pavane.cache import GraphCache, Node, Span, audit


class Observer:
    def __init__(self) -> None:
        self.told: list[tuple[str, list[int], int]] = []

    def __call__(self, kind: str, node: Node, tokens: int) -> None:
        self.told.append((kind, node.tokens.tolist(), tokens))

    def take(self) -> list[tuple[str, list[int], int]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def cache(observer: Observer) -> GraphCache:
    cache = GraphCache(40)
    cache.on_change = observer
    return cache


def put(cache: GraphCache, tokens: Sequence[int], namespace: str = "") -> Span:
    span = cache.extend(cache.position(namespace, [], 0).node, tokens)
    cache.retain(span)
    return span


def compute(cache: GraphCache, span: Span, *counts: int) -> list[Span]:
    needs = cache.requirements([span])
    assert cache.acquire(needs, "call")
    for count in counts or [len(span.node) - span.node.filled]:
        cache.fill(span.node, count)
    return needs


def test_a_message_is_told_when_it_is_whole(cache: GraphCache, observer: Observer) -> None:
    span = put(cache, [3, 4, 5, 6])
    needs = compute(cache, span, 3)
    assert observer.take() == []
    cache.fill(span.node, 1)
    cache.abandon(needs, "call")
    assert observer.take() == [("stored", [3, 4, 5, 6], 4)]
    cache.evict(1)
    assert observer.take() == [("evicted", [3, 4, 5, 6], 4)]
    cache.abandon(compute(cache, span), "call")
    assert observer.take() == [("stored", [3, 4, 5, 6], 4)]


def test_what_is_left_of_a_message_is_told(cache: GraphCache, observer: Observer) -> None:
    span = put(cache, [3, 4, 5, 6])
    cache.abandon(compute(cache, span, 3), "call")
    assert observer.take() == [("stored", [3, 4, 5], 3)]


def test_a_running_encoding_that_is_split(cache: GraphCache, observer: Observer) -> None:
    span = put(cache, [3, 4, 5, 6])
    needs = compute(cache, span, 3)
    other = put(cache, [3, 4])
    assert observer.take() == [("stored", [3, 4], 2)]
    cache.fill(span.node, 1)
    assert observer.take() == [("stored", [5, 6], 2)]
    cache.abandon(needs, "call")
    put(cache, [3])
    assert observer.take() == [], "what was told already is not told again"
    assert other.node.complete


def test_a_step_that_failed_takes_it_back(cache: GraphCache, observer: Observer) -> None:
    span = put(cache, [3, 4, 5, 6])
    needs = compute(cache, span, 1, 3)
    observer.take()
    cache.unfill(span.node, 1)
    assert observer.take() == [("evicted", [3, 4, 5, 6], 4)]
    cache.abandon(needs, "call")


def test_a_decode_is_told_at_its_end(cache: GraphCache, observer: Observer) -> None:
    header = put(cache, [3, 4])
    cache.abandon(compute(cache, header), "call")
    observer.take()
    span = cache.branch(cache.position("", [], 0).node, [3, 4])
    cache.retain(span)
    needs = compute(cache, span, 2)
    cache.append(span.node, [7, 8], "call")
    assert cache.grow(span.node, 4)
    cache.fill(span.node, 2)
    assert observer.take() == []
    sealed = cache.seal(span, needs)
    assert observer.take() == [("stored", [7, 8], 2)], "the header was there already"
    cache.abandon(needs, "call")
    cache.release(sealed)
    audit(cache, [header])


def test_a_decode_that_is_sealed_before_its_end_is_written(cache: GraphCache, observer: Observer) -> None:
    span = cache.branch(cache.position("", [], 0).node, [3, 4])
    cache.retain(span)
    needs = compute(cache, span, 2)
    cache.append(span.node, [7, 8], "call")
    assert cache.grow(span.node, 4)
    assert cache.seal(span, needs) == span
    assert observer.take() == []
    cache.fill(span.node, 2)
    assert observer.take() == [("stored", [3, 4, 7, 8], 4)]
    cache.abandon(needs, "call")


def test_slots_by_namespace(cache: GraphCache) -> None:
    for tokens, namespace in (([3, 4], ""), ([3, 4], "other"), ([3, 4, 5], "other")):
        span = put(cache, tokens, namespace)
        cache.abandon(compute(cache, span), "call")
        cache.release(span)
    assert cache.slots_held == {"": 2, "other": 3}
    audit(cache)
    cache.evict(40)
    assert not cache.slots_held


def test_the_audit_counts_slots_by_namespace(cache: GraphCache) -> None:
    span = put(cache, [3, 4])
    cache.abandon(compute(cache, span), "call")
    cache.slots_held["other"] += 1
    with pytest.raises(AssertionError, match="slots by namespace"):
        audit(cache, [span])
