"""Which request each unfinished call came from, and which trace its workflow belongs to: what its log line and its span
say beyond what the engine knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import time_ns

from pavane.scheduler.spec import CallSpec, Closed, DecodeSpec, Ended, Event, GroupSpec
from pavane.server import call_log
from pavane.server import request as requests
from pavane.server.request import TraceParent
from pavane.server.tracing import CallSpan, Spans, Trace, WorkflowSpan

Key = tuple[str, str]  # namespace, workflow id


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one call. Of what was asked only what a span says: neither its tokens nor its text."""

    request_id: str
    caller: TraceParent | None
    decode: DecodeSpec | None
    parents: tuple[str, ...]  # messages, the source of a copy among them


@dataclass(slots=True)
class _Workflow:
    trace: Trace
    calls: dict[str, Origin] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)


class Origins:
    """Without `spans` nothing is traced."""

    def __init__(self, spans: Spans | None = None) -> None:
        self._spans = spans
        self._workflows: dict[Key, _Workflow] = {}

    def opened(self, key: Key) -> None:
        """By the request that is being answered; its trace is the workflow's if that is new."""
        if key not in self._workflows:
            request = requests.current()
            self._workflows[key] = _Workflow(Trace.begin(key, request.parent if request is not None else None))

    def expect(self, key: Key, specs: Iterable[CallSpec], groups: Iterable[GroupSpec]) -> None:
        """The request that is being answered is about to submit these."""
        self.opened(key)
        workflow, request = self._workflows[key], requests.current()
        request_id, caller = ("", None) if request is None else (request.id, request.parent)
        workflow.groups.update(group.id for group in groups)
        for spec in specs:
            parents = tuple(parent.id for parent in spec.parents) + ((spec.copy_of,) if spec.copy_of else ())
            workflow.calls[spec.id] = Origin(request_id, caller, spec.decode, parents)

    def withdraw(self, key: Key, ids: Iterable[str]) -> None:
        """Expected calls that did not come."""
        workflow = self._workflows.get(key)
        if workflow is not None:
            for message_id in ids:
                workflow.calls.pop(message_id, None)

    def record(self, key: Key, events: Sequence[Event]) -> None:
        """Logs the calls that end, and hands them on as spans."""
        workflow = self._workflows.get(key)
        for event in events:
            if isinstance(event, Ended):
                self._ended(key, workflow, event)
            elif isinstance(event, Closed) and workflow is not None:
                del self._workflows[key]
                if self._spans is not None:
                    self._spans.put(WorkflowSpan(workflow.trace, time_ns(), event.total))

    async def close(self) -> None:
        """The server ends, and with it all workflows; returns when their spans are sent, or given up."""
        if self._spans is not None:
            for workflow in self._workflows.values():
                self._spans.put(WorkflowSpan(workflow.trace, time_ns()))
            await asyncio.to_thread(self._spans.close)

    def _ended(self, key: Key, workflow: _Workflow | None, event: Ended) -> None:
        origin = workflow.calls.pop(event.id, None) if workflow is not None else None
        if workflow is None or origin is None:
            call_log.ended(key, event, {})
            return
        known: dict[str, object] = {"request_id": origin.request_id} if origin.request_id else {}
        if self._spans is not None:
            parents = tuple(parent for parent in origin.parents if parent not in workflow.groups)
            span = CallSpan.of(workflow.trace, event, origin.decode, parents, origin.request_id, origin.caller)
            self._spans.put(span)
            known |= {"trace_id": workflow.trace.trace_id, "span_id": span.span_id}
        elif origin.caller is not None:
            known |= {"trace_id": origin.caller.trace_id, "span_id": origin.caller.span_id}
        call_log.ended(key, event, known)
