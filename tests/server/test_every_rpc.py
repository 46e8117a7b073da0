"""What belongs to one tenant is, for every other, not there: on every RPC that the protos have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from support.rpcs import RPCS, Rpc
from support.secured import FakeRunner, KeyFile, served, tiny_model

from pavane.kernels.batch import Batch, StepResult
from pavane.protos.v1 import admin_pb2 as admin
from pavane.protos.v1 import pavane_pb2 as pb

Metadata = tuple[tuple[str, str], ...]
Requests = Callable[[str, str], list[Message]]  # that name this workflow and, if any, this message
THEIRS, MESSAGE, RUNNING, NEVER = "theirs", "message", "running", "never"


class SlowRunner(FakeRunner):
    def execute(self, batch: Batch) -> StepResult:
        time.sleep(0.02)
        return super().execute(batch)


def decode(id: str, *parents: str, **options: int) -> pb.Call:
    body = pb.Decode(header=pb.Header(tokens=pb.Tokens(ids=[FIRST])), sampling=pb.Sampling(**options))
    return pb.Call(id=id, decode=body, parents=[pb.ParentRef(id=parent) for parent in parents])


FIRST = 300


def submit(workflow: str, *calls: pb.Call, group: str = "") -> pb.SubmitRequest:
    groups = [pb.Group(id="group", members=[group], need=1)] if group else []
    return pb.SubmitRequest(workflow_id=workflow, calls=calls, groups=groups)


def submissions(workflow: str, message: str) -> list[pb.SubmitRequest]:
    """Every way in which a submission can name a message."""
    copy = pb.Prefill(copy=pb.Copy(of=message))
    return [
        submit(workflow, decode("new", message)),
        submit(workflow, pb.Call(id="new", prefill=copy)),
        submit(workflow, decode("new", "group"), group=message),
    ]


# Of each RPC the requests by which a stranger might reach a workflow or message. An RPC that is not in here fails.
OF_WORKFLOWS: dict[str, Requests] = {
    "CloseWorkflow": lambda w, m: [pb.CloseWorkflowRequest(workflow_id=w)],
    "ListMessages": lambda w, m: [pb.ListMessagesRequest(workflow_id=w)],
    "Submit": lambda w, m: list(submissions(w, m)),
    "Run": lambda w, m: [pb.RunRequest(submit=one) for one in submissions(w, m)],
    "Plan": lambda w, m: [pb.PlanRequest(submit=one) for one in submissions(w, m)],
    "Watch": lambda w, m: [pb.WatchRequest(workflow_id=w, ids=[m])],
    "Cancel": lambda w, m: [pb.CancelRequest(workflow_id=w, ids=[m], descendants=d) for d in (False, True)],
    "Finish": lambda w, m: [pb.FinishRequest(workflow_id=w, ids=[m])],
    "Release": lambda w, m: [pb.ReleaseRequest(workflow_id=w, ids=[m])],
    "GetMessage": lambda w, m: [pb.GetMessageRequest(workflow_id=w, id=m, wait=wait) for wait in (False, True)],
    "Score": lambda w, m: [
        pb.ScoreRequest(workflow_id=w, call=pb.Call(id=m)),  # the message's own content
        pb.ScoreRequest(workflow_id=w, call=decode("new", m), ids=[FIRST]),
    ],
}
NO_MESSAGE = {"CloseWorkflow", "ListMessages"}  # name a workflow as a whole
OF_THE_MODEL: dict[str, Message] = {
    "GetServerInfo": pb.GetServerInfoRequest(),
    "Tokenize": pb.TokenizeRequest(content=pb.Prefill(text="a")),
    "Detokenize": pb.DetokenizeRequest(ids=[FIRST]),
}
OF_ALL: dict[str, Message] = {  # for role admin
    "GetStats": admin.GetStatsRequest(),
    "ListWorkflows": admin.ListWorkflowsRequest(),
    "ListMessages": admin.AdminServiceListMessagesRequest(namespace="a", workflow_id=THEIRS),
    "WatchCache": admin.WatchCacheRequest(),
}
NAMED: dict[str, Requests] = {
    **{f"WorkflowService/{name}": make for name, make in OF_WORKFLOWS.items()},
    "WorkflowService/OpenWorkflow": lambda w, m: [pb.OpenWorkflowRequest(workflow_id=w)],
    **{f"ModelService/{name}": (lambda w, m, one=one: [one]) for name, one in OF_THE_MODEL.items()},  # type: ignore[misc]
    **{f"AdminService/{name}": (lambda w, m, one=one: [one]) for name, one in OF_ALL.items()},  # type: ignore[misc]
}


def test_every_rpc_has_a_case() -> None:
    assert set(NAMED) == set(RPCS), "an RPC was added: say in this file what a stranger might ask of it"


async def refused(rpc: Rpc, channel: grpc.aio.Channel, request: Message, metadata: Metadata) -> tuple[str, str, str]:
    """Status, reason, text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        print(rpc.name, await rpc.call(channel, request.SerializeToString(), metadata))
    details = dict(caught.value.trailing_metadata() or ())["pavane-error-bin"]
    assert isinstance(details, bytes)
    error = pb.Error.FromString(details)
    assert error.text == caught.value.details()
    return caught.value.code().name, error.reason, error.text


