"""One server with the default model for the whole folder, and a workflow of its own for every test."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
from end_to_end.served import FLAGS, TENANTS, ServerProcess, Wire

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    tenants = tmp_path_factory.mktemp("settings") / "tenants.json"
    tenants.write_text(json.dumps({"tenants": TENANTS}))
    process = ServerProcess(*FLAGS, "--tenants", str(tenants))
    try:
        yield process.wait_ready()
    finally:
        status = process.stop()
    # What all tests have left behind is drained in order, and no request has met a defect of the server.
    assert status == 0
    assert "Traceback" not in process.final_log, process.final_log
    assert " ERROR " not in process.final_log, process.final_log


@pytest.fixture
async def channel(server: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture
def new_wire(channel: grpc.aio.Channel) -> Callable[..., Wire]:
    """Makes workflows, not opened yet."""

    def make(namespace: str = "") -> Wire:
        return Wire(channel, f"wf-{next(_NUMBERS)}", namespace)

    return make


@pytest.fixture
async def wire(new_wire: Callable[..., Wire]) -> AsyncIterator[Wire]:
    """An open workflow; what still runs in it ends with the test."""
    wire = new_wire()
    await wire.open()
    yield wire
    await wire.close()  # also if the test has done so
