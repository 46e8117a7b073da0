"""What goes first, how much of it, and what others are told."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.caches import A, B, C, compute, leave, message, put, stored

from pavane.cache import Change, GraphCache, Keep, Member, Node, Span, audit
from pavane.cache.eviction import SEEN_PER_COST, TOKEN_COST

LEVELS = list(Keep)


def evicted(cache: GraphCache, spans: list[Span]) -> list[int]:
    """The indices of `spans` in the order in which they lose their KV."""
    order: list[int] = []
    while len(order) < len(spans):
        assert cache.evict(1)
        order += [i for i, span in enumerate(spans) if not stored(cache, span) and i not in order]
    return order


# ---- levels


@pytest.mark.parametrize("order", [LEVELS, LEVELS[::-1], [3, 0, 5, 1, 4, 2]])
def test_what_is_kept_for_less_goes_first(order: list[int]) -> None:
    cache = GraphCache(1000)
    spans = [message(cache, [level + 3, 4, 5], level=Keep(level)) for level in order]
    audit(cache, list(zip(spans, map(Keep, order), strict=True)))
    assert [order[i] for i in evicted(cache, spans)] == LEVELS
    assert cache.evicted_nodes == [1] * len(LEVELS)
    assert cache.evicted_tokens == [3] * len(LEVELS)
    assert cache.evicted_pinned == 1


def test_without_holders_first_then_the_oldest() -> None:
    cache = GraphCache(100)
    old, mid, new = (message(cache, tokens, [], 40 * i) for i, tokens in enumerate((A, B, C)))
    cache.release(new)
    cache.evict(1)
    assert [stored(cache, span) for span in (old, mid)] == [True, True]
    assert cache.pool.free == 95, "the newest had no holder"
    compute(cache, old)  # used again
    cache.evict(1)
    assert [stored(cache, span) for span in (old, mid)] == [True, False]
    leave(cache, old, mid)


def test_the_highest_level_of_its_holders_counts() -> None:
    cache = GraphCache(100)
    held, shared = message(cache, [3]), message(cache, [4])
    for level in (Keep.NONE, Keep.IDLE, Keep.SOON, Keep.SOON):
        cache.retain(shared, level)
    assert shared.node.level is Keep.SOON
    assert shared.node.holders == [1, 1, 1, 0, 2, 0]
    cache.release(shared, Keep.SOON)
    assert shared.node.level is Keep.SOON
    cache.release(shared, Keep.SOON)
    assert shared.node.level is Keep.HELD
    cache.release(shared)
    assert shared.node.level is Keep.IDLE
    assert cache.tokens_by_level() == {**dict.fromkeys(Keep, 0), Keep.HELD: 1, Keep.IDLE: 1}
    audit(cache, [held, (shared, Keep.NONE), (shared, Keep.IDLE)])
    assert evicted(cache, [held, shared]) == [1, 0]
    leave(cache, held, (shared, Keep.NONE), (shared, Keep.IDLE))


@pytest.mark.parametrize(("before", "after"), list(permutations(Keep, 2)))
def test_regrading_moves_what_is_idle_and_what_is_not(before: Keep, after: Keep) -> None:
    cache = GraphCache(100)
    a, b = message(cache, [3], level=before), put(cache, [4], level=before)
    cache.regrade(a, before, after)
    cache.regrade(b, before, after)
    audit(cache, [(a, after), (b, after)])
    compute(cache, b)
    assert cache.tokens_by_level()[after] == 2
    audit(cache, [(a, after), (b, after)])
    leave(cache, (a, after), (b, after))


def test_regrading_is_no_use() -> None:
    """The value of what comes back to a level is that of its last use."""
    cache = GraphCache(2000)
    first = message(cache, [3])
    cache.regrade(first, Keep.HELD, Keep.SOON)
    message(cache, [4])
    cache.evict(1)  # a turnover of the rest of the cache
    later = message(cache, [5])
    cache.regrade(first, Keep.SOON, Keep.HELD)
    assert evicted(cache, [first, later]) == [0, 1]


def test_a_level_that_nobody_holds_cannot_be_released() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    for verb in (lambda: cache.release(a, Keep.SOON), lambda: cache.release(a, Keep.NONE)):
        with pytest.raises(ValueError, match=r"level (SOON|NONE) of depth 0\.\.3: nobody has retained it"):
            verb()
    cache.retain(a, Keep.SOON)
    leave(cache, a, (a, Keep.SOON))


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="eviction: 'fifo' is not known; choose one of graph, lru"):
        GraphCache(10, eviction="fifo")  # type: ignore[arg-type]


def test_holders_of_a_decode_that_is_folded_go_to_its_twin() -> None:
    cache = GraphCache(100)
    twin = message(cache, A, level=Keep.IDLE)
    branch = cache.branch(cache.position("", [], 0).node, A)
    cache.retain(branch, Keep.LATER)
    needs = cache.requirements([branch])
    assert cache.acquire(needs, "decode")
    cache.fill(branch.node, 3)
    sealed = cache.seal(branch, needs)
    assert sealed == twin
    cache.abandon(needs, "decode")
    audit(cache, [(twin, Keep.IDLE), (sealed, Keep.LATER)])
    assert twin.node.level is Keep.LATER
    leave(cache, (twin, Keep.IDLE), (sealed, Keep.LATER))


# ---- within a level


def test_the_deepest_of_a_path_goes_first() -> None:
    """Of what costs nearly the same: the front of a path is what others share."""
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 0)], 3)
    whole = Span(b.node, 0)
    needs = cache.requirements([whole])
    assert cache.acquire(needs, "call")
    cache.abandon(needs, "call")
    cache.evict(1)
    assert stored(cache, a)
    assert not stored(cache, b)


def test_what_is_dear_to_encode_outlives_what_is_cheap() -> None:
    """A token that sees 4,096 others costs twice what one costs that sees none: it stays while the cheap ones go that
    were used in one turnover of the cache, and not for ever."""
    cache = GraphCache(5000)
    document = message(cache, [100] * TOKEN_COST * SEEN_PER_COST, level=Keep.PINNED)
    dear = message(cache, A, [Member(document, 7)], document.length + 7)
    cheap = [message(cache, [token]) for token in range(3, 9)]
    assert evicted(cache, cheap) == [0, 1, 2, 3, 4, 5]
    assert stored(cache, dear), "older than they, and dearer"
    again = [message(cache, [token]) for token in range(10, 13)]
    assert evicted(cache, [dear, *again]) == [0, 1, 2, 3], "after a turnover it is just old"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 30, 126]), min_size=2, max_size=12),
    actions=st.lists(
        st.tuples(st.sampled_from(["use", "use", "evict", "grade"]), st.integers(0, 11), st.sampled_from(Keep)),
        max_size=60,
    ),
    policy=st.sampled_from(["graph", "lru"]),
)
def test_the_order_is_that_of_its_definition(
    lengths: list[int], actions: list[tuple[str, int, Keep]], policy: str
) -> None:
    """GreedyDual-Size by the book: a table of levels, values and times, searched for its minimum."""
    cache = GraphCache(6000, eviction="graph" if policy == "graph" else "lru")
    document = message(cache, [9] * 4000, level=Keep.PINNED)
    assert cache.acquire([document], "for ever")
    spans: list[Span] = []
    for i, length in enumerate(lengths):
        visible = [Member(document, 1)] if i % 3 == 0 else []
        gap = i % 2  # without one, it continues the path of the document
        spans.append(put(cache, [3 + i] * length, visible, 4001 + gap if visible else 50 * i))
    level = dict.fromkeys(range(len(spans)), Keep.HELD)
    value: dict[int, tuple[int, int]] = {}
    clock = 0
    for time, (action, index, keep) in enumerate(actions):
        i = index % len(spans)
        if action == "use":
            compute(cache, spans[i])
            seen = (4000 if i % 3 == 0 else 0) + lengths[i] // 2
            value[i] = (clock + 64 + seen // 64, time) if policy == "graph" else (0, time)
        elif action == "grade":
            cache.regrade(spans[i], level[i], keep)
            if i in value and level[i] != keep and policy == "graph":
                value[i] = (value[i][0], time)  # the last of its equals there
            level[i] = keep
        elif value:
            worst = min(value, key=lambda i: (level[i] if policy == "graph" else 0, value[i], i))
            before = cache.evicted_nodes[level[worst]]
            assert cache.evict(1) == lengths[worst]
            assert not stored(cache, spans[worst])
            assert cache.evicted_nodes[level[worst]] == before + 1
            clock = max(clock, value.pop(worst)[0])
        assert {i for i, span in enumerate(spans) if stored(cache, span)} == set(value)
    audit(cache, [(document, Keep.PINNED), *((spans[i], level[i]) for i in level)], [document])


# ---- how much of it


def test_of_a_long_node_only_the_end_goes() -> None:
    cache = GraphCache(1000)
    a = message(cache, [3] * 600)
    assert cache.evict(10) == 300, "at least half"
    front, end = a.nodes()
    assert (len(front), front.complete) == (300, True)
    assert (len(end), end.extents) == (300, None)
    assert cache.evict(200) == 200
    assert [len(node) for node in a.nodes() if node.complete] == [100]
    audit(cache, [a])
    assert cache.evict(37) == 100, "the rest would be shorter than what a cut keeps"
    assert cache.evicted_nodes[Keep.HELD] == 3
    assert cache.evicted_tokens[Keep.HELD] == 600
    compute(cache, a)
    assert stored(cache, a)
    leave(cache, a)


def test_the_rest_of_what_was_cut_goes_next() -> None:
    cache = GraphCache(2000)
    a, b = message(cache, [3] * 600), message(cache, [4] * 600)
    cache.evict(400)
    cache.evict(1)
    assert stored(cache, b)
    cache.evict(100)
    assert [node.complete for node in a.nodes()] == [False] * len(a.nodes())
    assert stored(cache, b)
    leave(cache, a, b)


@pytest.mark.parametrize("count", [1, 64, 300, 301, 536, 537, 600, 601, 900, 901])
def test_no_more_goes_than_half_a_node_too_much(count: int) -> None:
    cache = GraphCache(1300)
    spans = [message(cache, [token] * 600) for token in (3, 4)]
    freed = cache.evict(count)
    assert count <= freed <= count + 300
    assert cache.pool.free == 100 + freed
    audit(cache, spans)


def test_running_decodes_and_the_plain_order_are_never_cut() -> None:
    for policy in ("graph", "lru"):
        cache = GraphCache(1000, eviction="graph" if policy == "graph" else "lru")
        parked = cache.branch(cache.position("", [], 0).node, [3] * 600)
        cache.retain(parked)
        compute(cache, parked)
        assert cache.evict(1) == 600
        plain = message(cache, [4] * 300)
        assert cache.evict(1) == (150 if policy == "graph" else 300)
        leave(cache, parked, plain)


def test_lru_knows_no_levels() -> None:
    cache = GraphCache(100, eviction="lru")
    spans = [message(cache, [3 + i], level=level) for i, level in enumerate(reversed(Keep))]
    cache.regrade(spans[0], Keep.PINNED, Keep.SOON)
    audit(cache, [(spans[0], Keep.SOON), *zip(spans[1:], reversed(list(Keep)[:-1]), strict=True)])
    compute(cache, spans[1])
    assert evicted(cache, spans) == [0, 2, 3, 4, 5, 1]
    assert cache.evicted_nodes == [1, 1, 1, 1, 2, 0], "counted by level all the same"


# ---- what others are told


def test_an_observer_is_told_what_lookups_find() -> None:
    changes: list[tuple[Change, bytes, int]] = []

    def told(change: Change, node: Node, tokens: int) -> None:
        changes.append((change, node.key, tokens))

    cache = GraphCache(1000, on_change=told)
    a = put(cache, [3] * 600)
    cache.acquire([a], "call")
    cache.fill(a.node, 599)
    assert changes == [], "not yet all of it"
    cache.fill(a.node, 1)
    assert changes == [("stored", a.node.key, 600)]
    cache.abandon([a], "call")
    cache.evict(1)
    assert changes[1:] == [("evicted", a.node.key, 300)], "the end of it"
    cache.evict(300)
    assert [(change, tokens) for change, _, tokens in changes[2:]] == [("evicted", 300)]
    leave(cache, a)


def test_a_decode_is_told_of_when_it_is_sealed() -> None:
    changes: list[tuple[Change, int]] = []
    cache = GraphCache(100, on_change=lambda change, node, tokens: changes.append((change, tokens)))
    spans = []
    for tokens in (A, A, [*A, 9]):
        branch = cache.branch(cache.position("", [], 0).node, tokens)
        cache.retain(branch)
        needs = [branch]
        assert cache.acquire(needs, "decode")
        cache.fill(branch.node, len(tokens))
        spans.append(cache.seal(branch, needs))
        cache.abandon(needs, "decode")
    assert changes == [("stored", 3), ("stored", 1)], "the second is the first, and the third begins with it"
    leave(cache, *spans)
    assert changes[2:] == [("evicted", 1), ("evicted", 3)]


def test_a_step_that_failed_takes_back_what_was_told() -> None:
    changes: list[tuple[Change, int]] = []
    cache = GraphCache(100, on_change=lambda change, node, tokens: changes.append((change, tokens)))
    a = put(cache, C)
    assert cache.acquire([a], "call")
    cache.fill(a.node, 4)
    cache.unfill(a.node, 1)
    assert changes == [("stored", 4), ("evicted", 4)]
    cache.abandon([a], "call")
    assert changes[2:] == [("stored", 1)], "what was written before the step stays"
    leave(cache, a)


@pytest.mark.parametrize("policy", ["graph", "lru"])
def test_who_is_sparing_drops_nothing_that_is_wanted_soon(policy: str) -> None:
    cache = GraphCache(100, eviction="graph" if policy == "graph" else "lru")
    levels = (Keep.HELD, Keep.SOON, Keep.PINNED, Keep.LATER)
    spans = [message(cache, [3 + i] * 20, level=level) for i, level in enumerate(levels)]
    wanted = put(cache, [9] * 61)
    needs = cache.requirements([wanted])
    assert cache.acquire(needs, "call", sparing=True) is (policy == "lru"), "20 are free, 40 kept for less"
    audit(cache, [*zip(spans, levels, strict=True), wanted], needs if policy == "lru" else ())
    if policy == "graph":
        assert cache.acquire(needs, "call")
    cache.abandon(needs, "call")
    leave(cache, wanted, *zip(spans, levels, strict=True))
