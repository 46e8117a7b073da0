"""Groups as promises: the first k of n members that are done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pavane.scheduler.calls import Call, Group, Workflow
from pavane.scheduler.errors import Reason
from pavane.scheduler.graph import link_parent
from pavane.scheduler.spec import Failure, State

if TYPE_CHECKING:
    from pavane.scheduler.states import States


class Groups:
    """Which groups are to be looked at. A group reads its members until it knows its winners, and these until it is
    released."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._changed: dict[Group, None] = {}

    def accept(self, group: Group) -> None:
        """A new group, whose members may have ended."""
        self._changed[group] = None
        self._check(group)
        for member in group.members:
            self._states.lifetimes.refresh(member)

    def ended(self, member: Call) -> list[Group]:
        """Returns the groups that have failed by that."""
        failed = []
        for group in member.member_of:
            if group.open:
                self._changed[group] = None
                if member.state is not State.DONE:
                    self._check(group)
                    if group.failure is not None:
                        failed.append(group)
        return failed

    def settle(self, now: float) -> bool:
        """Chooses the winners of groups that have enough, by when they ended, then by their place among the members.
        To be called when all that ends now has ended. True if calls may have become ready."""
        settled = False
        while self._changed:
            group = next(iter(self._changed))
            del self._changed[group]
            done = [member for member in group.members if member.state is State.DONE]
            if not group.open or len(done) < group.spec.need:
                continue
            first = set(sorted(done, key=_ended_at)[: group.spec.need])
            group.winners = tuple(member for member in group.members if member in first)
            self._let_go(member for member in group.members if member not in first)
            if group.spec.cancel_rest:
                failure = Failure(Reason.CANCELLED, f"group {group.id!r} has the {group.spec.need} answers it needs")
                rest = [member for member in group.members if member not in first]
                self._states.end_all(rest, State.CANCELLED, failure, now)
            for child in group.children:
                for winner in group.winners:
                    link_parent(child, winner)
                self._states.kept(child)
            group.children.clear()
            for winner in group.winners:
                self._states.lifetimes.refresh(winner)
            settled = True
            if group.released:
                self.release(group)
        return settled

    def release(self, group: Group) -> None:
        """The group can be named no more; if it is open, it goes on for those that wait for it."""
        group.released = True
        if group.open:
            return
        if group.workflow.groups.pop(group.id, None) is not None:
            self._let_go(group.winners)
            for winner in group.winners:
                winner.member_of.remove(group)

    def close(self, workflow: Workflow) -> None:
        """All calls of the workflow have ended."""
        for group in list(workflow.groups.values()):
            if group.open:
                self._fail(group, "its workflow was closed")
            self.release(group)

    def _check(self, group: Group) -> None:
        lost = sum(m.state in (State.FAILED, State.CANCELLED) for m in group.members)
        if len(group.members) - lost < group.spec.need:
            self._fail(group, f"{lost} of its {len(group.members)} members failed or were cancelled")

    def _fail(self, group: Group, why: str) -> None:
        if group.released:
            group.workflow.groups.pop(group.id, None)
        text = f"group {group.id!r} cannot have the {group.spec.need} answers it needs: {why}"
        group.failure = Failure(Reason.PARENT_FAILED, text, (group.id,))
        self._changed.pop(group, None)
        self._let_go(group.members)

    def _let_go(self, members: Iterable[Call]) -> None:
        for member in members:
            member.unfinished_readers -= 1
            if member.released:
                self._states.release(member)
            else:
                self._states.lifetimes.refresh(member)


def _ended_at(member: Call) -> float:
    assert member.ended_at is not None
    return member.ended_at
