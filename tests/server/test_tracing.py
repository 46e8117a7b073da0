"""Spans of calls, as a collector gets them; and that nothing waits for a collector."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from end_to_end.served import Wire, decode, group, prefill
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.collector import Collector, collecting, values
from support.secured import FakeRunner, served, tiny_model

from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.spec import Ended, Outcome, Receipt, State
from pavane.server import tracing_export
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.tracing import CallSpan, Trace
from pavane.server.tracing_export import SpanExport

TRACE, SPAN, STEP = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "11f067aa0ba902b7"
WORDS = "the marked words of somebody"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@asynccontextmanager
async def traced(model: Path, collector: Collector, *metadata: tuple[str, str], **settings: Any) -> AsyncIterator[Wire]:
    """An open workflow of a server that sends its spans to the collector, all of them before it ends."""
    settings = {"otlp_endpoint": collector.endpoint} | settings
    async with (
        served(model, **settings) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        wire = Wire(channel, "w", "team")
        wire._options["metadata"] = (*wire._metadata, *metadata)
        await wire.open()
        yield wire


def by_call(spans: list[Span]) -> dict[str, Span]:
    """The workflow's own is ''."""
    return {values(span.attributes).get("gen_ai.response.id", ""): span for span in spans}


async def test_a_workflow_is_a_trace(model: Path, collector: Collector) -> None:
    async with traced(model, collector) as wire:
        await wire.tell(
            prefill("a", WORDS, labels={"agent": "critic"}),
            decode("b", ["a"], max_tokens=3, temperature=0.5),
            decode("c", ["a", "g"], max_tokens=2, stop=[WORDS]),
            prefill("d", WORDS, ["a"], fidelity=2),
            groups=[group("g", "b", need=1)],
        )
        await wire.close()
    spans = by_call(collector.wait(5))
    root = spans[""]
    assert spans.keys() == {"", "a", "b", "c", "d"}
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert not root.parent_span_id
    assert all(span.parent_span_id == root.span_id for name, span in spans.items() if name)
    assert len({span.span_id for span in spans.values()}) == 5
    links = {name: {link.span_id for link in span.links} for name, span in spans.items()}
    assert links == {
        "": set(),
        "a": set(),
        "b": {spans["a"].span_id},
        "c": {spans["a"].span_id, spans["b"].span_id},  # of the group, its winner
        "d": {spans["a"].span_id},
    }
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano + 10**7 for span in spans.values())
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in spans.values())
    told = values(spans["b"].attributes)
    assert told["gen_ai.operation.name"] == "chat"
    assert spans["b"].name == f"chat {told['gen_ai.request.model']}"
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (3, 0.5)
    assert told["gen_ai.usage.input_tokens"] == told["pavane.tokens.in_place"] + told["pavane.tokens.encoded"]
    assert told["gen_ai.usage.output_tokens"] == told["pavane.tokens.generated"] == 3
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert (told["gen_ai.conversation.id"], told["pavane.tenant"]) == ("w", "team")
    assert [event.name for event in spans["b"].events] == ["pavane.ready", "pavane.started", "pavane.first_token"]
    moments = [event.time_unix_nano for event in spans["b"].events]
    assert moments == sorted(moments)
    assert values(spans["a"].attributes)["pavane.label.agent"] == "critic"
    assert values(spans["b"].links[0].attributes)["pavane.parent.id"] == "a"
    assert values(root.attributes)["gen_ai.usage.output_tokens"] == 5
    assert collector.resource["service.name"] == "pavane"
    assert WORDS not in str(collector.spans)


