"""A server that is asked to stop: it drains; asked twice, it stops at once. Either way its watchers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from end_to_end.served import PATIENCE, ServerProcess, Wire, content, decode, prefill, read, refused, stored
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pavane.clients import CallFailed, Client
from pavane.protos.v1 import pavane_pb2 as pb

SMALL = ("--dtype", "bfloat16", "--num-slots", "2048", "--max-message-mb", "1", "--log-level", "info")


@pytest.fixture(scope="module")
def two_servers() -> Iterator[list[ServerProcess]]:
    """To be stopped by the tests; started together, as that is most of their time."""
    servers = [ServerProcess(*SMALL) for _ in range(2)]
    try:
        yield [server.wait_ready() for server in servers]
    finally:
        for server in servers:
            server.stop()


async def exited(server: ServerProcess, logged: int) -> int:
    """The exit status of a server that ends by itself, without an error in its log after the part given."""
    status = await asyncio.to_thread(server.process.wait, PATIENCE)
    server.stop()
    log = server.final_log[logged:]
    assert "Traceback" not in log, log
    assert " ERROR " not in log, log
    return int(status)


async def not_serving(channel: grpc.aio.Channel) -> None:
    """Returns when the health service says so."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    async for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            break
    watch.cancel()


async def test_frames_fit_into_a_message(two_servers: list[ServerProcess]) -> None:
    """Who catches up on more than one message holds gets it in several."""
    async with grpc.aio.insecure_channel(two_servers[0].target) as channel:
        wire = Wire(channel, "big")
        await wire.open()
        ids = [f"m{i}" for i in range(150)]
        for i in range(0, len(ids), 10):
            await wire.submit(*(stored(id, 2000, token=5000 + i) for id in ids[i : i + 10]))
        assert sum([(await wire.get(id)).ByteSize() for id in ids]) > 1.2 * 2**20
        story = await wire.ended(*ids)
        assert set(story.order) == set(ids)
        await wire.close()


async def test_drain(two_servers: list[ServerProcess]) -> None:
    server = two_servers[0]
    logged = len(server.log)
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "w")
        await wire.open()
        run = wire.run(prefill("q", "Hello."), decode("a", ["q"], max_tokens=24), decode("b", ["a"]))
        story = await read(run, until=lambda story: "a" in story.calls and bool(story["a"].deltas))
        server.signal()
        await not_serving(channel)
        # What is there goes on and can be watched and read, and nothing new is taken.
        told = await refused(wire.submit(prefill("late", "?")))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert "send the calls to another one" in told.words
        assert (await refused(wire.run(prefill("late", "?")).read())).reason == "DRAINING"
        assert (await wire.get("a")).state == pb.STATE_RUNNING
        await read(run, story=story)
        assert story.order == ["q", "a", "b"]
        for id, count in (("a", 24), ("b", 4)):
            message = story[id].message
            assert message.state == pb.STATE_DONE
            assert len(content(message)) == count
            assert story[id].text == message.text
    assert await exited(server, logged) == 0
    assert "draining: 2 unfinished calls" in server.final_log
    assert "unfinished: " not in server.final_log


async def test_the_second_signal_stops_at_once(two_servers: list[ServerProcess]) -> None:
    server = two_servers[1]
    logged = len(server.log)
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(server.target) as channel, Client(server.target) as client:
        wire = Wire(channel, "w")
        await wire.open()
        run = wire.run(decode("long", max_tokens=1500), decode("child", ["long"]))
        story = await read(run, until=lambda story: "long" in story.calls and bool(story["long"].deltas))
        watch = wire.watch(0)
        async with client.workflow(close=False) as wf:
            answer = wf.decode(max_tokens=1500, ignore_eos=True)
            await anext(aiter(answer))
            server.signal()
            await not_serving(channel)
            began = loop.time()
            server.signal()
            with pytest.raises(CallFailed) as caught:
                await answer
            await read(run, story=story)
            seen = await read_broken(watch)
        assert caught.value.reason == "DRAINING"
        assert len(caught.value.result.content) >= 1
        for id in ("long", "child"):
            message = story[id].message
            assert message.state == pb.STATE_FAILED
            assert message.error.reason in ("DRAINING", "PARENT_FAILED")
            assert "stopped before the call was done" in message.error.text
            assert seen[id] == message
    assert await exited(server, logged) == 0
    assert loop.time() - began < 10
    assert "calls unfinished: their watchers were told" in server.final_log


async def read_broken(stream: grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchResponse]) -> dict[str, pb.Message]:
    """The ends that a stream tells of before the server cuts it."""
    ends = {}
    code = grpc.StatusCode.OK
    try:
        async for response in stream:
            ends.update({event.id: event.failed for event in response.events if event.HasField("failed")})
    except grpc.aio.AioRpcError as error:
        code = error.code()
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return ends
