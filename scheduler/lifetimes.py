"""What the encoding of each message is kept for: the graph tells who will read it, and when."""

from __future__ import annotations

from pavane.cache import GraphCache, Keep
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.spec import State

IDLE_AFTER_S = 2.0  # without a call to run or a request, a workflow waits for a person or a tool


class Lifetimes:
    """Keeps `call.keep`, the level at which a call's encoding is retained, what the state of the graph says it is, and
    counts what rests."""

    def __init__(self, cache: GraphCache) -> None:
        self._cache = cache

    def accepted(self, call: Call) -> None:
        """A new call: those it reads have a reader more, of whom a score was none that was declared."""
        call.keep = self._level(call)
        workflow = call.workflow
        workflow.grows |= call.expected_readers > 0
        for parent in call.parents:
            if call.scoring is None:
                workflow.grows |= parent.state.ended
                parent.expected_readers = max(0, parent.expected_readers - 1)
            self.refresh(parent)
        for group in call.groups:
            for winner in group.winners:
                self.refresh(winner)

    def refresh(self, call: Call) -> None:
        """To be called when the call has ended or has other readers; before it has an encoding, too."""
        level = self._level(call)
        if level is not call.keep:
            if call.span is not None:
                self._cache.regrade(call.span, call.keep, level)
            call.keep = level
        rests = call.state is State.DONE and call.span is not None and not call.released
        self._count(call, rests and not _wanted(call))

    def drop(self, call: Call) -> None:
        """Nobody can ask for the call's encoding any more."""
        self._count(call, False)
        if call.span is not None:
            self._cache.release(call.span, call.keep)
            call.span = None

    def rest(self, workflow: Workflow, idle: bool) -> None:
        if workflow.idle is not idle:
            workflow.idle = idle
            for call in workflow.calls.values():
                self.refresh(call)

    def turned(self, workflow: Workflow) -> None:
        """The workflow has begun, or waits for its turn again."""
        after = reading(workflow)
        before = Keep.LATER if after is Keep.SOON else Keep.SOON
        for call in workflow.open:
            self.refresh(call)
            for use in call.uses:
                if use.exact:
                    self._cache.regrade(use.span, before, after)
            for parent in call.parents:
                self.refresh(parent)
            for group in call.member_of:
                for member in group.members:
                    self.refresh(member)

    def _level(self, call: Call) -> Keep:
        if call.spec.retention.pin and not call.released:
            return Keep.PINNED
        if not call.state.ended or _named(call):
            return reading(call.workflow)
        if call.expected_readers:
            return Keep.LATER
        return Keep.IDLE if call.workflow.idle else Keep.HELD

    def _count(self, call: Call, rests: bool) -> None:
        if call.rests is not rests:
            call.rests = rests
            call.workflow.resting += len(call.tokens) if rests else -len(call.tokens)


def reading(workflow: Workflow) -> Keep:
    """The level of what calls of the workflow are going to read."""
    return Keep.LATER if workflow.begun_at is None else Keep.SOON


def waits(workflow: Workflow, now: float) -> bool:
    """Whether the workflow waits for a person or a tool."""
    return workflow.unfinished == 0 and now - workflow.touched_at > IDLE_AFTER_S


def _named(call: Call) -> bool:
    """By calls that have not ended."""
    return bool(call.children) or any(group.open for group in call.member_of)


def _wanted(call: Call) -> bool:
    return _named(call) or call.expected_readers > 0
