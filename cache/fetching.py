"""How KV comes back from a tier below the slots: into slots that are given to its node first, and locked meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from pavane.cache.nodes import Keep, Node, Span
from pavane.cache.reclaim import Reclaimer
from pavane.cache.storage import Storage
from pavane.cache.tiers import Coming, Tier


class Fetcher:
    """Owns nothing: what is on its way is the tier's. While all of a node is coming, the tier is its owner."""

    def __init__(self, storage: Storage, reclaimer: Reclaimer, tier: Tier) -> None:
        self._storage = storage
        self._reclaimer = reclaimer
        self._tier = tier

    def promote(self, spans: Iterable[Span]) -> None:
        """See `GraphCache.promote`."""
        pool, idle = self._storage.pool, self._storage.idle
        for span in spans:
            for node in span.nodes():
                room = pool.free + (idle.slots_by_level[Keep.NONE] if idle.by_level else 0)
                if not node.covered or node.locks or len(node) > room:
                    continue
                self._tier.pin([node])
                self._reclaimer.make_room(len(node))
                self._storage.allot([node], [len(node)])
                self.fetch([node])

    def pin(self, nodes: Iterable[Node]) -> list[Node]:
        """Those of `nodes` that begin with a copy; these stay until they have been fetched and have landed."""
        copied = [node for node in nodes if node.copy is not None and not node.filled and not node.coming]
        self._tier.pin(copied)
        return copied

    def fetch(self, nodes: Iterable[Node]) -> None:
        """The copies of `nodes`, which have slots now, are moved there."""
        for node in nodes:
            if node.covered:
                node.owner = self._tier
            self._storage.lock(node)
            self._tier.fetch(node)

    def landed(self, arrived: Iterable[int], failed: Iterable[int], lost: Iterable[bytes]) -> None:
        """See `GraphCache.landed`."""
        tier = self._tier
        for key in lost:
            if key in tier.entries:
                self._reclaimer.forget(tier.entries[key])
        for tickets, good in ((arrived, True), (failed, False)):
            for ticket in tickets:
                coming = tier.land(ticket)
                if good:
                    tier.fetched_tokens += coming.length
                else:
                    tier.failed += 1
                    if coming.entry.nodes:
                        self._reclaimer.forget(coming.entry)
                for node in list(Span(coming.node, coming.lo).upwards()):
                    self._land(node, coming, good)

    def _land(self, node: Node, coming: Coming, good: bool) -> None:
        """A node whose KV was coming has it, or has not."""
        node.coming = False
        if good:
            node.filled = min(len(node), coming.lo + coming.length - node.lo)
            node.known = max(node.known, node.filled)
        if node.owner is self._tier:
            node.owner = None
        self._storage.came(node)
        self._storage.unlock(node)
        if node.locks == 0:
            self._reclaimer.settle(node)
            self._reclaimer.let_rest(node)
