"""Which nodes have which slots, and which of these nobody uses now. Knows no trees and frees nothing by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from pavane.cache.eviction import Idle, Policy
from pavane.cache.nodes import Keep, Node
from pavane.cache.slots import Extent, SlotPool, cut, join, length_of
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

    def allot(self, nodes: Sequence[Node], capacities: Sequence[int]) -> None:
        """Gives each of `nodes`, in the order of their paths, slots for so many tokens, after those that it has; they
        must be free. Nodes without slots get theirs together with the parent they follow, out of one extent if there
        is one: they are read together, and end together."""
        first = 0
        for i in range(1, len(nodes) + 1):
            if i == len(nodes) or nodes[i].extents is not None or nodes[i].parent is not nodes[i - 1]:
                self._allot_path(nodes[first:i], capacities[first:i])
                first = i

    def _allot_path(self, nodes: Sequence[Node], capacities: Sequence[int]) -> None:
        """As `allot`, for nodes of which each but the first has no slots and continues the one before."""
        top = nodes[0]
        have = top.extents or []
        before = have or (top.parent.extents if top.parent is not None else None)
        wanted = sum(capacities) - length_of(have)
        extra = self.pool.allocate(wanted, before[-1].end if before else None)
        for node, capacity in zip(nodes, capacities, strict=True):
            part, extra = cut(extra, capacity - length_of(have))
            node.extents = join(have, part)
            have = []
        self.count(top.context.namespace, wanted)

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
