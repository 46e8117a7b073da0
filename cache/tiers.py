"""What a tier below the slots holds, and what has to be moved to it and from it: bookkeeping alone, no bytes.

KV that is evicted goes out under a key that stands for its content, and stays when it comes back, so that it can be
evicted again for nothing. The tier takes whole pages and gives up what is kept for least (`Keep`), of that what was
used longest ago, and never for what is kept for less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pavane.cache.costs import Costs
from pavane.cache.nodes import LEVELS, Copy, Entry, Keep, Node
from pavane.cache.slots import Extent, cut


class Leaving(NamedTuple):
    """KV on its way out: what the slots of `extents` hold is stored under `key`."""

    key: bytes
    extents: list[Extent]


@dataclass(frozen=True, slots=True, eq=False)
class Coming:
    """KV on its way in: tokens [first, first + length) of `entry` go to the slots of `extents`, which are those of the
    path to `node` from depth `lo` on."""

    ticket: int
    entry: Entry
    first: int
    length: int
    extents: list[Extent]
    node: Node
    lo: int


@dataclass(frozen=True, slots=True)
class Transfers:
    """To be done in this order: entries are dropped, KV leaves, KV comes."""

    drops: list[bytes] = field(default_factory=list)
    leaving: list[Leaving] = field(default_factory=list)
    coming: list[Coming] = field(default_factory=list)


class Tier:
    """`pages` of `page_tokens` tokens each. What it does to nodes is to set their `copy` and `coming`; where a node
    loses its copy it is returned, since it may have nothing left to be there for."""

    def __init__(self, pages: int, page_tokens: int, costs: Costs) -> None:
        self.pages = pages
        self.free = pages
        self.costs = costs
        self.entries: dict[bytes, Entry] = {}
        self.flying: dict[int, Coming] = {}  # by ticket
        self.kept_tokens = self.fetched_tokens = self.failed = 0  # since the start
        self.stalls = 0  # how often a step waited for what steps before had sent out
        self.on_lost: Callable[[Node], None] | None = None  # a node whose KV is nowhere else loses its whole copy
        self._by_level: list[OrderedDict[Entry, None]] = [OrderedDict() for _ in LEVELS]  # used longest ago first
        self._page_tokens = page_tokens
        self._tickets = 0
        self._drops: dict[bytes, None] = {}
        self._leaving: dict[bytes, list[Extent]] = {}
        self._coming: list[Coming] = []

    def keep(self, node: Node) -> list[Node]:
        """`node` is about to lose its slots: what is in them goes out, if it is not there already, if moving it there
        and back is worth while, and if there is room."""
        count, copy = node.filled, node.copy
        if copy is not None and copy.length >= count:
            self._use(copy.entry)
            return []
        if not count or not self.costs.worth_moving():
            return []
        self.detach(node)
        key = node.key_at(count) + count.to_bytes(4, "big")
        entry, lost = self.entries.get(key), []
        if entry is None:
            entry = Entry(key, count, -(-count // self._page_tokens))
            victims = self._victims(entry.pages, node.level)
            if victims is None:
                return []
            lost = [node for victim in victims for node in self.forget(victim)]
            self.entries[key] = entry
            self.free -= entry.pages
            self._leaving[key] = cut(node.extents or [], count)[0]
            self.kept_tokens += count
        entry.nodes.add(node)
        node.copy = Copy(entry, 0, count)
        self._use(entry)
        return lost

    def regraded(self, node: Node) -> None:
        """Its level has changed."""
        if node.copy is not None:
            self._grade(node.copy.entry)

    @property
    def capacity(self) -> int:
        """In tokens."""
        return self.pages * self._page_tokens

    @property
    def used(self) -> int:
        """In tokens, of whole pages."""
        return (self.pages - self.free) * self._page_tokens

    def fetch(self, node: Node) -> None:
        """Its copy is moved into the slots that it has now."""
        copy = node.copy
        assert copy is not None
        self._tickets += 1
        extents = cut(node.extents or [], copy.length)[0]
        coming = Coming(self._tickets, copy.entry, copy.first, copy.length, extents, node, node.lo)
        node.coming = True
        self.flying[coming.ticket] = coming
        self._coming.append(coming)

    def pin(self, nodes: list[Node]) -> None:
        """Their copies stay until they have been fetched and have landed."""
        for node in nodes:
            assert node.copy is not None
            node.copy.entry.pins += 1
            self._use(node.copy.entry)

    def land(self, ticket: int) -> Coming:
        """The move has come to an end, one way or the other."""
        coming = self.flying.pop(ticket)
        coming.entry.pins -= 1
        return coming

    def detach(self, node: Node) -> None:
        """`node` does without its copy."""
        if node.copy is not None:
            entry, node.copy = node.copy.entry, None
            entry.nodes.remove(node)
            if entry.nodes:
                self._grade(entry)
            else:
                self.forget(entry)

    def forget(self, entry: Entry) -> list[Node]:
        """Drops the entry."""
        del self.entries[entry.key], self._by_level[entry.level][entry]
        self.free += entry.pages
        if self._leaving.pop(entry.key, None) is None:
            self._drops[entry.key] = None
        nodes = list(entry.nodes)
        entry.nodes.clear()
        for node in nodes:
            if node.covered and self.on_lost is not None:
                self.on_lost(node)
            node.copy = None
        return nodes

    def split(self, upper: Node, lower: Node) -> None:
        """`upper`, new, is the first part of what was `lower` alone: each refers to its part of the entry."""
        upper.coming = lower.coming
        if lower.copy is not None:
            entry, first, count = lower.copy
            upper.copy = Copy(entry, first, min(count, len(upper)))
            entry.nodes.add(upper)
            if count > len(upper):
                lower.copy = Copy(entry, first + len(upper), count - len(upper))
            else:
                lower.copy = None
                entry.nodes.remove(lower)
            self._grade(entry)

    def truncate(self, node: Node) -> None:
        """`node` has been cut off at its end."""
        if node.copy is not None and node.copy.length > len(node):
            if len(node):
                node.copy = node.copy._replace(length=len(node))
            else:
                self.detach(node)

    def take(self) -> Transfers | None:
        """What is to be moved before and during the next step."""
        if not (self._drops or self._leaving or self._coming):
            return None
        taken = Transfers(list(self._drops), [Leaving(*item) for item in self._leaving.items()], self._coming)
        self._drops, self._leaving, self._coming = {}, {}, []
        return taken

    def _use(self, entry: Entry) -> None:
        """It is used now."""
        self._by_level[entry.level].pop(entry, None)
        entry.level = _level(entry)
        self._by_level[entry.level][entry] = None

    def _grade(self, entry: Entry) -> None:
        """What is kept of it, or what for, may be another."""
        if _level(entry) is not entry.level:
            self._use(entry)

    def _victims(self, pages: int, level: Keep) -> list[Entry] | None:
        """Entries to give up for one of `level` so that `pages` are free; None if there are not enough."""
        victims, free = [], self.free
        for entry in (entry for entries in self._by_level[: level + 1] for entry in entries):
            if free >= pages:
                break
            if not entry.pins:
                victims.append(entry)
                free += entry.pages
        return victims if free >= pages else None


def _level(entry: Entry) -> Keep:
    return max(node.level for node in entry.nodes)
