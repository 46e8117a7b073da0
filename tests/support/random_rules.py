"""What must hold of a scheduler whatever has happened to it, and of every call that has ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from pavane.cache import Keep
from pavane.scheduler.calls import Call, Group
from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import CallSpec, Finish, GroupSpec, Outcome, ParentSpec, State
from support.fingerprint import FingerprintOracle
from support.harness import Harness

UNFINISHED = (State.BLOCKED, State.QUEUED, State.RUNNING)
# Why a call may fail in these runs.
REASONS = {
    Reason.CANCELLED,
    Reason.WORKFLOW_CLOSED,
    Reason.PARENT_FAILED,
    Reason.PARENT_CANCELLED,
    Reason.DEADLINE_EXCEEDED,
    Reason.RUNNER_FAILED,
    Reason.BUDGET_EXHAUSTED,
    Reason.CONTEXT_TOO_LONG,
    Reason.NEVER_FITS,
}


class Rules:
    """`calls` and `groups` are all that were submitted, by id."""

    def __init__(self, harness: Harness, bos_id: int | None) -> None:
        self.h = harness
        self.s = harness.scheduler
        self.calls: dict[str, CallSpec] = {}
        self.groups: dict[str, GroupSpec] = {}
        self.oracle = FingerprintOracle(self.calls, bos_id)
        self._accepted: dict[str, Group] = {}
        self._watched: dict[str, Group] = {}  # some members have not ended
        self._settled: set[str] = set()
        accept = self.s._states.groups.accept

        def remember(group: Group) -> None:
            self._accepted[group.id] = self._watched[group.id] = group
            accept(group)

        self.s._states.groups.accept = remember  # type: ignore[method-assign]

    # ---- at any time

    def check(self) -> None:
        self.settle()
        self._check_groups()
        self.h.audit()
        scheduler, total = self.s, 0
        states: Counter[State] = Counter()
        running: set[Call] = set()
        for workflow in scheduler.graph.workflows.values():
            unfinished = [call for call in workflow.calls.values() if not call.state.ended]
            assert list(workflow.open) == unfinished
            assert workflow.unfinished == len(unfinished)
            assert workflow.resting == sum(len(call.tokens) for call in workflow.calls.values() if rests(call))
            total += len(unfinished)
            for call in workflow.calls.values():
                if call.span is not None and call.state is not State.BLOCKED:
                    assert call.keep is _level(call), f"{call.id} is kept for {call.keep}"
            for call in unfinished:
                states[call.state] += 1
                if call.state is State.RUNNING:
                    running.add(call)
        for state in UNFINISHED:
            assert scheduler.counts[state] == states[state], f"{state}: {scheduler.counts}, really {states}"
        assert scheduler.counts.total() == len(self.calls)
        assert scheduler.graph.unfinished == total
        assert scheduler.running.keys() == running

    def settle(self) -> None:
        """What only the run decides: which members of a group came first, and where a sealed answer ends."""
        self.h.collect()
        if len(self.h.ended) == len(self._settled):
            return
        for name in self.h.ended.keys() - self._settled:
            self._settled.add(name)
            spec, outcome = self.calls[name], self.h.ended[name]
            if outcome.state is not State.DONE:
                continue
            edges: list[ParentSpec] = []
            for edge in spec.parents:
                group = self.groups.get(edge.id)
                if group is None:
                    edges.append(edge)
                    continue
                others = {p.id for p in spec.parents} | {e.id for e in edges}
                winners = [call.id for call in self._accepted[group.id].winners if call.id not in others]
                edges += [replace(edge, id=w, offset=edge.offset if w is winners[0] else None) for w in winners]
            decode = spec.decode
            if outcome.finish is Finish.SEALED:
                assert decode is not None
                count = outcome.receipt.generated
                forced = decode.forced[:count]
                decode = replace(decode, forced=forced, max_tokens=None if forced else count)
            self.calls[name] = replace(spec, parents=tuple(edges), decode=decode)

    def _check_groups(self) -> None:
        """Until all members have ended: after that nothing can change."""
        for name, group in list(self._watched.items()):
            if all(member.state.ended for member in group.members) and not group.open:
                del self._watched[name]
            if group.open or group.failure is not None:
                continue
            spec, winners = self.groups[name], [call.id for call in group.winners]
            assert len(winners) == spec.need
            assert [i for i in spec.members if i in winners] == winners
            assert all(member.state is State.DONE for member in group.winners)
            ended = max(member.ended_at or 0.0 for member in group.winners)
            late = [m for m in group.members if m.state is State.DONE and m not in group.winners]
            assert all((m.ended_at or 0.0) >= ended for m in late), "a later one was chosen before an earlier one"

    # ---- at the end

    def check_all_ended(self) -> None:
        assert set(self.h.ended) == set(self.calls)
        for message_id, outcome in self.h.ended.items():
            self._check_outcome(self.calls[message_id], outcome)

    def _check_outcome(self, spec: CallSpec, outcome: Outcome) -> None:
        receipt = outcome.receipt
        parts = (receipt.in_place, receipt.repositioned, receipt.encoded)
        assert min(*parts, receipt.reencoded) >= 0
        if outcome.state is not State.DONE:
            assert outcome.failure is not None
            assert outcome.failure.reason in REASONS
            return
        told = self.oracle[spec.id]
        assert list(outcome.tokens) == told.tokens
        assert outcome.start == told.start
        own = len(self.oracle[spec.copy_of].tokens) if spec.copy_of is not None else len(spec.tokens)
        visible = own + sum(len(self.oracle[p.id].tokens) for p in spec.parents)
        assert sum(parts) == (0 if spec.lazy else visible)
        if spec.decode is not None:
            assert receipt.generated == len(told.tokens) - own - len(spec.decode.trailer)
            assert receipt.trailer == len(spec.decode.trailer)


def rests(call: Call) -> bool:
    """It is done, and nobody is known who will read it."""
    read = call.children or call.expected_readers or any(group.open for group in call.member_of)
    return call.state is State.DONE and not read


def _level(call: Call) -> Keep:
    """What a message is kept for, as the states of its readers have it."""
    if call.spec.retention.pin and not call.released:
        return Keep.PINNED
    if not call.state.ended or call.children or any(group.open for group in call.member_of):
        return Keep.LATER if call.workflow.begun_at is None else Keep.SOON
    if call.expected_readers:
        return Keep.LATER
    return Keep.IDLE if call.workflow.idle else Keep.HELD
