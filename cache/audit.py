"""Every invariant of the cache, checked from outside: run by the tests after each random step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pavane.cache.audit_tier import AuditError, check_tier, same
from pavane.cache.eviction import LEVEL_STEP, Idle
from pavane.cache.graph import GraphCache
from pavane.cache.nodes import LEVELS, Context, Keep, Node, Span
from pavane.cache.slots import length_of


def audit(cache: GraphCache, retained: Iterable[Span | tuple[Span, Keep]] = (), held: Iterable[Span] = ()) -> None:
    """Raises AuditError at the first broken invariant.

    `retained` are the spans that messages and waiting calls hold, with the level (HELD if none is given), `held` those
    that running calls have acquired; they must explain every reference and every lock.
    """
    refs: Counter[Node] = Counter()
    holders: Counter[tuple[Node, Keep]] = Counter()
    locks: Counter[Node] = Counter()
    for item in retained:
        span, level = (item, Keep.HELD) if isinstance(item, Span) else item
        for node in span.upwards():
            holders[node, level] += 1
            refs[node] += 1
    for span in held:
        locks.update(span.upwards())
    for coming in cache.tier.flying.values() if cache.tier is not None else ():
        locks.update(Span(coming.node, coming.lo).upwards())
    for context in cache.contexts.values():
        for member in context.members:
            refs.update(member.span.upwards())

    used = cache.pool.free_extents()
    idle_slots = dict.fromkeys(LEVELS, 0)
    slots_held: Counter[str] = Counter()
    seen: set[Node] = set()
    for context in cache.contexts.values():
        for node in _walk(context):
            seen.add(node)
            _check_node(cache, node)
            used.extend(node.extents or ())
            if node.extents is not None:
                slots_held[context.namespace] += length_of(node.extents)
            same("refs", node.refs, refs[node], node)
            explained = [holders[node, level] for level in LEVELS]
            same("holders", node.holders, explained, node)
            same("level", node.level, max((k for k in LEVELS if node.holders[k]), default=Keep.NONE), node)
            same("locks", node.locks, locks[node], node)
            same("idle", node.rank is not None, node.extents is not None and node.locks == 0, node)
            if node.rank is not None:
                idle_slots[node.level] += length_of(node.extents or [])
    for what, counter in (("retained", refs), ("held", locks)):
        lost = [node for node in counter if node not in seen]
        if lost:
            raise AuditError(f"{what} but in no tree: depth {lost[0].lo}..{lost[0].hi}")
    check_tier(cache, seen)
    _check_order(cache._idle, {node for node in seen if node.rank is not None})
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


def _walk(context: Context) -> Iterator[Node]:
    stack: list[tuple[Node, bool]] = [(child, False) for child in context.root.children.values()]
    stack += [(child, True) for child in context.root.branches]
    while stack:
        node, branch = stack.pop()
        parent = node.parent
        if parent is None or node.lo != parent.hi or node.context is not context:
            raise AuditError(f"a node at depth {node.lo} does not hang below its parent")
        if node.indexed == branch:
            raise AuditError(f"a node at depth {node.lo} is in the wrong list of its parent")
        if any(child.tokens[0] != first for first, child in node.children.items()):
            raise AuditError(f"a child below depth {node.hi} is indexed under another token")
        yield node
        stack += [(child, False) for child in node.children.values()]
        stack += [(child, True) for child in node.branches]


def _check_node(cache: GraphCache, node: Node) -> None:
    capacity = length_of(node.extents or [])
    facts = {
        "no tokens": len(node) == 0,
        "KV without slots": node.filled > 0 and node.extents is None,
        "more KV than tokens": node.filled > len(node),
        "more KV than slots": node.filled > capacity,
        "an empty list of extents": node.extents == [],
        "an owner but nothing to compute": node.owner is not None and node.complete,
        "an owner but no lock": node.owner is not None and node.locks == 0,
        "unlocked, found by lookups, partly written": node.indexed
        and node.locks == 0
        and node.extents is not None
        and not node.complete,
        "kept for nobody": not (node.refs or node.locks or node.children or node.branches)
        and node.extents is None
        and node.copy is None,
        "a context that is gone": cache.contexts.get(node.context.key) is not node.context,
    }
    for fact, holds in facts.items():
        if holds:
            raise AuditError(f"node at depth {node.lo}..{node.hi}: {fact}")


def _check_order(idle: Idle, nodes: set[Node]) -> None:
    same("ranks", idle.ranks, sorted(idle.buckets))
    order = list(idle)
    same("empty buckets", [rank for rank, bucket in idle.buckets.items() if not bucket], [])
    same("nodes in the order of eviction", (len(order), set(order)), (len(nodes), nodes))
    for rank, bucket in idle.buckets.items():
        for node in bucket:
            same("rank", node.rank, rank, node)
            same("level of the rank", rank // LEVEL_STEP, node.level if idle.by_level else 0, node)
