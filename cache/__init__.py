"""Contexts, radix trees, slots, eviction: who may see what, and where its KV lies."""

from pavane.cache.audit import audit
from pavane.cache.audit_tier import AuditError
from pavane.cache.costs import Costs
from pavane.cache.graph import GraphCache, NeverFitsError
from pavane.cache.nodes import Context, Entry, Keep, Member, Node, Position, Span
from pavane.cache.requirements import inputs_first, inputs_of
from pavane.cache.slots import Extent, cut, length_of
from pavane.cache.storage import Change
from pavane.cache.tiers import Tier, Transfers
from pavane.cache.trees import common

__all__ = [
    "AuditError",
    "Change",
    "Context",
    "Costs",
    "Entry",
    "Extent",
    "GraphCache",
    "Keep",
    "Member",
    "NeverFitsError",
    "Node",
    "Position",
    "Span",
    "Tier",
    "Transfers",
    "audit",
    "common",
    "cut",
    "inputs_first",
    "inputs_of",
    "length_of",
]
