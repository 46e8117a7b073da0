"""Which encodings are the same, and which are not: contexts, placements, paths however they are cut."""

from __future__ import annotations

import gc

import pytest
from support.caches import A, B, C, N, leave, message, put, stored

from pavane.cache import GraphCache, Member, Span, audit
from pavane.cache.nodes import Context
from pavane.cache.slots import Extent


def test_a_message_continues_its_last_parent() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    place = cache.position(N, [Member(a, 0)], 3)
    assert (place.node, place.shift) == (a.node, 0)
    b = message(cache, B, [Member(a, 0)], 3)
    assert b.node.parent is a.node
    place = cache.position(N, [Member(b, 3), Member(a, 0)], 5)
    assert place.node is b.node, "the order of the parents does not matter"
    leave(cache, a, b)


def test_a_whole_chat_moved_continues_too() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 0)], 3)
    place = cache.position(N, [Member(a, 20), Member(b, 23)], 25)
    assert (place.node, place.shift) == (b.node, 20)


@pytest.mark.parametrize(
    ("at", "start"),
    [(0, 4), (1, 3), (0, 2), (5, 3)],
    ids=["a gap before it", "its parent is moved", "it overlaps", "its parent stands behind it"],
)
def test_it_does_not_continue_at_another_placement(at: int, start: int) -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    place = cache.position(N, [Member(a, at)], start)
    assert place.node.context is not a.node.context


def test_it_continues_only_what_saw_all_the_other_parents() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    alone = message(cache, B)  # saw nothing
    after = message(cache, B, [Member(a, 0)], 3)  # saw a
    lone = cache.position(N, [Member(a, 0), Member(alone, 3)], 5).node
    assert lone.context not in (a.node.context, alone.node.context)
    assert cache.position(N, [Member(a, 0), Member(after, 3)], 5).node is after.node
    assert cache.position(N, [Member(after, 3)], 5).node.context is not after.node.context, "a is not visible here"


def test_it_continues_what_begins_one_before_its_parent() -> None:
    """Without a BOS, the offset before the first parent is like any other."""
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 10)], 9)
    c = cache.position(N, [Member(a, 10), Member(b, 9)], 11)
    assert c.node is b.node


def test_it_continues_on_top_of_documents_of_its_own_order() -> None:
    cache = GraphCache(100)
    one, two = message(cache, A), message(cache, C)
    seen = [Member(two, 0), Member(one, 4)]
    question = message(cache, B, seen, 7)
    assert question.node.context not in (one.node.context, two.node.context)
    assert cache.position(N, [Member(question, 7), *seen], 9).node is question.node
    swapped = [Member(one, 0), Member(two, 3)]
    assert cache.position(N, [*swapped, Member(question, 7)], 9).node is not question.node


def test_equal_contexts_share_whatever_the_order_of_the_parents() -> None:
    cache = GraphCache(100)
    a, c = message(cache, A), message(cache, C)
    seen = [Member(a, 10), Member(c, 0)]
    assert put(cache, B, seen, 13) == put(cache, B, seen[::-1], 13)
    assert put(cache, B, [Member(a, 30), Member(c, 20)], 33) == put(cache, B, seen, 13), "only distances matter"


def test_different_placements_do_not_share() -> None:
    cache = GraphCache(100)
    a, c = message(cache, A), message(cache, C)
    seen = [
        ([Member(a, 0), Member(c, 3)], 7),
        ([Member(c, 0), Member(a, 4)], 7),
        ([Member(a, 0), Member(c, 3)], 8),
        ([Member(a, 0), Member(c, 4)], 8),
        ([Member(a, 0)], 7),
        ([Member(a, 0), Member(a, 3), Member(c, 3)], 7),
        ([], 7),
    ]
    assert len({put(cache, B, visible, start).node.key for visible, start in seen}) == len(seen)


def test_namespaces_share_nothing() -> None:
    cache = GraphCache(100, bos_id=1)
    one = cache.position("one", [], 0).node
    two = cache.position("two", [], 0).node
    assert one is not two
    assert cache.extend(one, A).node.key != cache.extend(two, A).node.key


def test_the_identity_is_part_of_every_key() -> None:
    one, two = GraphCache(10, identity=b"x"), GraphCache(10, identity=b"y")
    assert put(one, A).node.key != put(two, A).node.key
    assert put(one, A).node.key == put(GraphCache(99, identity=b"x"), A).node.key


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("bos", [None, 1])
def test_what_saw_nothing_is_not_what_saw_what_lies_before_it(bos: int | None, absolute: bool) -> None:
    """The wrong hit of a cache that looks at tokens and offsets only."""
    cache = GraphCache(100, bos_id=bos, absolute=absolute)
    a = message(cache, A)
    after = message(cache, B, [Member(a, 0)], 3)
    blind = message(cache, B, [], 3)  # at the same offset, and saw nothing
    assert blind.node is not after.node
    assert blind.node.key != after.node.key
    ahead = [Member(a, 0), Member(blind, 3)]
    assert cache.position(N, ahead, 5).node not in (after.node, blind.node)
    assert cache.position(N, [Member(a, 0), Member(after, 3)], 5).node is after.node
    same = cache.position(N, [], 9).node is cache.position(N, [], 0).node
    assert same == (bos is None and not absolute), "a place matters where BOS is before it, or where bits count"


