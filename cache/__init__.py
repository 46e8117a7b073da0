"""Contexts, radix trees, slots, eviction: who may see what, and where its KV lies."""

from pavane.cache.audit import AuditError, audit
from pavane.cache.graph import GraphCache, NeverFitsError
from pavane.cache.nodes import Context, Keep, Member, Node, Position, Span
from pavane.cache.slots import Extent, cut, length_of

__all__ = [
    "AuditError",
    "Context",
    "Extent",
    "GraphCache",
    "Keep",
    "Member",
    "NeverFitsError",
    "Node",
    "Position",
    "Span",
    "audit",
    "cut",
    "length_of",
]
