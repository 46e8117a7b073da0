"""The order in which the KV of idle nodes is dropped.

A node's level (`Keep`) decides first. Within a level the order is GreedyDual-Size (Cao and Irani, "Cost-Aware WWW Proxy
Caching Algorithms", 1997): a node that becomes idle gets the value clock + cost per slot, the lowest value goes first,
and the clock rises to the values of what has gone. So what was used lately stays, and longer if it is dear to encode.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal, get_args

from pavane.cache.nodes import LEVELS, Keep, Node
from pavane.cache.slots import length_of

Policy = Literal["graph", "lru"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

# What encoding a token costs: TOKEN_COST, and 1 for every SEEN_PER_COST tokens that it sees, which makes 1 / 4,096 of
# a token per token seen. Counted in operations that is 4 * layers * width over 2 * parameters: 1 / 3,000 for
# SmolLM2-135M (1 / 1,400 to 1 / 2,500 as measured on a CPU), 1 / 30,000 for a Llama of 8 billion parameters.
TOKEN_COST = 64
SEEN_PER_COST = 64

LEVEL_STEP = 1 << 48  # ranks are level * LEVEL_STEP + value; of "lru" all are 0


class Idle:
    """Nodes with KV that no running call uses. `lru` orders them by when they became idle and by nothing else.

    Nodes of equal rank stand in one bucket, oldest first. Ranks are whole numbers of a narrow range above the clock, so
    there are few buckets; entering and leaving is a bisection among them.
    """

    def __init__(self, policy: Policy) -> None:
        if policy not in POLICIES:
            raise ValueError(f"eviction: {policy!r} is not known; choose one of {', '.join(POLICIES)}")
        self.slots = 0
        self.slots_by_level = [0] * len(LEVELS)
        self.ranks: list[int] = []  # ascending
        self.buckets: dict[int, OrderedDict[Node, None]] = {}
        self.by_level = policy == "graph"
        self._clock = 0

    def __iter__(self) -> Iterator[Node]:
        """In the order in which they go."""
        return (node for rank in self.ranks for node in self.buckets[rank])

    def add(self, node: Node) -> None:
        self._count(node, 1)
        seen = node.context.visible + node.lo + len(node) // 2
        self._enter(node, self._rank(node.level, self._clock + TOKEN_COST + seen // SEEN_PER_COST))

    def discard(self, node: Node) -> None:
        if node.rank is not None:
            self._count(node, -1)
            self._leave(node, node.rank)

    def regrade(self, node: Node, level: Keep) -> None:
        """Moves a node to another level; its value stays, since nobody has used it."""
        rank = node.rank
        if rank is None:
            node.level = level
            return
        self._count(node, -1)
        node.level = level
        self._count(node, 1)
        if self.by_level:
            self._leave(node, rank)
            self._enter(node, self._rank(level, rank % LEVEL_STEP))

    def split(self, upper: Node, lower: Node) -> None:
        """`upper`, new, is the first part of what was `lower` alone."""
        if lower.rank is not None:
            assert upper.extents is not None, "an idle node was only partly stored"
            assert lower.extents is not None, "an idle node was only partly stored"
            self._enter(upper, lower.rank)

    def pop(self) -> tuple[Node, int, int]:
        """Takes out the one that goes next; returns it, where it stood, and its slots. IndexError if there is none."""
        rank = self.ranks[0]
        bucket = self.buckets[rank]
        node, _ = bucket.popitem(last=False)
        if not bucket:
            del self.buckets[rank], self.ranks[0]
        node.rank = None
        if rank % LEVEL_STEP > self._clock:
            self._clock = rank % LEVEL_STEP
        assert node.extents is not None
        slots = length_of(node.extents)
        self.slots -= slots
        self.slots_by_level[node.level] -= slots
        return node, rank, slots

    def put_back(self, node: Node, rank: int) -> None:
        """What is left of the one that stood there goes next."""
        self._count(node, 1)
        self._enter(node, rank)
        self.buckets[rank].move_to_end(node, last=False)

    def _count(self, node: Node, sign: int) -> None:
        slots = sign * length_of(node.extents or [])
        self.slots += slots
        self.slots_by_level[node.level] += slots

    def _rank(self, level: Keep, value: int) -> int:
        return level * LEVEL_STEP + value if self.by_level else 0

    def _enter(self, node: Node, rank: int) -> None:
        bucket = self.buckets.get(rank)
        if bucket is None:
            bucket = self.buckets[rank] = OrderedDict()
            insort(self.ranks, rank)
        bucket[node] = None
        node.rank = rank

    def _leave(self, node: Node, rank: int) -> None:
        bucket = self.buckets[rank]
        del bucket[node]
        node.rank = None
        if not bucket:
            del self.buckets[rank]
            del self.ranks[bisect_left(self.ranks, rank)]
