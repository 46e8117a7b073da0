"""What is wrong with a request is said at once: code, reason, and what to change. The server goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from end_to_end.asking import INVALID, PARENT, Request
from end_to_end.bad_content import CONTENT
from end_to_end.bad_graphs import GRAPHS
from end_to_end.bad_settings import SETTINGS
from end_to_end.served import PATIENCE, Wire, decode, failure, prefill, refused, stored
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from pavane.protos.v1 import pavane_pb2 as pb

CASES = [*GRAPHS, *CONTENT, *SETTINGS]


@pytest.fixture(autouse=True)
async def goes_on(wire: Wire) -> AsyncIterator[None]:
    """Before and after: a good request. Nothing of the bad one remains."""
    await wire.tell(prefill("good", "Hello."))
    yield
    story = await wire.tell(decode("fine", ["good"], max_tokens=1))
    assert story["fine"].message.state == pb.STATE_DONE


@pytest.mark.parametrize(("request_", "code", "reason", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_refused(
    wire: Wire, request_: Request, code: grpc.StatusCode, reason: str, words: tuple[str, ...]
) -> None:
    told = await refused(request_(wire))
    assert (told.code, told.reason) == (code, reason), told.words
    assert told.words == told.details
    for word in words:
        assert word in told.words
    assert len(told.words) < 400
    assert [m.id for m in (await wire.list()).messages] == ["good"]  # nothing of it was accepted


# ---- bytes


def raw(channel: grpc.aio.Channel, name: str, data: bytes) -> Awaitable[Any]:
    """The bytes as they are."""
    if name in ("Watch", "Run"):
        stream = channel.unary_stream(f"/pavane.v1.WorkflowService/{name}")
        return stream(data, timeout=PATIENCE).read()
    service = "ModelService" if name in ("Tokenize", "Detokenize") else "WorkflowService"
    return channel.unary_unary(f"/pavane.v1.{service}/{name}")(data, timeout=PATIENCE)


WORKFLOW_METHODS = [
    "OpenWorkflow", "CloseWorkflow", "Submit", "Cancel", "Finish", "Release", "GetMessage", "ListMessages",
]  # fmt: skip


@pytest.mark.parametrize("name", [*WORKFLOW_METHODS, "Watch", "Run", "Tokenize", "Detokenize"])
async def test_truncated_bytes(channel: grpc.aio.Channel, name: str) -> None:
    for data in (b"\x0a\x10abc", b"\xff\xff\xff\xff", b"\x0a"):
        told = await refused(raw(channel, name, data))
        assert (told.code, told.reason) == (INVALID, "INVALID_REQUEST")
        assert "cannot be decoded" in told.words


@pytest.mark.parametrize("where", ["workflow id", "text", "stop"])
async def test_text_that_is_not_utf8(channel: grpc.aio.Channel, wire: Wire, where: str) -> None:
    mark = "MARKER"
    workflow, call = wire.id, decode("x", stop=["#"])
    if where == "workflow id":
        workflow = mark
    elif where == "text":
        call = prefill("x", mark)
    else:
        call = decode("x", stop=[mark])
    data = pb.SubmitRequest(workflow_id=workflow, calls=[call]).SerializeToString()
    told = await refused(raw(channel, "Submit", data.replace(mark.encode(), b"\xc3\x28\xff\xfe\x80\x80")))
    assert (told.code, told.reason) == (INVALID, "INVALID_REQUEST")
    assert "UTF-8" in told.words


async def test_a_request_that_is_too_large(wire: Wire) -> None:
    """gRPC itself refuses it, so that there is no pavane.v1.Error; its words name both sizes."""
    told = await refused(wire.submit(prefill("x", "a" * (65 * 2**20))))
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told.error is None
    assert str(64 * 2**20) in told.details


# ---- later


async def test_too_many_unfinished_calls(wire: Wire) -> None:
    await wire.submit(decode("long", max_tokens=2000), *(decode(f"c{i}", ["long"]) for i in range(150)))
    told = await refused(wire.submit(*(decode(f"d{i}", ["long"]) for i in range(60))))
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert "at most 200" in told.words
    assert "send later" in told.words
    assert told.error is not None
    delay = told.error.retry_after.ToNanoseconds()
    assert 0 < delay <= 60 * 10**9
    data = told.metadata["grpc-status-details-bin"]
    assert isinstance(data, bytes)
    status = Status.FromString(data)
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    info = RetryInfo()
    (detail,) = status.details
    assert detail.Unpack(info)
    assert info.retry_delay.ToNanoseconds() == delay
    # What fits is still taken, and once there is room the same submission is.
    await wire.submit(*(decode(f"e{i}", ["long"]) for i in range(40)))
    assert len((await wire.cancel("long", descendants=True)).cancelled) == 191
    story = await wire.tell(*(stored(f"d{i}", 3) for i in range(60)))
    assert len(story.order) == 60


async def test_a_context_that_turns_out_too_long(wire: Wire) -> None:
    """Known only when the parents are: the call fails, its siblings do not."""
    parents = [stored(f"p{i}", 3000 + i) for i in range(3)]
    story = await wire.tell(
        *parents,
        decode("long", ["p0", "p1", "p2"]),
        decode("child", ["long"]),
        pb.Call(id="copy", prefill=parents[0].prefill, parents=[PARENT(id=f"p{i}") for i in range(2)], start=8000),
    )
    message = story["long"].message
    assert (message.state, message.error.reason) == (pb.STATE_FAILED, "CONTEXT_TOO_LONG")
    for word in ("'long'", "p0 3000", "p1 3001", "p2 3002", "limit is 8192", "drop or shorten parents"):
        assert word in message.error.text
    assert list(message.error.ids) == ["long", "p0", "p1", "p2"]
    assert (story["child"].message.error.reason, list(story["child"].message.error.ids)) == ("PARENT_FAILED", ["long"])
    assert story["copy"].message.error.reason == "CONTEXT_TOO_LONG"
    assert "position 11000" in story["copy"].message.error.text
    assert all(story[f"p{i}"].message.state == pb.STATE_DONE for i in range(3))


async def test_a_call_that_never_fits_into_the_pool(wire: Wire) -> None:
    story = await wire.tell(stored("p", 2500), stored("q", 1700, token=31), decode("x", ["p", "q"], max_tokens=10))
    message = story["x"].message
    assert (message.state, message.error.reason) == (pb.STATE_FAILED, "NEVER_FITS")
    info = await wire.info()
    needed = 4200 + message.content_begin + 10 + len(info.trailer_ids)
    for word in (f"needs {needed} token slots", "4200 that it sees", "10 to generate", f"has {info.token_slots}"):
        assert word in message.error.text
    assert "--num-slots" in message.error.text


async def test_an_unknown_method(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(channel, "Explode", b"")
    assert failure(caught.value).code is grpc.StatusCode.UNIMPLEMENTED
