"""Traces of workflows: what is noted on the event loop. A thread makes spans of it (tracing_export.py), from the
receipts of calls that have ended.

One trace for each workflow: a span for the workflow, a span for each call within, with links to the spans of the
messages that it read. A request that opens a workflow within a trace of its own (W3C Trace Context) continues it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol

from pavane.scheduler.spec import DecodeSpec, Ended, Finish, Receipt, State
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.request import TraceParent

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry


class Spans(Protocol):
    """Takes what has ended, at once and whatever becomes of it."""

    def put(self, span: CallSpan | WorkflowSpan) -> None: ...

    def close(self) -> None:
        """Sends what is left. Blocks, for some seconds at most."""


def find_export(config: ServerConfig) -> Callable[[str, CollectorRegistry], Spans] | None:
    """What makes the `Spans` of a server, given the model's name and where to register metrics; None if no traces are
    asked for. The packages that it needs are imported only if they are. Raises ConfigError if they are missing."""
    if not config.otlp_endpoint:
        return None
    try:
        from pavane.server.tracing_export import SpanExport
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        raise ConfigError(
            f"--otlp-endpoint needs the package {error.name!r}, which is not installed: pip install 'pavane[otel]'"
        ) from None

    def make(model: str, registry: CollectorRegistry) -> Spans:
        export = SpanExport(config.otlp_endpoint, model)
        registry.register(export)
        return export

    return make


@dataclass(slots=True, eq=False)
class Trace:
    """Of one workflow. Ids are hexadecimal, `began` is in nanoseconds since 1970."""

    key: tuple[str, str]
    trace_id: str
    span_id: str  # of the workflow's own span
    caller: TraceParent | None  # whose trace it is
    began: int
    span: Any = None  # the exporter's

    @classmethod
    def begin(cls, key: tuple[str, str], caller: TraceParent | None) -> Trace:
        trace_id = caller.trace_id if caller is not None else os.urandom(16).hex()
        return cls(key, trace_id, os.urandom(8).hex(), caller, time_ns())

    def span_of(self, message_id: str) -> str:
        """The span id of a call: found, not kept, for however many children link to it."""
        return blake2b(message_id.encode(), key=bytes.fromhex(self.span_id), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class WorkflowSpan:
    """`total` is None of one that was open when the server ended."""

    trace: Trace
    ended: int
    total: Receipt | None = None


@dataclass(frozen=True, slots=True)
class CallSpan:
    trace: Trace
    id: str
    span_id: str
    ended: int
    state: State
    finish: Finish | None
    reason: str  # why it failed; its text may quote what was sent, and stays here
    receipt: Receipt
    attempts: int
    labels: tuple[tuple[str, str], ...]
    decode: DecodeSpec | None
    parents: tuple[str, ...]  # as they were asked for; the receipt has those that were read
    request_id: str
    caller: TraceParent | None

    @classmethod
    def of(
        cls,
        trace: Trace,
        event: Ended,
        decode: DecodeSpec | None,
        parents: tuple[str, ...],
        request_id: str,
        caller: TraceParent | None,
    ) -> CallSpan:
        """Of a call that ends now."""
        outcome = event.outcome
        failure = outcome.failure
        return cls(
            trace,
            event.id,
            trace.span_of(event.id),
            time_ns(),
            outcome.state,
            outcome.finish,
            failure.reason if failure is not None else "",
            outcome.receipt,
            outcome.attempts,
            outcome.labels,
            decode,
            parents,
            request_id,
            caller,
        )

    @property
    def began(self) -> int:
        return self.ended - _ns(self.receipt.total_s)

    @property
    def moments(self) -> list[tuple[str, int]]:
        """Names and times of what came in between, as far as the receipt tells."""
        receipt = self.receipt
        ready = self.began + _ns(receipt.blocked_s)
        found = [("pavane.ready", ready)]
        if not receipt.preemptions and self.state is State.DONE:  # queued once
            found.append(("pavane.started", ready + _ns(receipt.queued_s)))
        if receipt.first_token_s:
            found.append(("pavane.first_token", ready + _ns(receipt.first_token_s)))
        return [(name, min(moment, self.ended)) for name, moment in found]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
