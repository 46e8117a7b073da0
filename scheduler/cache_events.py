"""What enters and leaves the cache, for whoever watches: one bounded ring, read by each at his own pace.

Nothing is kept per reader; who lags by more than the ring holds loses the oldest and learns how many. The cache is
observed only while there are readers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from pavane.cache import Change, Node
from pavane.scheduler.calls import Call
from pavane.scheduler.introspection import SLICE
from pavane.scheduler.scheduler import Scheduler

KEPT = 8192
BRANCHES = 32  # of a path that are searched for a message


@dataclass(frozen=True, slots=True)
class CacheChange:
    """A run of `tokens` tokens. `message_id` is a message that it is or was part of, `workflow_id` its workflow, else
    that of the call that computes the run; empty where not known. Of a decode its known tokens are told when
    they are stored, the others not before they are final."""

    sequence: int
    kind: Change
    namespace: str
    workflow_id: str
    message_id: str
    content_key: bytes
    tokens: int


class CacheEvents:
    """Lives on the scheduler's thread. Changes are numbered from 1 and go on while nobody reads."""

    def __init__(self, scheduler: Scheduler, kept: int = KEPT) -> None:
        self._scheduler = scheduler
        self._ring: deque[CacheChange] = deque(maxlen=kept)
        self._last = 0
        self._readers = 0
        self._changed = asyncio.Event()
        self._names: dict[Node, tuple[str, str, int]] = {}  # workflow, message and where it begins on the path
        self._sweep_at = kept

    @property
    def last(self) -> int:
        """The number of the newest change."""
        return self._last

    def open(self) -> Iterator[None]:
        """One reader more, whose changes are those after `last`. Learns, with a pause after every SLICE messages, which
        message is where; go through it, and end with `close`, whether or not it came to its end."""
        self._readers += 1
        if self._readers > 1:
            return
        self._scheduler.cache.on_change = self._record
        workflows = list(self._scheduler.graph.workflows.values())
        seen = 0
        for workflow in workflows:
            for call in list(workflow.calls.values()):
                self._name(call)
                seen += 1
                if seen % SLICE == 0:
                    yield

    def close(self) -> None:
        self._readers -= 1
        if not self._readers:
            self._scheduler.cache.on_change = None
            self._ring.clear()
            self._names.clear()

    def read(self, after: int, count: int) -> tuple[int, list[CacheChange]]:
        """How many of the changes after number `after` are lost, and the next `count` that are not."""
        first = self._last - len(self._ring) + 1
        lost = max(0, first - after - 1)
        begin = max(0, after + 1 - first)
        return lost, list(islice(self._ring, begin, begin + count))

    async def changed(self) -> None:
        """Returns when there is a change."""
        self._changed.clear()
        await self._changed.wait()

    def _record(self, kind: Change, node: Node, tokens: int) -> None:
        maker = node.owner if isinstance(node.owner, Call) else self._decode(node)
        if maker is not None:
            self._name(maker)
        workflow_id, message_id = self._message(node)
        if not workflow_id and maker is not None:
            workflow_id = maker.workflow.id
        self._last += 1
        change = CacheChange(self._last, kind, node.context.namespace, workflow_id, message_id, node.key, tokens)
        self._ring.append(change)
        if kind in ("evicted", "lost") and not node.refs:
            self._names.pop(node, None)
        self._changed.set()

    def _decode(self, node: Node) -> Call | None:
        """The running decode that has just written the last of `node`."""
        return next((c for c in self._scheduler.running if c.span is not None and c.span.node is node), None)

    def _name(self, call: Call) -> None:
        if call.span is not None:
            for node in call.span.upwards():
                self._names.setdefault(node, (call.workflow.id, call.id, call.span.lo))
        if len(self._names) > self._sweep_at:
            self._names = {node: name for node, name in self._names.items() if node.attached}
            self._sweep_at = 2 * max(len(self._names), self._sweep_at // 2)

    def _message(self, node: Node) -> tuple[str, str]:
        """A message that `node` is part of. What was split off above another node is part of that one's message."""
        begin = node.lo
        below = [node]
        for _ in range(BRANCHES):
            if not below:
                break
            node = below.pop()
            name = self._names.get(node)
            if name is not None and name[2] <= begin:
                return name[0], name[1]
            below.extend(islice(chain(node.children.values(), node.branches), BRANCHES))
        return "", ""
