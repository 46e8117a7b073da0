"""A running decode: it grows, is cut, and is sealed into the tree, where what is there already takes its place."""

from __future__ import annotations

from collections.abc import Sequence

from support.caches import B, C, N, compute, leave, message, put

from pavane.cache import GraphCache, Member, Span, audit


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


def running(cache: GraphCache, tokens: Sequence[int]) -> tuple[Span, list[Span]]:
    """A decode in its last step, and what it holds."""
    branch = cache.branch(cache.position(N, [], 0).node, tokens)
    cache.retain(branch)
    needs = cache.requirements([branch])
    assert cache.acquire(needs, "decode")
    cache.fill(branch.node, len(tokens))
    return branch, needs


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


def test_a_header_and_its_answer_lie_side_by_side() -> None:
    """Not the header in a hole of its size, and the answer elsewhere."""
    cache = GraphCache(40)
    hole, wall = message(cache, B), message(cache, C)
    cache.release(hole)
    cache.evict(len(B))
    assert cache.pool.free_extents()[0] == (0, len(B))
    header = put(cache, [12, 13])
    branch = cache.branch(header.node, [14])
    cache.retain(branch)
    needs = cache.requirements([header, branch])
    assert cache.acquire(needs, "decode", spare=5)
    audit(cache, [header, branch, wall], needs)
    assert header.node.extents == [(6, 2)]
    assert branch.node.extents == [(8, 6)]
    cache.abandon(needs, "decode")
    leave(cache, header, branch, wall)


def test_a_path_lies_in_several_holes_if_none_is_large_enough() -> None:
    cache = GraphCache(10)
    hole, wall = message(cache, B), message(cache, C)
    cache.release(hole)
    cache.evict(len(B))
    header = put(cache, [12, 13, 14])
    branch = cache.branch(header.node, [15])
    cache.retain(branch)
    needs = cache.requirements([header, branch])
    assert cache.acquire(needs, "decode", spare=2)
    audit(cache, [header, branch, wall], needs)
    assert header.node.extents == [(6, 3)]
    assert branch.node.extents == [(9, 1), (0, 2)]
    assert cache.pool.free == 0
    cache.abandon(needs, "decode")
    leave(cache, header, branch, wall)


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
    branch, needs = running(cache, [3, 4, 5])
    reader = put(cache, B, [Member(branch, 10)], 14)  # while the decode runs its last step
    sealed = cache.seal(branch, needs)
    cache.abandon(needs, "decode")
    audit(cache, [twin, sealed, reader])
    compute(cache, reader)
    leave(cache, twin, sealed, reader)


def test_a_decode_that_others_continue_already_is_not_folded_away() -> None:
    cache = GraphCache(100)
    twin = message(cache, [3, 4, 5])
    branch, needs = running(cache, [3, 4, 5])
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
