"""Spans to an OpenTelemetry collector. Imported only with `--otlp-endpoint`: its packages are the extra `otel`.

The event loop puts what has ended into a queue; a thread makes spans of it, with the SDK's sampler and limits, and
sends them. If the collector is slow or away the queue fills, and what comes then is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from pavane.scheduler.spec import State
from pavane.server import tracing_attributes as words
from pavane.server.request import TraceParent
from pavane.server.tracing import CallSpan, Trace, WorkflowSpan

if TYPE_CHECKING:
    from opentelemetry.context import Context

log = logging.getLogger(__name__)

QUEUE_SPANS = 4096
BATCH = 16  # encoding them takes 2 to 4 ms, for which the event loop may wait for the interpreter's lock
LINGER_S = 0.25
EXPORT_S = 5.0  # for one batch, the exporter's own retries included
CLOSE_S = 2.0  # for what is left when the server ends


class SpanExport(Collector):
    """The `Spans` of a server. `endpoint` is a URL, http:// for gRPC in the clear and https:// for TLS; `model` its
    name. All else is configured by the SDK's own variables: OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ..."""

    def __init__(self, endpoint: str, model: str, exporter: SpanExporter | None = None) -> None:
        self._model = model
        self._exporter = exporter or OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)
        self._ids, self._made = _Ids(), _Made()
        ours = {"service.name": "pavane", "service.version": version("pavane")}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())  # its variables go before ours
        provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(self._made)
        self._tracer = provider.get_tracer("pavane", version("pavane"))
        self._queue: SimpleQueue[CallSpan | WorkflowSpan | None] = SimpleQueue()
        self._ending = threading.Event()
        self.dropped = 0  # written by the event loop
        self.exported = self.failed = 0  # written by the thread
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: CallSpan | WorkflowSpan) -> None:
        if self._queue.qsize() >= QUEUE_SPANS:
            self.dropped += 1
        else:
            self._queue.put(span)

    def close(self) -> None:
        """Sends what is left, for CLOSE_S at most. Blocks."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("spans: the collector does not answer; what is left of them is dropped")
        self._exporter.shutdown()  # ends a request that is under way

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("pavane_spans", "Spans by what became of them.", labels=["outcome"])
        for outcome in ("exported", "failed", "dropped"):
            family.add_metric([outcome], getattr(self, outcome))
        yield family

    # ---- the thread

    def _run(self) -> None:
        while True:
            ended = self._gather()
            for one in ended:
                if one is not None:
                    self._try(one)
                    time.sleep(0)  # whoever waits for the interpreter's lock goes first
            self._send(self._made.take())
            if None in ended:
                return

    def _gather(self) -> list[CallSpan | WorkflowSpan | None]:
        found = [self._queue.get()]
        if self._queue.qsize() < BATCH:
            self._ending.wait(LINGER_S)
        try:
            while len(found) < BATCH and found[-1] is not None:
                found.append(self._queue.get_nowait())
        except Empty:
            pass
        return found

    def _try(self, ended: CallSpan | WorkflowSpan) -> None:
        try:
            self._make(ended)
        except Exception:
            log.exception("spans: one could not be made")
            self.failed += 1

    def _make(self, ended: CallSpan | WorkflowSpan) -> None:
        root = self._root(ended.trace)
        if isinstance(ended, WorkflowSpan):
            if ended.total is not None:
                root.set_attributes(words.total_attributes(ended.total))
            root.end(ended.ended)
        elif root.get_span_context().trace_flags.sampled:
            self._call(ended, root)

    def _root(self, trace: Trace) -> api.Span:
        """The workflow's span; the sampler is asked once."""
        if trace.span is None:
            self._ids.choose(trace.trace_id, trace.span_id)
            trace.span = self._tracer.start_span(
                "invoke_workflow",
                None if trace.caller is None else _context(trace.caller),
                SpanKind.SERVER,
                words.workflow_attributes(trace, self._model),
                start_time=trace.began,
            )
        span: api.Span = trace.span
        return span

    def _call(self, call: CallSpan, root: api.Span) -> None:
        trace, caller = call.trace, call.caller
        links = [_link(trace, root, use.id, words.link_attributes(use.id, use)) for use in call.receipt.parents]
        if not call.receipt.parents:  # it did not come so far, or is a copy
            links = [_link(trace, root, parent, words.link_attributes(parent, None)) for parent in call.parents]
        within = api.set_span_in_context(root)
        if caller is not None and caller != trace.caller:
            if caller.trace_id == trace.trace_id:  # submitted within a span of the same trace
                within = _context(caller)
            else:
                links.append(Link(_remote(caller), {"pavane.link": "request"}))
        self._ids.choose(trace.trace_id, call.span_id)
        span = self._tracer.start_span(
            f"{words.operation(call)} {self._model}",
            within,
            SpanKind.INTERNAL,
            words.call_attributes(call, self._model),
            links,
            call.began,
        )
        for name, moment in call.moments:
            span.add_event(name, timestamp=moment)
        if call.state is State.FAILED:
            span.set_status(Status(StatusCode.ERROR, call.reason))
        span.end(call.ended)

    def _send(self, spans: list[ReadableSpan]) -> None:
        if not spans:
            return
        try:
            sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("spans: the exporter failed")
            sent = False
        if sent:
            self.exported += len(spans)
        else:
            self.failed += len(spans)


class _Ids(IdGenerator):
    """Gives out the ids that the event loop has chosen."""

    def choose(self, trace_id: str, span_id: str) -> None:
        self._trace_id, self._span_id = int(trace_id, 16), int(span_id, 16)

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        return self._span_id


class _Made(SpanProcessor):
    """Spans that are sampled and have ended."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        taken, self._spans = self._spans, []
        return taken


def _remote(caller: TraceParent) -> SpanContext:
    state = TraceState.from_header([caller.state]) if caller.state else TraceState()
    flags = TraceFlags(TraceFlags.SAMPLED if caller.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(caller.trace_id, 16), int(caller.span_id, 16), True, flags, state)


def _context(caller: TraceParent) -> Context:
    return api.set_span_in_context(NonRecordingSpan(_remote(caller)))


def _link(trace: Trace, root: api.Span, message_id: str, attributes: words.Attributes) -> Link:
    flags = root.get_span_context().trace_flags
    context = SpanContext(int(trace.trace_id, 16), int(trace.span_of(message_id), 16), False, flags)
    return Link(context, attributes)
