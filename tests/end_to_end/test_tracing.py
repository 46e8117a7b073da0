"""A server process sends a trace of each workflow to a collector, and goes on when that is gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from end_to_end.served import ServerProcess
from support.collector import collecting, values
from support.secured import tiny_model

from pavane.clients import Client

PARENTS: dict[str, set[str]] = {
    "rules": set(),
    "pro": {"rules"},
    "con": {"rules"},
    "verdict": {"rules", "pro", "con"},
}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def debate(target: str) -> None:
    """Four calls."""
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with Client(target, headers=lambda: headers) as client, client.workflow() as workflow:
        rules = workflow.prefill(user="Be brief.", id="rules")
        sides = [workflow.decode(rules, id=id, max_tokens=3, ignore_eos=True) for id in ("pro", "con")]
        await workflow.decode(rules, *sides, id="verdict", max_tokens=3, ignore_eos=True)


def test_a_trace_and_then_nobody_to_send_it_to(tmp_path: Path) -> None:
    with collecting() as collector:
        flags = ("--num-slots", "2000", "--otlp-endpoint", collector.endpoint)
        server = ServerProcess("--model", str(tiny_model(tmp_path)), *flags, OTEL_SERVICE_NAME="debates")
        try:
            asyncio.run(debate(server.wait_ready().target))
            spans = {values(span.attributes).get("gen_ai.response.id", ""): span for span in collector.wait(5)}
        except BaseException:
            server.stop()
            raise
    try:
        names = {span.span_id: name for name, span in spans.items()}
        parents = {name: {names[link.span_id] for link in span.links} for name, span in spans.items() if name}
        assert parents == PARENTS
        assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
        assert spans[""].parent_span_id.hex() == SPAN
        assert collector.resource["service.name"] == "debates"
        asyncio.run(debate(server.target))  # the collector is gone
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8
    finally:
        server.stop()
