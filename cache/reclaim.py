"""How slots become free again: idle KV is evicted, and nodes that nobody runs on keep only what they can use."""

from __future__ import annotations

from collections.abc import Iterable

from pavane.cache.nodes import LEVELS, Entry, Node
from pavane.cache.slots import Extent, join, length_of
from pavane.cache.storage import Storage
from pavane.cache.tiers import Tier
from pavane.cache.trees import Trees

CUT_KEEPS = 64  # a node is dropped in part only if at least so many tokens stay


class Reclaimer:
    """Owner of the counts of what was evicted. Nodes left without KV, readers and descendants leave the trees."""

    def __init__(self, storage: Storage, trees: Trees, tier: Tier | None) -> None:
        self.evicted_nodes = [0] * len(LEVELS)  # by level, and in part counts too
        self.evicted_tokens = [0] * len(LEVELS)
        self._storage = storage
        self._trees = trees
        self._tier = tier

    def make_room(self, count: int) -> None:
        """Evicts as much as is needed for `count` slots to be free."""
        if count > self._storage.pool.free:
            self.evict(count - self._storage.pool.free)

    def evict(self, count: int) -> int:
        """See `GraphCache.evict`."""
        storage, idle = self._storage, self._storage.idle
        freed: list[Extent] = []
        given: dict[str, int] = {}  # slots, by namespace
        missing = count
        while missing > 0 and idle.slots:
            node, rank, slots = idle.pop()
            length = len(node.tokens)
            if length >= CUT_KEEPS and idle.by_level and node.indexed:
                dropped = max(missing, length // 2)
                if length - dropped >= CUT_KEEPS:
                    idle.put_back(self._trees.split(node, length - dropped), rank)
                    slots = length_of(node.extents or [])
            if self._tier is not None:
                self._prune_all(self._tier.keep(node))
            self.evicted_nodes[node.level] += 1
            self.evicted_tokens[node.level] += node.filled
            namespace = node.context.namespace
            given[namespace] = given.get(namespace, 0) + slots
            freed += self._drop(node)
            missing -= slots
        for namespace, slots in given.items():
            storage.count(namespace, -slots)
        storage.pool.release(join([], sorted(freed)))
        return count - missing

    def settle(self, node: Node) -> None:
        """An unlocked node keeps its KV if it is whole; else what is written becomes a node of its own. A branch stays
        one node, partly written: its call goes on with it."""
        if node.complete or node.extents is None or (node.filled and not node.indexed):
            return
        idle = self._storage.idle
        idle.discard(node)
        if node.filled:
            upper = self._trees.split(node, node.filled)
            if upper.locks == 0:
                idle.add(upper)
        if node.extents is not None:  # all of it may be the upper part's: a sealed decode without slots for its trailer
            self._storage.give_back(node, node.extents)
            node.extents = None

    def let_rest(self, node: Node) -> None:
        """Nobody runs on `node` any more, or nobody keeps it: what cannot be found goes."""
        if node.refs == 0 and node.locks == 0 and not node.indexed and node.attached:
            if self._tier is not None:
                self._tier.detach(node)
            self._empty(node)
        self._trees.prune(node)

    def distrust(self, node: Node) -> None:
        """See `GraphCache.distrust`. A copy from which something is being fetched stays."""
        if node.locks:
            return
        if node.copy is not None and not node.copy.entry.pins:
            self.forget(node.copy.entry)
        self._empty(node)

    def forget(self, entry: Entry) -> None:
        """Drops what a tier holds; no move from it may be under way."""
        assert self._tier is not None
        self._prune_all(self._tier.forget(entry))

    def _empty(self, node: Node) -> None:
        """Takes the KV from an idle node, if it has any."""
        if node.extents is not None:
            self._storage.idle.discard(node)
            self._storage.count(node.context.namespace, -length_of(node.extents))
            self._storage.pool.release(self._drop(node))

    def _drop(self, node: Node) -> list[Extent]:
        """Takes the KV from a node that stands in no order any more; the slots, and counting them, are the caller's."""
        assert node.extents is not None
        extents, node.extents = node.extents, None
        node.filled = 0
        self._storage.dropped(node)
        self._trees.prune(node)
        return extents

    def _prune_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._trees.prune(node)
