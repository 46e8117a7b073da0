"""Groups in a preview. Nobody knows which members will be first, so the first ones in their order are assumed to be:
those that are done already, then as many of the others as the group needs, without any that fail."""

from __future__ import annotations

from collections.abc import Iterable

from pavane.scheduler.calls import Call, Group
from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import Failure, State

LOST = (State.FAILED, State.CANCELLED)


class Rivals:
    """The groups that take part in a preview, open or not."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = list(groups)
        self._first = {
            group: [member for member in group.members if member.state is State.DONE] for group in self._groups
        }

    def failed(self) -> list[tuple[Call, Failure]]:
        """Calls that wait for a group which cannot have its answers, and why; each once."""
        found: list[tuple[Call, Failure]] = []
        for group in self._groups:
            lost = sum(member.state in LOST for member in group.members)
            if group.open and len(group.members) - lost < group.spec.need:
                text = (
                    f"group {group.id!r} cannot have the {group.spec.need} answers it needs: {lost} of its "
                    f"{len(group.members)} members failed or were cancelled"
                )
                group.failure = Failure(Reason.PARENT_FAILED, text, (group.id,))
                found += [(child, group.failure) for child in group.children]
                group.children = {}
        return found

    def settle(self) -> tuple[Group, list[Call]] | None:
        """A group whose assumed winners have ended by now, and the children that may be ready by that; their parents
        are the winners. None if there is none."""
        for group in self._groups:
            if not group.open:
                continue
            done = self._first[group]
            likely = [*done, *(m for m in group.members if m not in done and m.state not in LOST)][: group.spec.need]
            if not all(member.state is State.DONE for member in likely):
                continue
            group.winners = tuple(member for member in group.members if member in likely)
            children = list(group.children)
            for child in children:
                child.parents += [winner for winner in group.winners if winner not in child.parents]
                child.pending -= 1
            group.children = {}
            return group, children
        return None