async def test_the_callers_trace_goes_on(model: Path, collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pavane.server.call_log")
    async with traced(model, collector, ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-request-id", "r-1")) as wire:
        await wire.tell(prefill("a", "?"))
        wire._options["metadata"] = (*wire._metadata, ("traceparent", f"00-{TRACE}-{STEP}-01"))
        await wire.tell(decode("b", ["a"]))  # submitted from within another span of the trace
        wire._options["metadata"] = (*wire._metadata, ("traceparent", f"00-{TRACE[::-1]}-{STEP}-01"))
        await wire.tell(decode("c", ["a"]))  # ... and of another trace
        await wire.close()
    spans = by_call(collector.wait(4))
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans[""].parent_span_id.hex() == SPAN
    assert spans["a"].parent_span_id == spans["c"].parent_span_id == spans[""].span_id
    assert spans["b"].parent_span_id.hex() == STEP
    assert (TRACE[::-1], STEP) in {(link.trace_id.hex(), link.span_id.hex()) for link in spans["c"].links}
    assert values(spans["a"].attributes)["pavane.request.id"] == "r-1"
    line = next(record.fields for record in caplog.records if "'a'" in record.getMessage())  # type: ignore[attr-defined]
    assert (line["trace_id"], line["span_id"]) == (TRACE, spans["a"].span_id.hex())
    assert line["request_id"] == "r-1"


async def test_what_the_caller_does_not_sample_is_not_sent(model: Path, collector: Collector) -> None:
    async with traced(model, collector, ("traceparent", f"00-{TRACE}-{SPAN}-00")) as wire:
        await wire.tell(prefill("a", "?"), decode("b", ["a"]))
        await wire.close()
    assert collector.spans == []


class Breaks(FakeRunner):
    def execute(self, batch: Batch) -> StepResult:
        if batch.n_rows:
            raise RuntimeError("broken")
        return super().execute(batch)


async def test_an_error_sets_the_status(model: Path, collector: Collector) -> None:
    async with traced(model, collector, runner=Breaks) as wire:
        await wire.tell(prefill("a", "?"), decode("b", ["a"]))
    spans = by_call(collector.wait(3))  # the workflow ends with the server
    assert spans["a"].status.code == spans["b"].status.code == 2
    assert spans["a"].status.message == "RUNNER_FAILED"
    assert values(spans["b"].attributes)["error.type"] == "PARENT_FAILED"
    assert [link.span_id for link in spans["b"].links] == [spans["a"].span_id]


@pytest.mark.parametrize("silent", ["nobody listens", "it does not answer"])
async def test_a_collector_that_is_away_holds_up_nothing(
    model: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(tracing_export, "CLOSE_S", 0.5)
    collector.holding.set()
    endpoint = collector.endpoint if silent == "it does not answer" else "http://127.0.0.1:9"
    async with traced(model, collector, otlp_endpoint=endpoint) as wire:
        for number in range(20):
            began = time.monotonic()
            await wire.tell(prefill(f"{number}", "?"))
            assert time.monotonic() - began < 5
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert collector.spans == []


def a_span() -> CallSpan:
    outcome = Outcome("a", State.DONE, receipt=Receipt(generated=1, total_s=0.5), decode=True)
    return CallSpan.of(Trace.begin(("", "w"), None), Ended("a", outcome), None, (), "", None)


def test_what_is_too_much_is_dropped_and_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing_export, "QUEUE_SPANS", 100)
    collector.holding.set()
    export = SpanExport(collector.endpoint, "model")
    for _ in range(1000):
        export.put(a_span())
    assert 800 <= export.dropped <= 900
    collector.holding.clear()
    collector.released.set()
    export.close()
    counts = {sample.labels["outcome"]: sample.value for family in export.collect() for sample in family.samples}
    assert counts["exported"] == len(collector.spans) == 1000 - export.dropped
    assert counts["failed"] == 0
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_batch_that_is_full_waits_for_nothing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_export, "LINGER_S", 1.0)
    export = SpanExport(collector.endpoint, "model")
    began = time.monotonic()
    for _ in range(tracing_export.BATCH * 10):
        export.put(a_span())
    collector.wait(tracing_export.BATCH * 10)
    assert time.monotonic() - began < 5
    export.close()


@pytest.mark.parametrize("url", ["localhost:4317", "ftp://a:1", "http://", "http://a:b@c:1", "http://a/v1/traces"])
def test_endpoints_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--otlp-endpoint"):
        ServerConfig(otlp_endpoint=url)


async def test_without_the_extra_it_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pavane.server.tracing_export")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'pavane\[otel\]'"):
        async with served(model, otlp_endpoint="http://127.0.0.1:4317"):
            pass


def test_it_is_not_imported_unless_it_is_asked_for() -> None:
    rooms = "pavane.server.listen, pavane.server.service, pavane.server.tracing"
    code = f"import sys, {rooms}; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
