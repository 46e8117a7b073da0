"""Every invariant of the cache, checked from outside: run by the tests after each random step.

The audit walks all trees and compares with what the callers say they hold, and trusts no counter. It runs hundreds of
thousands of times on small caches, hence loops over attributes where properties would read better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pavane.cache.audit_tier import AuditError, check_tier, same
from pavane.cache.eviction import LEVEL_STEP, Idle
from pavane.cache.graph import GraphCache
from pavane.cache.nodes import LEVELS, Context, Keep, Node, Span
from pavane.cache.slots import Extent, length_of

NO_HOLDERS = [0] * len(LEVELS)
HIGHEST_FIRST = LEVELS[::-1]


def audit(cache: GraphCache, retained: Iterable[Span | tuple[Span, Keep]] = (), held: Iterable[Span] = ()) -> None:
    """Raises AuditError at the first broken invariant.

    `retained` are the spans that messages and waiting calls hold, with the level (HELD if none is given), `held` those
    that running calls have acquired; they must explain every reference and every lock.
    """
    holders = _holders(retained)
    refs = {node: sum(levels) for node, levels in holders.items()}
    for context in cache.contexts.values():
        for member in context.members:
            _count(refs, member.span)
    locks: dict[Node, int] = {}
    for span in held:
        _count(locks, span)
    for coming in cache.tier.flying.values() if cache.tier is not None else ():
        _count(locks, Span(coming.node, coming.lo))

    used: list[Extent] = cache.pool.free_extents()
    idle: set[Node] = set()
    idle_slots = dict.fromkeys(LEVELS, 0)
    slots_held: Counter[str] = Counter()
    seen: set[Node] = set()
    for context in cache.contexts.values():
        same("key of a context", cache.contexts.get(context.key), context)
        for node in _walk(context):
            seen.add(node)
            levels = holders.get(node, NO_HOLDERS)
            explained = (levels, refs.get(node, 0), locks.get(node, 0))
            same("holders, refs, locks", (node.holders, node.refs, node.locks), explained, node)
            if levels is not NO_HOLDERS or node.level:
                same("level", node.level, _highest(levels), node)
            extents, capacity = node.extents, 0
            if extents is not None:
                used += extents
                capacity = length_of(extents)
                slots_held[context.namespace] += capacity
            if node.rank is not None:
                idle.add(node)
                idle_slots[node.level] += capacity
            if (node.rank is not None) is not (extents is not None and node.locks == 0):
                raise AuditError(f"node at depth {node.lo}..{node.hi}: in the order of eviction, or not, wrongly")
            _check_node(node, capacity)
    for what, counter in (("retained", refs), ("held", locks)):
        lost = [node for node in counter if node not in seen]
        if lost:
            raise AuditError(f"{what} but in no tree: depth {lost[0].lo}..{lost[0].hi}")
    check_tier(cache, seen)
    _check_order(cache._idle, idle)
    same("idle slots by level", cache.tokens_by_level(), idle_slots)
    same("idle slots", cache.idle_slots, sum(idle_slots.values()))
    same("slots by namespace", dict(cache.slots_held), dict(slots_held))
    same("free slots", cache.pool.free, length_of(cache.pool.free_extents()))
    end = 0
    for start, length in sorted(used):
        if start != end:
            raise AuditError(f"slots from {end} on: {'held twice' if start < end else 'leaked'} up to {start}")
        end = start + length
    same("slots", cache.pool.size, end)


def _holders(retained: Iterable[Span | tuple[Span, Keep]]) -> dict[Node, list[int]]:
    """By node, how many hold it at each level."""
    holders: dict[Node, list[int]] = {}
    for item in retained:
        span, level = (item, Keep.HELD) if isinstance(item, Span) else item
        for node in span.upwards():
            levels = holders.get(node)
            if levels is None:
                levels = holders[node] = NO_HOLDERS.copy()
            levels[level] += 1
    return holders


def _count(counter: dict[Node, int], span: Span) -> None:
    for node in span.upwards():
        counter[node] = counter.get(node, 0) + 1


def _highest(levels: list[int]) -> Keep:
    for keep in HIGHEST_FIRST:
        if levels[keep]:
            return keep
    return Keep.NONE


def _walk(context: Context) -> Iterator[Node]:
    root = context.root
    stack = [root]
    while stack:
        parent = stack.pop()
        end = parent.lo + len(parent.tokens)
        for first, node in parent.children.items():
            if node.tokens[0] != first:
                raise AuditError(f"a child below depth {end} is indexed under another token")
            if node in parent.branches:
                raise AuditError(f"a node at depth {node.lo} is in both lists of its parent")
            _check_place(node, parent, end)
            stack.append(node)
        for node in parent.branches:
            _check_place(node, parent, end)
            stack.append(node)
        if parent is not root:
            yield parent


def _check_place(node: Node, parent: Node, end: int) -> None:
    if node.parent is not parent or node.lo != end or node.context is not parent.context:
        raise AuditError(f"a node at depth {node.lo} does not hang below its parent")


def _check_node(node: Node, capacity: int) -> None:
    """`capacity`: how many slots it has."""
    size, filled, extents = len(node.tokens), node.filled, node.extents
    if size == 0:
        fact = "no tokens"
    elif filled and extents is None:
        fact = "KV without slots"
    elif filled > size:
        fact = "more KV than tokens"
    elif filled > capacity:
        fact = "more KV than slots"
    elif not filled <= node.known <= size:
        fact = "less was ever computed than has KV, or more than there is"
    elif extents is not None and not extents:
        fact = "an empty list of extents"
    elif node.owner is not None and filled == size:
        fact = "an owner but nothing to compute"
    elif node.owner is not None and not node.locks:
        fact = "an owner but no lock"
    elif extents is not None and not node.locks and filled != size and node.indexed:
        fact = "unlocked, found by lookups, partly written"
    elif extents is None and node.copy is None and not (node.refs or node.locks or node.children or node.branches):
        fact = "kept for nobody"
    else:
        return
    raise AuditError(f"node at depth {node.lo}..{node.hi}: {fact}")


def _check_order(idle: Idle, nodes: set[Node]) -> None:
    same("ranks", idle.ranks, sorted(idle.buckets))
    found: list[Node] = []
    for rank, bucket in idle.buckets.items():
        if not bucket:
            raise AuditError(f"an empty bucket of rank {rank}")
        found += bucket
        level = rank // LEVEL_STEP
        for node in bucket:
            same("rank", node.rank, rank, node)
            same("level of the rank", level, node.level if idle.by_level else 0, node)
    same("nodes in the order of eviction", (len(found), set(found)), (len(nodes), nodes))
