"""What the encoding of each message is kept for: the graph tells who will read it, and when."""

from __future__ import annotations

from pavane.cache import GraphCache, Keep
from pavane.scheduler.calls import Call, Workflow

IDLE_AFTER_S = 2.0  # without a call to run or a request, a workflow waits for a person or a tool


class Lifetimes:
    """Keeps `call.keep`, the level at which a call's encoding is retained, what the state of the graph says it is."""

    def __init__(self, cache: GraphCache) -> None:
        self._cache = cache

    def accepted(self, call: Call) -> None:
        """A new call: those it reads have a reader more, of whom a score was none that was declared."""
        for parent in call.parents:
            if call.scoring is None:
                parent.expected_readers = max(0, parent.expected_readers - 1)
            self.refresh(parent)
        for group in call.groups:
            for winner in group.winners:
                self.refresh(winner)

    def resolved(self, call: Call) -> None:
        """The call is ready to run, and has a place of its own in a tree."""
        self.refresh(call)
        call.reads_soon = True
        for parent in call.parents:
            parent.soon += 1
            self.refresh(parent)

    def ended(self, call: Call) -> None:
        """The call reads its parents no more; they have not been unlinked yet."""
        self.refresh(call)
        if call.reads_soon:
            call.reads_soon = False
            for parent in call.parents:
                parent.soon -= 1

    def refresh(self, call: Call) -> None:
        if call.span is None:
            return
        level = self._level(call)
        if level is not call.keep:
            self._cache.regrade(call.span, call.keep, level)
            call.keep = level

    def drop(self, call: Call) -> None:
        """Nobody can ask for the call's encoding any more."""
        if call.span is not None:
            self._cache.release(call.span, call.keep)
            call.span = None

    def rest(self, workflow: Workflow, idle: bool) -> None:
        if workflow.idle is not idle:
            workflow.idle = idle
            for call in workflow.calls.values():
                self.refresh(call)

    def _level(self, call: Call) -> Keep:
        if call.spec.retention.pin and not call.released:
            return Keep.PINNED
        if call.soon or not call.state.ended:
            return Keep.SOON
        if call.children or call.expected_readers or any(group.open for group in call.member_of):
            return Keep.LATER
        return Keep.IDLE if call.workflow.idle else Keep.HELD


def waits(workflow: Workflow, now: float) -> bool:
    """Whether the workflow waits for a person or a tool."""
    return workflow.unfinished == 0 and now - workflow.touched_at > IDLE_AFTER_S