async def test_what_is_another_tenants_is_not_there(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    a, b, ops = (
        (("authorization", f"Bearer {secret}"),)
        for secret in (keys.add("a"), keys.add("b"), keys.add("ops", role="admin"))
    )
    async with (
        served(tiny_model(tmp_path), SlowRunner, api_keys=str(keys.path)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):

        async def answer(name: str, request: Message, metadata: Metadata) -> Message:
            return await RPCS[name].call(channel, request.SerializeToString(), metadata)

        await answer("WorkflowService/OpenWorkflow", pb.OpenWorkflowRequest(workflow_id=THEIRS), a)
        prefill = pb.Call(id=MESSAGE, prefill=pb.Prefill(tokens=pb.Tokens(ids=[FIRST, FIRST + 1])))
        running = decode(RUNNING, MESSAGE, max_tokens=400, ignore_eos=True)
        await answer("WorkflowService/Submit", submit(THEIRS, prefill, running), a)

        for name, rpc in RPCS.items():
            for request in NAMED[name](THEIRS, MESSAGE):
                status, reason, text = await refused(rpc, channel, request, ())
                assert (status, reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED"), name
                status, reason, text = await refused(rpc, channel, request, (*b, ("pavane-namespace", "a")))
                assert (status, reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED"), name
        for name, request in OF_ALL.items():
            status, _, text = await refused(RPCS[f"AdminService/{name}"], channel, request, b)
            assert (status, "role=admin" in text) == ("PERMISSION_DENIED", True), name
            await answer(f"AdminService/{name}", request, ops)
        for name, request in OF_THE_MODEL.items():
            assert await answer(f"ModelService/{name}", request, a) == await answer(f"ModelService/{name}", request, b)

        # The other's workflow is told from one that never was by nothing.
        for name, make in OF_WORKFLOWS.items():
            rpc = RPCS[f"WorkflowService/{name}"]
            for theirs, never in zip(make(THEIRS, RUNNING), make(NEVER, RUNNING), strict=True):
                status, reason, text = await refused(rpc, channel, theirs, b)
                assert (status, reason) == ("NOT_FOUND", "UNKNOWN_WORKFLOW"), name
                assert text == (await refused(rpc, channel, never, b))[2].replace(NEVER, THEIRS), name

        # Nor its messages, for who has a workflow of the same name.
        opened = await answer("WorkflowService/OpenWorkflow", pb.OpenWorkflowRequest(workflow_id=THEIRS), b)
        assert opened == pb.OpenWorkflowResponse()
        listed = await answer("WorkflowService/ListMessages", pb.ListMessagesRequest(workflow_id=THEIRS), b)
        assert listed == pb.ListMessagesResponse()
        for name in OF_WORKFLOWS.keys() - NO_MESSAGE:
            rpc = RPCS[f"WorkflowService/{name}"]
            for id in (MESSAGE, RUNNING):
                for theirs, never in zip(
                    OF_WORKFLOWS[name](THEIRS, id), OF_WORKFLOWS[name](THEIRS, NEVER), strict=True
                ):
                    status, reason, text = await refused(rpc, channel, theirs, b)
                    assert (status, reason) == ("NOT_FOUND", "UNKNOWN_MESSAGE"), name
                    assert text == (await refused(rpc, channel, never, b))[2].replace(NEVER, id), name
        closed = await answer("WorkflowService/CloseWorkflow", pb.CloseWorkflowRequest(workflow_id=THEIRS), b)
        assert isinstance(closed, pb.CloseWorkflowResponse)
        assert closed.total.encoded == closed.total.generated == 0

        # And nothing of all this has touched what they have.
        listed = await answer("WorkflowService/ListMessages", pb.ListMessagesRequest(workflow_id=THEIRS), a)
        assert isinstance(listed, pb.ListMessagesResponse)
        assert [(m.id, m.state) for m in listed.messages] == [(MESSAGE, pb.STATE_DONE), (RUNNING, pb.STATE_RUNNING)]