def test_bos_binds_a_context_to_its_offset() -> None:
    cache = GraphCache(100, bos_id=1)
    a = message(cache, A)
    assert a.node.context.start == 0
    assert cache.position(N, [Member(a, 20)], 23).node.context is not a.node.context, "a saw BOS right before it"
    place = cache.position(N, [Member(a, 0)], 3)
    assert place.node is a.node
    bos = a.node.context.members[0]
    assert (bos.at, bos.span.tokens().tolist()) == (-1, [1])
    moved = message(cache, A, [], 7)
    assert moved.node.key != a.node.key
    assert moved.node.context.members[0].span == bos.span, "BOS is encoded once"


def test_absolute_contexts_stay_where_they_are() -> None:
    cache = GraphCache(100, absolute=True)
    a, later = message(cache, A), message(cache, A, [], 5)
    assert a.node.key != later.node.key
    assert cache.position(N, [Member(later, 5)], 8) == (later.node, 0)
    assert cache.position(N, [Member(a, 5)], 8).node is not a.node, "a was encoded at 0"


def test_neighbouring_runs_are_one() -> None:
    """Two messages of one path, next to each other: whoever sees both continues the path below the second."""
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 0)], 3)
    c = message(cache, C, [Member(a, 0), Member(b, 3)], 5)
    apart = [Member(a, 0), Member(b, 3), Member(c, 5)]
    assert cache.position(N, apart, 9).node is c.node
    whole = [Member(Span(c.node, 0), 0)]
    assert cache.position(N, whole, 9).node is c.node
    # The same in a context of another start: split or whole, it is one context.
    assert cache.position(N, apart, 12).node is cache.position(N, whole, 12).node
    assert cache.position(N, [Member(a, 0), Member(Span(c.node, 3), 3)], 12).node is cache.position(N, whole, 12).node
    assert (
        cache.position(N, [Member(a, 0), Member(b, 4), Member(c, 6)], 12).node is not cache.position(N, whole, 12).node
    )


def test_one_encoding_seen_twice_is_not_merged_away() -> None:
    cache = GraphCache(100)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 0)], 3)
    twice = cache.position(N, [Member(a, 0), Member(b, 3), Member(b, 3)], 5).node
    assert twice is not b.node
    assert sum(member.span.length for member in twice.context.members) == 3 + 2 + 2


def test_keys_do_not_depend_on_how_paths_are_split() -> None:
    whole, split = GraphCache(100), GraphCache(100)
    text = [3, 4, 5, 6, 7, 8]
    one = message(whole, text)
    other = message(split, text)
    for cut in (4, 1, 3, 2):
        message(split, [*text[:cut], 90 + cut])
    assert len(other.nodes()) > 3
    assert other.node.key == one.node.key
    assert other.tokens() == one.tokens()
    seen = [Member(one, 2)], [Member(other, 2)]
    assert whole.position(N, seen[0], 40).node.context.key == split.position(N, seen[1], 40).node.context.key


def test_a_split_keeps_kv_readers_and_keys() -> None:
    cache = GraphCache(100)
    a = message(cache, [3, 4, 5, 6])
    key, slots = a.node.key, a.node.slots()
    short = put(cache, [3, 4])
    assert short.node is a.node.parent
    assert (short.node.slots(), a.node.slots()) == ([Extent(slots[0].start, 2)], [Extent(slots[0].start + 2, 2)])
    assert stored(cache, short), "the prefix was encoded by the longer one"
    assert a.node.key == key
    assert a.length == 4
    audit(cache, [a, short])
    leave(cache, a, short)


def test_contexts_that_go_leave_no_cycles() -> None:
    """One sees another, which sees a third; a collector of cycles that comes seldom must not be what frees them."""
    gc.collect()
    gc.disable()
    try:
        cache = GraphCache(100, bos_id=1)
        a = message(cache, A)
        b = message(cache, B, [Member(a, 7)], 10)
        c = message(cache, C, [Member(b, 0)], 2)
        leave(cache, a, b, c)
        there = {id(span.node.context) for span in (a, b, c)}
        assert {id(one) for one in gc.get_objects() if type(one) is Context} & there == there
        del a, b, c
        assert {id(one) for one in gc.get_objects() if type(one) is Context} & there == set()
    finally:
        gc.enable()
