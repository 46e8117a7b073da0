"""A graph of calls: what `pavane run` reads from a file and submits at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, Unpack

from pavane.clients import DecodeOptions, Edge, Parent, PrefillOptions

Handle = TypeVar("Handle", covariant=True)


class Caller(Protocol[Handle]):
    """What takes calls and gives handles for them."""

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> Handle: ...

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> Handle: ...

    def group(self, *members: str | Parent, need: int, cancel_rest: bool = False, id: str | None = None) -> object: ...


@dataclass(frozen=True)
class Node:
    """One call: its id, its parents and the client's options for it."""

    id: str
    parents: tuple[Edge, ...]
    prefill: PrefillOptions | None
    decode: DecodeOptions | None


@dataclass(frozen=True)
class Choice:
    """A group: its id, its members' ids, how many of them are needed."""

    id: str
    members: tuple[str, ...]
    need: int
    cancel_rest: bool


@dataclass(frozen=True)
class Graph:
    """Calls, parents before their children, and groups of them."""

    description: str
    nodes: tuple[Node, ...]
    groups: tuple[Choice, ...] = ()

    def submit(self, to: Caller[Handle]) -> list[Handle]:
        """All calls at once, to a workflow or a draft. Handles in the graph's order."""
        handles = []
        for node in self.nodes:
            if node.prefill is not None:
                handles.append(to.prefill(*node.parents, **node.prefill))
            elif node.decode is not None:
                handles.append(to.decode(*node.parents, **node.decode))
        for group in self.groups:
            to.group(*group.members, need=group.need, cancel_rest=group.cancel_rest, id=group.id)
        return handles
