"""How many tokens of KV a workflow needs at a time, and whether those of several fit the slots together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from pavane.cache import GraphCache, Keep
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.estimates import Estimates

REFINE = 8  # an estimate is made again when one of so many calls has ended since, or come


@dataclass(slots=True)
class _Need:
    tokens: float
    unfinished: int  # calls when it was estimated
    changes: int = 0  # since then


class WorkingSets:
    """What workflows need, estimated when somebody asks, and again when enough of their calls have ended or come."""

    def __init__(self, cache: GraphCache, estimates: Estimates, limit: int) -> None:
        """`limit` stands for a max_tokens that is not given."""
        self._cache = cache
        self._estimates = estimates
        self._limit = limit
        self._needs: dict[Workflow, _Need] = {}

    def excess(self, workflow: Workflow, others: Iterable[Workflow]) -> float:
        """By how much `workflow` and `others` together need more than there is; at most 0 if they fit."""
        together = [workflow, *others]
        tokens = sum(map(self._at_most, together))
        if tokens > self._cache.pool.size:
            tokens = sum(map(self.need, together))
        return tokens - self._cache.pool.size

    def need(self, workflow: Workflow) -> float:
        """The most tokens at a time that are kept for the calls of `workflow`, known ones and those that may come."""
        need = self._needs.get(workflow)
        if need is None or _outdated(need, workflow):
            tokens = most_at_once(workflow.open, self._tokens) + (workflow.resting if workflow.grows else 0)
            need = self._needs[workflow] = _Need(tokens, workflow.unfinished)
        return need.tokens

    def changed(self, workflow: Workflow) -> bool:
        """Calls have come to the workflow or ended. True if what it needs may have changed by that: if not, whoever
        asks again hears the same."""
        need = self._needs.get(workflow)
        if need is None:
            return True
        need.changes += 1
        return _outdated(need, workflow)

    def forget(self, workflow: Workflow) -> None:
        self._needs.pop(workflow, None)

    def _at_most(self, workflow: Workflow) -> float:
        """What has ended since the estimate makes the need smaller."""
        need = self._needs.get(workflow)
        return need.tokens if need is not None and workflow.unfinished <= need.unfinished else self.need(workflow)

    def _tokens(self, call: Call) -> float:
        """That the message has or will have; of a text that several workflows under way hold, its part."""
        decode = call.spec.decode
        if decode is None:
            if call.span is None:
                return len(call.tokens) or len(call.spec.tokens)
            other = call.workflow.begun_at is None
            return sum(len(node) / max(1, other + _sharers(node.holders)) for node in call.span.upwards())
        if call.state.ended:
            return len(call.tokens)
        known = len(call.spec.tokens) + len(decode.trailer) + len(decode.forced)
        answer = 0.0
        if not decode.forced:
            limit = min(decode.max_tokens or self._limit, self._limit)
            answer = self._estimates.length(call.workflow.namespace, limit)
        return max(known + answer, len(call.tokens))


def _outdated(need: _Need, workflow: Workflow) -> bool:
    return REFINE * max(need.changes, workflow.unfinished - need.unfinished) >= need.unfinished


def most_at_once(calls: Iterable[Call], tokens: Callable[[Call], float]) -> float:
    """The most tokens at a time of the messages that `calls`, unfinished and parents first, make and read, if each runs
    as soon as those it reads are there, and a message goes with the last that reads it."""
    begins: dict[Call, int] = {}
    ends: dict[Call, int] = {}
    for call in calls:
        reads = call.parents
        if call.groups:
            reads = reads + [member for group in call.groups if group.open for member in group.members]
        begin = 0
        for parent in reads:
            before = begins.get(parent, -1)
            if before >= begin:
                begin = before + 1
        begins[call] = begin
        for message in (call, *reads):
            if ends.get(message, -1) < begin:
                ends[message] = begin
    changes: defaultdict[int, float] = defaultdict(float)
    for message, end in ends.items():
        size = tokens(message)
        changes[begins.get(message, 0)] += size
        changes[end + 1] -= size
    return max(accumulate(changes[at] for at in sorted(changes)), default=0.0)


def _sharers(holders: list[int]) -> int:
    return holders[Keep.HELD] + holders[Keep.SOON]
