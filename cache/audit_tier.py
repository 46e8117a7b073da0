"""The part of the audit that is about the tier below the slots: every page of it is explained."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pavane.cache.nodes import LEVELS, Entry, Node, Span
from pavane.cache.slots import length_of

if TYPE_CHECKING:
    from pavane.cache.graph import GraphCache


class AuditError(AssertionError):
    """The state of the cache contradicts itself."""


def same(what: str, is_now: object, should_be: object, node: Node | None = None) -> None:
    if is_now != should_be:
        where = f" of the node at depth {node.lo}..{node.hi}" if node is not None else ""
        raise AuditError(f"{what}{where}: {is_now}, should be {should_be}")


def check_tier(cache: GraphCache, nodes: set[Node]) -> None:
    """`nodes` are all of the trees. Raises AuditError."""
    tier = cache.tier
    if tier is None:
        same("nodes with a copy, without a tier", [n for n in nodes if n.copy is not None or n.coming], [])
        return
    users: Counter[Entry] = Counter(node.copy.entry for node in nodes if node.copy is not None)
    same("entries", set(users), set(tier.entries.values()))
    same("free pages", tier.free, tier.pages - sum(entry.pages for entry in users))
    same("pages below none", max(0, -tier.free), 0)
    for key, entry in tier.entries.items():
        same("key of an entry", key, entry.key)
        same("pages of an entry", entry.pages, -(-entry.tokens // tier._page_tokens))
        same("level of an entry", entry.level, max(node.level for node in entry.nodes))
        same("place of an entry", [entry in entries for entries in tier._by_level], [n == entry.level for n in LEVELS])
        same("nodes of an entry", len(entry.nodes), users[entry])
        same("moves from an entry", entry.pins, sum(coming.entry is entry for coming in tier.flying.values()))
        places = sorted(
            (node.copy.first, node.copy.first + node.copy.length) for node in entry.nodes if node.copy is not None
        )
        if any(not 0 <= begin < end <= entry.tokens for begin, end in places):
            raise AuditError(f"parts {places} of an entry of {entry.tokens} tokens")
    same("entries that leave and are gone", set(tier._leaving) - set(tier.entries), set())
    for key, extents in tier._leaving.items():
        same("slots of an entry that leaves", length_of(extents), tier.entries[key].tokens)
    arriving = [node for coming in tier.flying.values() for node in Span(coming.node, coming.lo).upwards()]
    same("nodes whose KV is coming", Counter(node for node in nodes if node.coming), Counter(arriving))
    same("moves not begun", [coming.ticket for coming in tier._coming if coming.ticket not in tier.flying], [])
    for node in nodes:
        if node.copy is None:
            continue
        entry, first, count = node.copy
        if node not in entry.nodes or not 0 < count <= len(node):
            raise AuditError(f"node at depth {node.lo}..{node.hi} has a copy of {count} tokens that does not know it")
        if first + count == entry.tokens:
            same("key of a copy", entry.key[:-4], node.key_at(count), node)
