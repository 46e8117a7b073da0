"""How requests end, seen in the log, in the metadata that comes back, and in the count of refusals."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from end_to_end.served import refused
from prometheus_client import CollectorRegistry
from support.secured import KeyFile, served, tiny_model

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.scheduler.errors import Reason, RequestError
from pavane.server.access import LINES_PER_S, Access
from pavane.server.app import Server
from pavane.server.request import Request
from pavane.server.service import ModelService

ID = ("x-request-id", "r-1")
LOGGER = "pavane.server.access"
SUBMIT = "/pavane.v1.WorkflowService/Submit"
INFO = pb.GetServerInfoRequest()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def channel(model: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with served(model) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


async def counted(server: Server) -> dict[str, float]:
    """Refusals by reason, those that are not 0."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
            return str(answer.read().decode())

    found = re.findall(r'^pavane_requests_refused_total{reason="(\w+)"} (\S+)', await asyncio.to_thread(read), re.M)
    assert found
    return {reason: float(value) for reason, value in found if float(value)}


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, dict[str, Any]]]:
    """Level and fields of each."""
    return [(one.levelno, one.fields) for one in caplog.records if one.name == LOGGER]  # type: ignore[attr-defined]


async def test_the_request_id_comes_back(channel: grpc.aio.Channel) -> None:
    models: Any = rpc.ModelServiceStub(channel)
    call = models.GetServerInfo(INFO, metadata=(ID,))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "r-1"
    call = models.GetServerInfo(INFO)
    await call
    assert re.fullmatch("[0-9a-f]{16}", dict(await call.trailing_metadata())["x-request-id"])
    error = await refused(models.Detokenize(pb.DetokenizeRequest(ids=[2**31]), metadata=(ID,)))
    assert error.metadata["x-request-id"] == "r-1"


async def test_a_stream_says_its_request_id_at_its_end(channel: grpc.aio.Channel) -> None:
    workflows: Any = rpc.WorkflowServiceStub(channel)
    await workflows.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
    prompt = pb.Call(id="p", prefill=pb.Prefill(tokens=pb.Tokens(ids=[300])))
    await workflows.Submit(pb.SubmitRequest(workflow_id="w", calls=[prompt]))
    watch = workflows.Watch(pb.WatchRequest(workflow_id="w"), metadata=(ID,))
    await watch.read()  # it has begun
    await workflows.CloseWorkflow(pb.CloseWorkflowRequest(workflow_id="w"))
    while await watch.read() is not grpc.aio.EOF:
        pass
    assert dict(await watch.trailing_metadata())["x-request-id"] == "r-1"


