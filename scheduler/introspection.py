"""Snapshots of a scheduler for those who run it: frozen values that refer to nothing inside.

A snapshot of everything would stop the loop for as long as there are messages. So what grows with them is a generator:
it yields None after every SLICE messages, where the caller may let others run before it goes on. Each entry is true for
the moment when it was looked at, not all of them for one moment.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from pavane.cache import Node, Tier, length_of
from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import State
from pavane.scheduler.tally import Activity, StepTimes, Tally, TokenCounts

SLICE = 200  # messages between two pauses: less than a millisecond
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CallCounts:
    blocked: int = 0
    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


@dataclass(frozen=True, slots=True)
class SlotStats:
    """free + idle + locked = total; what the namespaces hold, the largest first, is idle + locked. `evicted` counts
    since the start: into a tier, or for good."""

    total: int
    free: int
    idle: int
    locked: int
    namespaces: tuple[tuple[str, int], ...]
    evicted: int


@dataclass(frozen=True, slots=True)
class HostStats:
    """Of the tier below the slots, in tokens: its pages, and what was moved there, and from there, since the start.
    `failed` counts moves that failed."""

    capacity: int
    used: int
    kept: int
    fetched: int
    failed: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`calls` counts those that have ended since the start too. Times are in seconds."""

    uptime: float
    workflows: int
    calls: CallCounts
    slots: SlotStats
    host: HostStats | None
    since_start: Activity
    recent: Activity
    recent_window: float
    step_times: StepTimes


@dataclass(frozen=True, slots=True)
class WorkflowStats:
    """`calls`, `tokens` and what is stored of them: of messages that are not released. `slots` counts each slot once,
    and what running decodes have in reserve. Times are in seconds; `ttl_left` is None while calls are unfinished."""

    namespace: str
    id: str
    calls: CallCounts
    tokens: int
    tokens_in_slots: int
    tokens_on_host: int
    slots: int
    budget: int
    spent: int
    priority: int
    ttl: float
    ttl_left: float | None
    idle: float
    ended: TokenCounts


@dataclass(frozen=True, slots=True)
class MessageStats:
    """`serial` is the order of arrival; `readers_left` counts unfinished calls; `age` is in seconds."""

    serial: int
    id: str
    state: State
    decode: bool
    tokens: int
    tokens_in_slots: int
    tokens_on_host: int
    readers_left: int
    pinned: bool
    parents: tuple[str, ...]
    copy_of: str | None
    age: float


class Inspector:
    """Looks at a scheduler from the thread that owns it. Changes nothing, not even what counts as a use."""

    def __init__(self, scheduler: Scheduler, tally: Tally) -> None:
        self._scheduler = scheduler
        self._tally = tally

    def stats(self, now: float) -> EngineStats:
        """All of one moment."""
        cache, tally = self._scheduler.cache, self._tally
        total, free, idle = cache.pool.size, cache.pool.free, cache.idle_slots
        return EngineStats(
            uptime=now - tally.started_at,
            workflows=len(self._scheduler.graph.workflows),
            calls=_call_counts(self._scheduler.counts),
            slots=SlotStats(
                total,
                free,
                idle,
                total - free - idle,
                tuple(cache.slots_held.most_common()),
                sum(cache.evicted_tokens),
            ),
            host=_host(cache.tier),
            since_start=tally.since_start(),
            recent=tally.recent(now),
            recent_window=tally.window(now),
            step_times=tally.step_times(),
        )

    def workflows(
        self, after: Key | None, count: int, now: float, *, namespace: str | None = None, unfinished: bool = False
    ) -> Iterator[WorkflowStats | None]:
        """The next `count` open workflows by (namespace, id), with pauses."""
        found = (
            key
            for key, workflow in self._scheduler.graph.workflows.items()
            if (after is None or key > after)
            and (namespace is None or key[0] == namespace)
            and (workflow.unfinished or not unfinished)
        )
        for key in heapq.nsmallest(count, found):
            workflow = self._scheduler.graph.workflows.get(key)
            if workflow is not None:  # not closed in a pause
                yield from _workflow(workflow, now)

    def messages(self, key: Key, after: int, count: int, now: float) -> Iterator[MessageStats | None]:
        """The next `count` messages of a workflow by order of arrival, with pauses. Raises RequestError, at once,
        if the workflow is not open."""
        calls = list(self._scheduler.graph.workflow(*key).calls.values())
        begin = bisect_right(calls, after, key=attrgetter("serial"))
        return _messages(calls[begin : begin + count], now)


def _host(tier: Tier | None) -> HostStats | None:
    if tier is None:
        return None
    return HostStats(tier.capacity, tier.used, tier.kept_tokens, tier.fetched_tokens, tier.failed)


def _workflow(workflow: Workflow, now: float) -> Iterator[WorkflowStats | None]:
    states: Counter[State] = Counter()
    seen: set[Node] = set()
    tokens = stored = below = slots = 0
    for i, call in enumerate(list(workflow.calls.values()), 1):
        states[call.state] += 1
        tokens += _length(call)
        for node in _nodes(call):
            stored += node.filled
            below += _copied(node)
            if node not in seen:
                seen.add(node)
                slots += length_of(node.extents or [])
        if i % SLICE == 0:
            yield None
    idle = now - workflow.touched_at
    yield WorkflowStats(
        namespace=workflow.namespace,
        id=workflow.id,
        calls=_call_counts(states),
        tokens=tokens,
        tokens_in_slots=stored,
        tokens_on_host=below,
        slots=slots,
        budget=workflow.budget,
        spent=workflow.spent,
        priority=workflow.priority,
        ttl=workflow.ttl,
        ttl_left=None if workflow.unfinished else max(0.0, workflow.ttl - idle),
        idle=max(0.0, idle),  # a pause may have come between
        ended=TokenCounts.of(workflow.total),
    )


def _messages(calls: list[Call], now: float) -> Iterator[MessageStats | None]:
    for i, call in enumerate(calls, 1):
        yield MessageStats(
            serial=call.serial,
            id=call.id,
            state=call.state,
            decode=call.spec.decode is not None,
            tokens=_length(call),
            tokens_in_slots=sum(node.filled for node in _nodes(call)),
            tokens_on_host=sum(map(_copied, _nodes(call))),
            readers_left=call.unfinished_readers,
            pinned=call.spec.retention.pin,
            parents=tuple(edge.id for edge in call.spec.parents),
            copy_of=call.spec.copy_of,
            age=now - call.accepted_at,
        )
        if i % SLICE == 0:
            yield None


def _length(call: Call) -> int:
    """Tokens; those that it was given while it waits for its parents."""
    return len(call.tokens) or len(call.spec.tokens)


def _copied(node: Node) -> int:
    """Its tokens in the tier below the slots."""
    return node.copy.length if node.copy is not None else 0


def _nodes(call: Call) -> Iterator[Node]:
    return iter(()) if call.span is None else call.span.upwards()


def _call_counts(counts: Counter[State]) -> CallCounts:
    return CallCounts(**{state.value: counts[state] for state in State})
