"""Who goes first, as clients see it: priorities, and the bounds of tenants."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pavane.clients import Client, Result
from tests.models.test_serving import QWEN, serve, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model"), QWEN)


def ran(result: Result) -> tuple[float, float]:
    """From when to when, in seconds after it was accepted."""
    receipt = result.receipt
    return receipt.blocked + receipt.queued, receipt.total


async def test_of_waiting_workflows_that_of_higher_priority_goes_first(model: Path) -> None:
    server = await serve(model, max_num_seqs=1)
    try:
        async with (
            Client(f"127.0.0.1:{server.port}") as client,
            client.workflow() as busy,
            client.workflow(priority=-1) as low,
            client.workflow() as middle,
            client.workflow(priority=7) as high,
        ):
            first = busy.decode(max_tokens=400, ignore_eos=True)
            await anext(aiter(first))
            waiting = []
            for workflow in (low, middle, high):
                waiting.append(workflow.decode(max_tokens=10, ignore_eos=True))
                assert (await workflow.get(waiting[-1])).state == "queued"  # one after the other
            await first.finish()
            queued = [(await message).receipt.queued for message in waiting]
            assert queued == sorted(queued, reverse=True)
            assert len(set(queued)) == 3
    finally:
        await server.shutdown()


async def test_a_tenant_runs_no_more_calls_at_once_than_it_may(model: Path, tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.json"
    tenants.write_text(json.dumps({"tenants": {"small": {"max_running": 1}}}))
    server = await serve(model, tenants=str(tenants))
    ranges = {}
    try:
        for namespace in ("small", "large"):
            async with Client(f"127.0.0.1:{server.port}", namespace=namespace) as client, client.workflow() as workflow:
                answers = await asyncio.gather(*workflow.decode_n(3, max_tokens=10, ignore_eos=True))
                ranges[namespace] = sorted(map(ran, answers))
    finally:
        await server.shutdown()
    for namespace, apart in (("small", True), ("large", False)):
        for (_, end), (begin, _) in zip(ranges[namespace], ranges[namespace][1:], strict=False):
            assert (end <= begin) is apart
