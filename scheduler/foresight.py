"""How many steps pass at least until calls have ended, as far as lengths are known: those of what they wait for, one
after the other, and a step for each token of their own answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pavane.scheduler.calls import Call, Group, Workflow
from pavane.scheduler.estimates import Estimates
from pavane.scheduler.spec import CallSpec


class Foresight:
    """Of one workflow, as it is now; answers have the length that was seen of their kind, or none."""

    def __init__(self, workflow: Workflow, estimates: Estimates, limit: int) -> None:
        """`limit` stands for a max_tokens that is not given."""
        self._workflow = workflow
        self._estimates = estimates
        self._limit = limit
        self._steps: dict[Call, float] = {}  # until unfinished calls have ended

    def steps(self, specs: Sequence[CallSpec]) -> dict[str, float]:
        """Of new calls, parents first, by id. What a group needs counts only if the group is known already."""
        found: dict[str, float] = {}
        for spec in specs:
            before = 0.0
            for name in (*(parent.id for parent in spec.parents), *([spec.copy_of] if spec.copy_of else [])):
                group, call = self._workflow.groups.get(name), self._workflow.calls.get(name)
                if name in found:
                    before = max(before, found[name])
                elif group is not None:
                    before = max(before, self._until(group.members if group.open else (), group))
                elif call is not None:
                    before = max(before, self._until((call,)))
            found[spec.id] = before + self._own(spec)
        return found

    def _until(self, calls: Sequence[Call], group: Group | None = None) -> float:
        """Until all of them have ended, or those that `group` needs."""
        path = [call for call in calls if call not in self._steps]
        while path:
            call = path[-1]
            missing = [] if call.promised else [read for read in _reads(call) if read not in self._steps]
            if missing:
                path += missing
                continue
            path.pop()
            self._steps[call] = 0.0 if call.promised or call.state.ended else self._left(call)
        steps = sorted(self._steps[call] for call in calls)
        if not steps:
            return 0.0
        return steps[-1 if group is None else group.spec.need - 1]

    def _left(self, call: Call) -> float:
        before = self._until(call.parents)
        for group in call.groups:
            if group.open:
                before = max(before, self._until(group.members, group))
        return before + max(0.0, self._own(call.spec) - call.generated)

    def _own(self, spec: CallSpec) -> float:
        decode = spec.decode
        if decode is None:
            return 0.0
        limit = min(decode.max_tokens or self._limit, self._limit)
        return len(decode.forced) or self._estimates.known_length(self._workflow.namespace, limit)


def _reads(call: Call) -> Iterable[Call]:
    """What has to end before `call` can, and perhaps more: all members of open groups."""
    yield from call.parents
    for group in call.groups:
        if group.open:
            yield from group.members
