"""The cache's rules one by one: which encodings are the same, what they cost, what goes first, what stays behind."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.caches import A, B, C, N, compute, leave, message, put, stored

from pavane.cache import AuditError, GraphCache, Keep, Member, NeverFitsError, Span, audit
from pavane.cache.slots import Extent

# ---- which encodings are the same


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


# ---- running decodes


def run_decode(
    cache: GraphCache, header: Sequence[int], content: Sequence[int], visible: Sequence[Member] = ()
) -> Span:
    start = max((member.end for member in visible), default=0)
    span = cache.branch(cache.position(N, visible, start).node, header)
    cache.retain(span)
    needs = cache.requirements([*(m.span for m in visible), span])
    assert cache.acquire(needs, "decode", spare=len(content) + 3)
    cache.fill(span.node, len(header))
    for token in content:
        cache.append(span.node, [token], "decode")
        cache.fill(span.node, 1)
    cache.trim(span.node)
    assert sum(extent.length for extent in span.node.extents or ()) == len(span.node)
    span = cache.seal(span, needs)
    cache.abandon(needs, "decode")
    return span


def test_a_running_decode_is_found_once_it_is_sealed() -> None:
    cache = GraphCache(100)
    root = cache.position(N, [], 0).node
    branch = cache.branch(root, [3])
    cache.retain(branch)
    lookup = put(cache, [3, 4])
    assert branch.node not in lookup.nodes()
    cache.release(lookup)
    cache.append(branch.node, [4], "decode")
    compute(cache, branch)
    sealed = cache.seal(branch, [])
    assert put(cache, [3, 4]) == sealed
    leave(cache, sealed, sealed)


def test_equal_decodes_become_one_and_give_their_slots_back() -> None:
    cache = GraphCache(100)
    one = run_decode(cache, [3], [4, 5])
    other = run_decode(cache, [3], [4, 5])
    assert other == one
    assert cache.pool.free == 97
    longer = run_decode(cache, [3], [4, 5, 6, 7])
    assert longer.node.parent is one.node
    assert cache.pool.free == 95
    fork = run_decode(cache, [3], [4, 9])
    assert cache.pool.free == 94
    assert fork.nodes()[0] is longer.nodes()[0]
    audit(cache, [one, other, longer, fork])
    assert [span.tokens().tolist() for span in (one, longer, fork)] == [[3, 4, 5], [3, 4, 5, 6, 7], [3, 4, 9]]
    shorter = run_decode(cache, [3], [4])
    assert cache.pool.free == 94
    leave(cache, one, other, longer, fork, shorter)


def test_a_decode_does_not_fold_onto_what_is_not_computed() -> None:
    cache = GraphCache(100)
    known = put(cache, [3, 4, 5])
    own = run_decode(cache, [3], [4, 5])
    assert own.node is not known.node
    assert own.node in cache.position(N, [], 0).node.branches
    leave(cache, known, own)


def test_a_decode_that_others_read_already_is_not_folded_away() -> None:
    """The encoding of a message is final once a context names it."""
    cache = GraphCache(100)
    twin = message(cache, [3, 4, 5])
    branch = cache.branch(cache.position(N, [], 0).node, [3, 4, 5])
    cache.retain(branch)
    needs = cache.requirements([branch])
    assert cache.acquire(needs, "decode")
    cache.fill(branch.node, 3)
    reader = put(cache, B, [Member(branch, 10)], 14)  # while the decode runs its last step
    sealed = cache.seal(branch, needs)
    cache.abandon(needs, "decode")
    audit(cache, [twin, sealed, reader])
    compute(cache, reader)
    leave(cache, twin, sealed, reader)


def test_a_decode_that_others_continue_already_is_not_folded_away() -> None:
    cache = GraphCache(100)
    twin = message(cache, [3, 4, 5])
    branch = cache.branch(cache.position(N, [], 0).node, [3, 4, 5])
    cache.retain(branch)
    needs = cache.requirements([branch])
    assert cache.acquire(needs, "decode")
    cache.fill(branch.node, 3)
    more = [put(cache, tokens, [Member(branch, 0)], 3) for tokens in (B, C)]
    sealed = cache.seal(branch, needs)
    cache.abandon(needs, "decode")
    audit(cache, [twin, sealed, *more])
    compute(cache, *more)
    leave(cache, twin, sealed, *more)


def test_truncate_and_grow() -> None:
    cache = GraphCache(10)
    branch = cache.branch(cache.position(N, [], 0).node, [3, 4])
    cache.retain(branch)
    needs = [branch]
    assert cache.acquire(needs, "decode")
    cache.fill(branch.node, 2)
    assert cache.grow(branch.node, 6)
    cache.append(branch.node, [5, 6, 7], "decode")
    cache.fill(branch.node, 3)
    cache.truncate(branch.node, 3)
    assert (len(branch.node), branch.node.filled) == (3, 3)
    assert not cache.grow(branch.node, 11)
    assert cache.grow(branch.node, 10)
    cache.trim(branch.node)
    assert cache.pool.free == 7
    cache.abandon(needs, "decode")
    leave(cache, branch)


# ---- what running calls hold


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


# ---- eviction


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


# ---- the audit finds what it is there for


def corrupt_refs(cache: GraphCache, span: Span) -> None:
    span.node.refs += 1


def corrupt_holders(cache: GraphCache, span: Span) -> None:
    span.node.holders[Keep.HELD] -= 1


def one_holder_more(cache: GraphCache, span: Span) -> None:
    span.node.holders[Keep.HELD] += 1


def corrupt_level(cache: GraphCache, span: Span) -> None:
    span.node.level = Keep.IDLE


def wrong_level_of_slots(cache: GraphCache, span: Span) -> None:
    cache._idle.slots_by_level[Keep.HELD] -= 1
    cache._idle.slots_by_level[Keep.IDLE] += 1


def wrong_rank(cache: GraphCache, span: Span) -> None:
    assert span.node.rank is not None
    span.node.rank += 1


def wrong_place_in_the_order(cache: GraphCache, span: Span) -> None:
    cache._idle._leave(span.node, span.node.rank or 0)
    cache._idle._enter(span.node, 0)  # as if nobody held it


def twice_in_the_order(cache: GraphCache, span: Span) -> None:
    cache._idle._enter(span.node, 7)


def empty_bucket(cache: GraphCache, span: Span) -> None:
    next(iter(cache._idle.buckets.values())).clear()


def unknown_bucket(cache: GraphCache, span: Span) -> None:
    cache._idle.ranks.append(1 << 60)


def corrupt_locks(cache: GraphCache, span: Span) -> None:
    span.node.locks += 1


def leak_slots(cache: GraphCache, span: Span) -> None:
    cache.pool.allocate(2)


def share_slots(cache: GraphCache, span: Span) -> None:
    cache.pool.release([Extent(span.node.slots()[0].start, 1)])


def miscount_free(cache: GraphCache, span: Span) -> None:
    cache.pool.free -= 1


def miscount_idle(cache: GraphCache, span: Span) -> None:
    cache._idle.slots += 1


def forget_idle(cache: GraphCache, span: Span) -> None:
    cache._idle.discard(span.node)


def overfill(cache: GraphCache, span: Span) -> None:
    span.node.filled += 1


def half_written(cache: GraphCache, span: Span) -> None:
    span.node.filled -= 1


def orphan_owner(cache: GraphCache, span: Span) -> None:
    span.node.owner = "nobody"


def lose_context(cache: GraphCache, span: Span) -> None:
    cache.contexts[b"wrong"] = cache.contexts.pop(span.node.context.key)


def cut_off(cache: GraphCache, span: Span) -> None:
    assert span.node.parent is not None
    span.node.parent.children.clear()


def wrong_index(cache: GraphCache, span: Span) -> None:
    assert span.node.parent is not None
    children = span.node.parent.children
    children[77] = children.pop(span.node.tokens[0])


def wrong_depth(cache: GraphCache, span: Span) -> None:
    span.node.lo += 1


def empty_extents(cache: GraphCache, span: Span) -> None:
    cache.pool.release(span.node.extents or [])
    cache._idle.discard(span.node)
    span.node.extents, span.node.filled = [], 0


CORRUPTIONS = [
    corrupt_refs, corrupt_holders, one_holder_more, corrupt_level, wrong_level_of_slots, wrong_rank,
    wrong_place_in_the_order, twice_in_the_order, empty_bucket, unknown_bucket, corrupt_locks, leak_slots,
    share_slots, miscount_free,
    miscount_idle, forget_idle, overfill, half_written, orphan_owner, lose_context, cut_off, wrong_index, wrong_depth,
    empty_extents,
]  # fmt: skip


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
def test_the_audit_finds(corrupt: object) -> None:
    cache = GraphCache(50)
    a = message(cache, A)
    b = message(cache, B, [Member(a, 9)], 12)
    audit(cache, [a, b])
    assert callable(corrupt)
    corrupt(cache, b)
    with pytest.raises(AuditError):
        audit(cache, [a, b])


def test_the_audit_finds_what_it_is_not_told_of() -> None:
    cache = GraphCache(50)
    a = message(cache, A)
    needs = cache.requirements([a])
    assert cache.acquire(needs, "call")
    with pytest.raises(AuditError, match="locks"):
        audit(cache, [a])
    with pytest.raises(AuditError, match="refs"):
        audit(cache, [a, a], needs)
    audit(cache, [a], needs)
