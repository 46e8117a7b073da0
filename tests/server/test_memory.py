"""Cycles are collected seldom while a server serves: so nothing big may hang in one."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.secured import served, tiny_model

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scheduler import Scheduler
from pavane.server import access, memory

TOKENS = 3000


@pytest.fixture
def collector() -> Iterator[None]:
    """As it is by itself, afterwards."""
    before = gc.get_threshold()
    yield
    gc.enable()
    gc.set_threshold(*before)


def test_settled_memory_is_looked_through_seldom(collector: None) -> None:
    memory.settle()
    assert gc.get_threshold() == (memory.YOUNG, memory.OLDER, memory.OLD)
    assert gc.get_freeze_count() > 0


def _big() -> list[object]:
    """What is there, or waits for the collector, of a request with TOKENS tokens: the message itself, or its tokens."""
    alive = gc.get_objects()
    return [one for one in alive if type(one) in (pb.SubmitRequest, pb.RunRequest)] + [
        held for one in alive for held in gc.get_referents(one) if type(held) is array and len(held) >= TOKENS
    ]


@pytest.mark.parametrize("broken", [False, True])
async def test_a_request_that_fails_is_forgotten_at_once(
    tmp_path: Path, collector: None, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is refused or meets a defect; it does not wait for the collector."""
    if broken:

        def submit(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Scheduler, "submit", submit)
        monkeypatch.setattr(access.log, "disabled", True)  # the tests' own log keeps the traceback
    calls = [
        pb.Call(id="a", prefill=pb.Prefill(tokens=pb.Tokens(ids=[5] * TOKENS)), parents=[pb.ParentRef(id="nobody")])
    ]
    code = grpc.StatusCode.INTERNAL if broken else grpc.StatusCode.NOT_FOUND
    async with (
        served(tiny_model(tmp_path)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = rpc.WorkflowServiceStub(channel)
        await stub.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
        gc.collect()
        gc.disable()
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as submitted:
                await stub.Submit(pb.SubmitRequest(workflow_id="w", calls=calls))
            with pytest.raises(grpc.aio.AioRpcError) as run:
                async for _event in stub.Run(pb.RunRequest(submit=pb.SubmitRequest(workflow_id="w", calls=calls))):
                    pass
            assert submitted.value.code() == run.value.code() == code
            del submitted, run
        refused = [one for one in gc.get_objects() if type(one) is RequestError]
        assert {error.reason for error in refused} <= {Reason.UNKNOWN_MESSAGE, Reason.INTERNAL}
        assert refused, "gRPC keeps no errors any more: the server need not forget what they hold"
        assert _big() == []
