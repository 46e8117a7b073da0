"""What a call needs and gets before it runs, all or nothing, and what is left when it stops."""

from __future__ import annotations

import pytest
from support.caches import A, B, C, N, compute, leave, message, put, stored

from pavane.cache import GraphCache, Member, NeverFitsError, audit


def test_requirements_put_inputs_first_and_only_what_is_missing() -> None:
    cache = GraphCache(100)
    a, c = message(cache, A), message(cache, C)
    b = message(cache, B, [Member(a, 0), Member(c, 10)], 14)
    assert cache.requirements([b]) == [b], "what is stored needs nothing"
    cache.evict(100)
    needs = [need.node for need in cache.requirements([b])]
    assert set(needs[:2]) == {a.node, c.node}
    assert needs[2:] == [b.node]
    compute(cache, a)
    assert cache.requirements([b])[-1].node is b.node
    assert len(cache.requirements([b, b, a])) == 3, "each node once"


def test_what_somebody_computes_needs_nothing_from_others() -> None:
    cache = GraphCache(100)
    a = put(cache, A)
    b = put(cache, B, [Member(a, 5)], 8)
    needs = cache.requirements([b])
    assert [n.node for n in needs] == [a.node, b.node]
    assert cache.acquire(needs, "one")
    assert [n.node for n in cache.requirements([b])] == [b.node]
    more = cache.requirements([b])
    free = cache.pool.free
    assert cache.acquire(more, "two")
    assert cache.pool.free == free
    assert b.node.owner == "one"
    cache.abandon(needs, "one")
    assert b.node.owner is None
    cache.abandon(more, "two")
    leave(cache, a, b)


def test_acquire_is_all_or_nothing() -> None:
    cache = GraphCache(10)
    running = put(cache, [90] * 6)
    held = cache.requirements([running])
    assert cache.acquire(held, "one")
    a, b = put(cache, A), put(cache, B, [], 40)
    needs = cache.requirements([a, b])
    assert not cache.acquire(needs, "two"), "5 wanted, 4 free"
    audit(cache, [running, a, b], held)
    assert a.node.extents is None
    assert a.node.owner is None
    assert not cache.acquire(cache.requirements([a]), "two", spare=2)
    assert cache.acquire(cache.requirements([a]), "two", spare=1)
    assert cache.pool.free == 0


def test_never_fits() -> None:
    cache = GraphCache(10)
    a = put(cache, [3] * 8)
    with pytest.raises(NeverFitsError) as error:
        cache.acquire([a], "call", spare=3)
    assert (error.value.needed, error.value.size) == (11, 10)
    audit(cache, [a])
    assert cache.acquire([a], "call", spare=2)


def test_a_reserve_that_a_parked_decode_kept_counts_when_it_comes_back() -> None:
    """Alone in the pool, a decode can always go on."""
    cache = GraphCache(20)
    branch = cache.branch(cache.position(N, [], 0).node, [3, 4])
    cache.retain(branch)
    assert cache.acquire([branch], "decode", spare=16)
    cache.fill(branch.node, 2)
    cache.append(branch.node, [5, 6], "decode")
    cache.fill(branch.node, 1)
    cache.abandon([branch], "decode")  # 18 slots, 4 tokens, 14 more to come
    audit(cache, [branch])
    assert cache.acquire([branch], "decode", spare=14)
    assert cache.pool.free == 2
    cache.abandon([branch], "decode")
    leave(cache, branch)


def test_a_node_partly_written_settles_into_what_is_written() -> None:
    cache = GraphCache(100)
    a = put(cache, [3, 4, 5, 6, 7])
    needs = cache.requirements([a])
    assert cache.acquire(needs, "call")
    assert cache.fill(a.node, 2) == 2
    cache.abandon(needs, "call")
    audit(cache, [a])
    above, below = a.nodes()
    assert (above.tokens.tolist(), above.complete) == ([3, 4], True)
    assert (below.tokens.tolist(), below.extents) == ([5, 6, 7], None)
    assert cache.pool.free == 98
    compute(cache, a)
    assert stored(cache, a)
    leave(cache, a)


def test_a_branch_partly_written_stays_one_node() -> None:
    cache = GraphCache(100)
    branch = cache.branch(cache.position(N, [], 0).node, A)
    cache.retain(branch)
    assert cache.acquire([branch], "call")
    cache.fill(branch.node, 2)
    cache.abandon([branch], "call")
    audit(cache, [branch])
    assert branch.nodes() == [branch.node]
    assert branch.node.filled == 2
    leave(cache, branch)


def test_fill_tells_first_computations_apart() -> None:
    cache = GraphCache(100)
    a = put(cache, A)
    needs = cache.requirements([a])
    assert cache.acquire(needs, "call")
    assert cache.fill(a.node, 1) == 1
    assert cache.fill(a.node, 2) == 2
    cache.abandon(needs, "call")
    cache.evict(100)
    longer = put(cache, [*A, 90])
    needs = cache.requirements([longer])
    assert cache.acquire(needs, "call")
    assert [cache.fill(need.node, len(need.node)) for need in needs] == [0, 1]
    cache.abandon(needs, "call")
    leave(cache, a, longer)


def test_a_step_that_failed_leaves_nothing() -> None:
    cache = GraphCache(100)
    a = put(cache, A)
    needs = cache.requirements([a])
    assert cache.acquire(needs, "call")
    cache.fill(a.node, 3)
    cache.abandon(needs, "call")  # cancelled while the step runs
    cache.release(a)
    audit(cache)
    cache.unfill(a.node, 0)  # ... which then fails
    audit(cache)
    assert cache.contexts == {}
    assert cache.pool.free == 100
