"""The first few of several messages, as a parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pavane.clients.checks import check_id, integer
from pavane.clients.edges import Edge, Parent
from pavane.clients.errors import PavaneError
from pavane.protos.v1 import pavane_pb2 as pb

if TYPE_CHECKING:
    from pavane.clients.workflow import Workflow


class Group(Parent):
    """Made by `Workflow.group`. What reads it sees the winners: the first `need` members that are done, in the order of
    the members; they stand in the reader's receipt. It can be named wherever a parent can, but never copied."""

    __slots__ = ("_error", "group", "workflow")

    def __init__(self, workflow: Workflow, group: pb.Group) -> None:
        self.workflow = workflow
        self.group = group
        self._error: PavaneError | None = None

    def __repr__(self) -> str:
        return f"<Group {self.id}: {self.group.need} of {', '.join(self.group.members)}>"

    @property
    def id(self) -> str:
        """Its id in the workflow."""
        return self.group.id

    def edge(self) -> Edge:
        """Raises PavaneError if the server has refused the group."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        return Edge(self.id, owner=self.workflow)

    def fail(self, error: PavaneError) -> None:
        """Called by the workflow alone: the group was refused, or never sent."""
        self._error = error


def group_message(group_id: str, members: Sequence[Edge], need: int, cancel_rest: bool) -> pb.Group:
    """The wire's form. Raises ValueError or TypeError with what to change."""
    made = pb.Group(id=check_id("a group's id", group_id), cancel_rest=cancel_rest)
    for member in members:
        if member.placement is not None or member.fidelity is not None or member.last_use:
            raise ValueError(f"member {member.id!r} is an edge; how it is read is said where the group is a parent")
        if check_id("a member's id", member.id) in made.members:
            raise ValueError(f"member {member.id!r} is listed twice; each member counts once")
        made.members.append(member.id)
    if not made.members:
        raise ValueError("a group needs at least one member")
    made.need = integer("need", need, len(made.members), least=1)
    return made
