"""The audit finds what it is there for: each invariant is broken once."""

from __future__ import annotations

import pytest
from support.caches import A, B, message

from pavane.cache import AuditError, GraphCache, Keep, Member, Span, audit
from pavane.cache.slots import Extent


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
