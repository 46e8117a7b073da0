"""Edges: how a call looks at one parent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

from pavane.protos.v1 import pavane_pb2 as pb

Fidelity = Literal["reuse", "exact"]
Layout = Literal["packed", "as_encoded"]

FIDELITIES: dict[str, pb.Fidelity.ValueType] = {"reuse": pb.FIDELITY_REUSE, "exact": pb.FIDELITY_EXACT}
LAYOUTS: dict[str, pb.Layout.ValueType] = {"packed": pb.LAYOUT_PACKED, "as_encoded": pb.LAYOUT_AS_ENCODED}


class Parent(ABC):
    """What can stand in a list of parents: a handle, or an edge made from one. Every method returns a new edge."""

    __slots__ = ()

    @abstractmethod
    def edge(self) -> Edge:
        """The edge as it is; a handle gives one whose placement and fidelity follow the call."""

    def exact(self) -> Edge:
        """Its tokens, encoded for this call, seeing what stands to the left in the list of parents."""
        return replace(self.edge(), fidelity="exact")

    def reuse(self) -> Edge:
        """Its stored encoding."""
        return replace(self.edge(), fidelity="reuse")

    def at(self, offset: int) -> Edge:
        """Placed at `offset`, in tokens; 0 is the first position after BOS."""
        if offset < 0:
            raise ValueError(f"an offset counts from the first position after BOS and is not negative: {offset}")
        return replace(self.edge(), placement=offset)

    def as_encoded(self) -> Edge:
        """Left at the positions where it was encoded."""
        return replace(self.edge(), placement="as_encoded")

    def last(self) -> Edge:
        """Released when this call has ended: nobody will name it again."""
        return replace(self.edge(), last_use=True)


@dataclass(frozen=True, slots=True)
class Edge(Parent):
    """A parent with its own placement and fidelity; what is unset follows the call. Chainable: `idea.exact().last()`.

    `placement` is an offset in tokens or "as_encoded". `owner` is the workflow of the handle that it was made from.
    """

    id: str
    placement: int | Literal["as_encoded"] | None = None
    fidelity: Fidelity | None = None
    last_use: bool = False
    owner: object = field(default=None, repr=False, compare=False)

    def edge(self) -> Edge:
        return self

    def to_proto(self) -> pb.ParentRef:
        """The wire's form."""
        parent = pb.ParentRef(id=self.id, last_use=self.last_use)
        if self.fidelity is not None:
            parent.fidelity = FIDELITIES[self.fidelity]
        if self.placement == "as_encoded":
            parent.as_encoded = True
        elif self.placement is not None:
            parent.offset = self.placement
        return parent