async def test_lines_of_requests(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    workflows: Any = rpc.WorkflowServiceStub(channel)
    metadata = (ID, ("pavane-namespace", "a"))
    await workflows.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"), metadata=metadata)
    await refused(workflows.GetMessage(pb.GetMessageRequest(workflow_id="w", id="m"), metadata=metadata))
    prompt = pb.Call(id="p", prefill=pb.Prefill(tokens=pb.Tokens(ids=[300])))
    await workflows.Submit(pb.SubmitRequest(workflow_id="w", calls=[prompt]), metadata=metadata)
    watch = workflows.Watch(pb.WatchRequest(workflow_id="w"), metadata=metadata)
    await watch.read()
    watch.cancel()
    for _ in range(500):
        if len(lines(caplog)) == 4:
            break
        await asyncio.sleep(0.01)
    known = {"request_id": "r-1", "tenant": "a", "workflow": "w"}
    (opened, first), (missed, second), _, (left, third) = lines(caplog)
    assert (opened, missed, left) == (logging.DEBUG, logging.WARNING, logging.DEBUG)
    assert first.items() >= {**known, "code": "OK", "method": "/pavane.v1.WorkflowService/OpenWorkflow"}.items()
    assert second.items() >= {**known, "code": "NOT_FOUND", "reason": "UNKNOWN_MESSAGE", "call": "m"}.items()
    assert third.items() >= {**known, "code": "CANCELLED", "method": "/pavane.v1.WorkflowService/Watch"}.items()
    assert 0 < third["duration_s"] < 60


async def test_a_defect_names_the_request(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by a defect")

    monkeypatch.setattr(ModelService, "_check_ids", broken)
    models: Any = rpc.ModelServiceStub(channel)
    error = await refused(models.Detokenize(pb.DetokenizeRequest(ids=[1]), metadata=(ID,)))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "request id r-1" in error.words
    assert "request id r-1" in error.details
    ((level, fields),) = lines(caplog)
    assert level == logging.ERROR
    assert fields.items() >= {"request_id": "r-1", "code": "INTERNAL"}.items()
    assert "by a defect" in caplog.text


async def test_refusals_are_counted_by_reason(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(model, max_message_mb=1, max_streams=2, metrics_port=0) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        await refuse(channel, server, monkeypatch)
    assert "too large" in caplog.text
    assert "xxx" not in caplog.text


async def refuse(channel: grpc.aio.Channel, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request for each of some reasons."""
    workflows: Any = rpc.WorkflowServiceStub(channel)
    models: Any = rpc.ModelServiceStub(channel)
    too_large = pb.SubmitRequest(workflow_id="x" * 2**20)
    error = await refused(workflows.Submit(too_large))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await refused(channel.unary_unary(SUBMIT)(b"\xff"))
    await workflows.OpenWorkflow(pb.OpenWorkflowRequest(workflow_id="w"))
    watches = [workflows.Watch(pb.WatchRequest(workflow_id="w")) for _ in range(2)]
    while (await counted(server)).get("too_many_streams") is None:
        await asyncio.gather(workflows.Submit(pb.SubmitRequest(workflow_id="w")), return_exceptions=True)
    for watch in watches:
        watch.cancel()
    monkeypatch.setattr(ModelService, "_check_ids", None)
    while (await refused(models.Detokenize(pb.DetokenizeRequest(ids=[1])))).reason == "TOO_MANY_STREAMS":
        pass
    found = await counted(server)
    assert found.keys() == {"message_unread", "invalid_request", "too_many_streams", "internal"}
    assert found["message_unread"] == found["internal"] == 1


async def test_refused_keys_are_counted_by_what_is_wrong(model: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    good, expired = keys.add("a"), keys.add("b", expires="2020-01-01")
    async with (
        served(model, api_keys=str(keys.path), metrics_port=0) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        models: Any = rpc.ModelServiceStub(channel)
        for sent, times in ((None, 1), (good[:-1] + "?", 2), (expired, 3)):
            metadata = (("authorization", f"Bearer {sent}"),) if sent else ()
            for _ in range(times):
                assert (await refused(models.GetServerInfo(INFO, metadata=metadata))).reason == "UNAUTHENTICATED"
        metadata = (("authorization", f"Bearer {good}"), ("pavane-namespace", "b"))
        await refused(models.GetServerInfo(INFO, metadata=metadata))
        assert await counted(server) == {"key_missing": 1, "key_unknown": 2, "key_expired": 3, "permission_denied": 1}


def test_a_flood_of_refusals_is_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    access = Access(CollectorRegistry(), lambda: now[0])
    request = Request.of(SUBMIT, (ID,))
    full = RequestError(Reason.QUEUE_FULL, "later")
    for _ in range(LINES_PER_S + 30):
        access.refused(request, full)
    access.refused(request, RequestError(Reason.INVALID_ID, "of another kind"))
    assert len(lines(caplog)) == LINES_PER_S + 1
    now[0] += 5
    access.refused(request, full)
    assert lines(caplog)[-1][1]["passed_over"] == 30
    assert "30 more" in caplog.records[-1].getMessage()
    now[0] += 5
    access.refused(request, full)
    assert "passed_over" not in lines(caplog)[-1][1]
