"""How many tokens of KV are needed at a time: those of messages that are being made or will still be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pavane.bench.simulation.tokens import TRAILER
from pavane.bench.trace import TraceWorkflow


@dataclass
class _Message:
    tokens: int
    readers: int  # calls that have not ended
    held: bool = False
    ended: bool = False


class WorkflowNeed:
    """Of one workflow; `current` is what it needs now. A message counts at its full length from its start on, until it
    has ended and so have all calls that name it, or a group that it is in."""

    def __init__(self, trace: TraceWorkflow) -> None:
        groups = {group.id: group.members for group in trace.groups}
        self._reads = {c.id: [name for p in c.parents for name in groups.get(p, (p,))] for c in trace.calls}
        readers = Counter(name for names in self._reads.values() for name in names)
        self._messages = {
            call.id: _Message(call.prefill or call.header + call.decode + len(TRAILER), readers[call.id])
            for call in trace.calls
        }
        self.current = 0

    def start(self, call_id: str) -> None:
        message = self._messages[call_id]
        if not message.held:
            message.held = True
            self.current += message.tokens

    def end(self, call_id: str) -> None:
        self._messages[call_id].ended = True
        for name in self._reads[call_id]:
            self._messages[name].readers -= 1
        for name in (call_id, *self._reads[call_id]):
            message = self._messages[name]
            if message.held and message.ended and not message.readers:
                message.held = False
                self.current -= message.tokens
