"""What the verbs cost in a cache of 20,000 messages. Bars are several times what was measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter

import pytest
from support.caches import N, compute, message

from pavane.cache import GraphCache, Keep, Member, Span

MESSAGES, LENGTH = 20_000, 50


def best_ms(call: Callable[[], object], times: int = 7) -> float:
    """Of several times, so that other work on the machine does not decide."""

    def once() -> float:
        begin = perf_counter()
        call()
        return (perf_counter() - begin) * 1e3

    return min(once() for _ in range(times))


@pytest.fixture(scope="module")
def large() -> tuple[GraphCache, list[Span]]:
    cache = GraphCache(MESSAGES * LENGTH + 20_000)
    spans = [message(cache, range(LENGTH * i, LENGTH * i + LENGTH)) for i in range(MESSAGES)]
    order = spans.copy()
    random.Random(1).shuffle(order)
    for span in order:  # slots of neighbours in the order of eviction are no neighbours
        compute(cache, span)
    return cache, spans


def test_match_and_insert_of_a_long_prompt(large: tuple[GraphCache, list[Span]]) -> None:
    cache, _ = large
    prompt = list(range(2_000_000, 2_004_000))
    for end in range(75, 3001, 75):  # a prefix of 40 nodes
        compute(cache, cache.extend(cache.position(N, [], 0).node, [*prompt[:end], 1]))
    fresh = iter(range(3_000_000, 9_000_000))

    def match(shared: int) -> None:
        tokens = [*prompt[:shared], *(next(fresh) for _ in range(4000 - shared))]
        cache.extend(cache.position(N, [], 0).node, tokens)

    assert best_ms(lambda: match(3000)) < 1.5, "0.1 when it was written"
    assert best_ms(lambda: match(0)) < 1.5, "0.3"


def test_locking_eight_parents(large: tuple[GraphCache, list[Span]]) -> None:
    cache, _ = large
    rng = random.Random(2)
    parents = [message(cache, [9_000_000 + i, *(rng.randrange(1000) for _ in range(499))]) for i in range(8)]
    members = [Member(span, 500 * i) for i, span in enumerate(parents)]
    own = cache.branch(cache.position(N, members, 4000).node, [1, 2, 3])
    cache.retain(own)

    def lock() -> None:
        needs = cache.requirements([*parents, own])
        assert cache.acquire(needs, "call")
        cache.abandon(needs, "call")

    assert best_ms(lock, 50) < 0.5, "0.05 when it was written"


def test_evicting_a_thousand(large: tuple[GraphCache, list[Span]]) -> None:
    cache, spans = large
    for i, span in enumerate(spans):
        cache.regrade(span, Keep.HELD, Keep(i % len(Keep)))
    before = sum(cache.evicted_tokens)
    assert best_ms(lambda: cache.evict(1000 * LENGTH)) < 10, "2 to 4 when it was written"
    assert sum(cache.evicted_tokens) - before >= 7 * 1000 * LENGTH
