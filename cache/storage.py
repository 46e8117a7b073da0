"""Which nodes have which slots, and which of these nobody uses now. Knows no trees and frees nothing by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from pavane.cache.eviction import Idle, Policy
from pavane.cache.nodes import Keep, Node
from pavane.cache.slots import Extent, SlotPool, join, length_of
from pavane.cache.tiers import Tier

# KV of a node was computed into slots, dropped from slots, dropped there while a tier keeps it, fetched from the tier,
# or dropped from a tier while it is in no slots.
Change = Literal["stored", "evicted", "left", "came", "lost"]


class Storage:
    """Owner of the pool, of the order of what is idle, and of the count of slots by namespace; tells of changes.

    A node that has slots is either locked or idle: `lock` and `unlock` see to that.
    """

    def __init__(
        self, slots: int, eviction: Policy, tier: Tier | None, on_change: Callable[[Change, Node, int], None] | None
    ) -> None:
        """The arguments are those of `GraphCache`."""
        self.pool = SlotPool(slots)
        self.idle = Idle(eviction)
        self.slots_held: Counter[str] = Counter()  # by namespace; those of none are free
        self.on_change = on_change
        self._tier = tier
        if tier is not None:
            tier.on_lost = self._lost

    def lock(self, node: Node) -> None:
        if node.locks == 0:
            self.idle.discard(node)
        node.locks += 1

    def unlock(self, node: Node) -> None:
        node.locks -= 1
        if node.locks == 0 and node.extents is not None:
            self.idle.add(node)

    def regrade(self, node: Node, level: Keep) -> None:
        """`node` is kept for something else."""
        self.idle.regrade(node, level)
        if self._tier is not None:
            self._tier.regraded(node)

    def allot(self, node: Node, capacity: int) -> None:
        """Gives `node` slots for `capacity` tokens, after those that it has; they must be free."""
        have = node.extents or []
        before = have or (node.parent.extents if node.parent is not None else None)
        after = before[-1].end if before else None
        extra = self.pool.allocate(capacity - length_of(have), after)
        node.extents = join(have, extra)
        self.count(node.context.namespace, length_of(extra))

    def give_back(self, node: Node, extents: list[Extent]) -> None:
        """Frees `extents`, which were those of `node`."""
        self.pool.release(extents)
        self.count(node.context.namespace, -length_of(extents))

    def count(self, namespace: str, slots: int) -> None:
        """`namespace` holds `slots` more, or less if it is negative."""
        self.slots_held[namespace] += slots
        if not self.slots_held[namespace]:
            del self.slots_held[namespace]

    def split(self, upper: Node, lower: Node) -> None:
        """`upper`, new, is the first part of what was `lower` alone."""
        self.idle.split(upper, lower)
        if self._tier is not None:
            self._tier.split(upper, lower)
        if upper.complete and not lower.complete:  # not before, together
            self.stored(upper)

    # ---- changes

    def stored(self, node: Node) -> None:
        """All of `node` is computed."""
        if self.on_change is not None and node.indexed:
            self.on_change("stored", node, len(node))

    def came(self, node: Node) -> None:
        """KV of `node` has been fetched."""
        if self.on_change is not None and node.complete and node.indexed:
            self.on_change("came", node, len(node))

    def dropped(self, node: Node) -> None:
        """`node` is without its slots now."""
        if self.on_change is not None and node.indexed:
            self.on_change("left" if node.covered else "evicted", node, len(node))

    def undone(self, node: Node, tokens: int) -> None:
        """What was taken for computed is not; there were `tokens` of it that lookups could find."""
        if self.on_change is not None and tokens:
            self.on_change("evicted", node, tokens)

    def _lost(self, node: Node) -> None:
        """A tier that had all of `node` gives it up."""
        if self.on_change is not None and node.indexed:
            self.on_change("lost", node, len(node))
