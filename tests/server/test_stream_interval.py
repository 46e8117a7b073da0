"""--stream-interval on a server: with one that no test waits for, what must come at once comes, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from end_to_end.served import Story, Wire, read
from support.secured import FIRST, WORDS, FakeRunner, served, tiny_model

from pavane.clients import Client, SyncClient
from pavane.kernels.batch import Batch, StepResult
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.running import Server

LONG_MS = 60_000.0
COUNT, LONG = 20, 450


class SlowRunner(FakeRunner):
    def execute(self, batch: Batch) -> StepResult:
        time.sleep(0.004)
        return super().execute(batch)


def decode(id: str, count: int = COUNT) -> pb.Call:
    sampling = pb.Sampling(max_tokens=count, ignore_eos=True)
    return pb.Call(id=id, decode=pb.Decode(header=pb.Header(tokens=pb.Tokens(ids=[FIRST])), sampling=sampling))


def says_something(story: Story) -> bool:
    return "a" in story.calls and bool(story["a"].deltas)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with served(tiny_model(tmp_path), SlowRunner, stream_interval=LONG_MS) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        wire = Wire(channel, "w")
        await wire.open()
        yield wire


async def test_first_tokens_and_ends_come_at_once(wire: Wire) -> None:
    for stream, id in ((wire.run(decode("a")), "a"), (wire.watch(), "b")):
        if id == "b":
            await wire.submit(decode("b"))
        story = await read(stream, lambda story, id=id: bool(id in story.calls and story[id].ends))  # type: ignore[misc]
        told = story[id]
        assert 1 <= len(told.deltas) <= 2, "the first token, and the first release"
        assert told.message.state == pb.STATE_DONE
        generated = list(told.message.tokens[told.message.content_begin : told.message.content_end])
        assert len(generated) == COUNT
        assert told.tokens == generated[: len(told.tokens)]


async def test_who_asks_reads_what_streams_have_not_been_told(wire: Wire) -> None:
    first = await read(wire.run(decode("a", LONG), detach=True), says_something)
    await wire.submit(decode("b"))
    await wire.get("b", wait=True)
    assert len((await wire.get("a")).tokens) > COUNT
    again = await read(wire.watch(first.cursor, ["a"]), says_something)
    assert len(first["a"].tokens) < 5
    assert again["a"].deltas[0].first_token == len(first["a"].tokens)
    assert len(again["a"].tokens) > COUNT - 5


async def test_a_server_that_stops_tells_all(tmp_path: Path) -> None:
    async with served(tiny_model(tmp_path), SlowRunner, stream_interval=LONG_MS) as server:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        wire = Wire(channel, "w")
        await wire.open()
        await wire.submit(decode("a", LONG), decode("b"))
        reading = asyncio.create_task(read(wire.watch(0, ["a", "b"])))
        await wire.get("b", wait=True)
    message = (await asyncio.wait_for(reading, 10.0))["a"].message
    await channel.close()
    assert message.error.reason == "DRAINING"
    assert len(message.tokens) > COUNT - 5


async def test_clients_get_every_token(server: Server) -> None:
    target = f"127.0.0.1:{server.port}"

    def ask() -> tuple[list[int], list[int]]:
        with SyncClient(target) as client, client.workflow() as workflow:
            answer = workflow.decode(header_tokens=[FIRST], max_tokens=COUNT, ignore_eos=True)
            return [token for delta in answer for token in delta.tokens], list(answer.result().tokens)

    async with Client(target) as client, client.workflow() as workflow:
        answer = workflow.decode(header_tokens=[FIRST], max_tokens=COUNT, ignore_eos=True)
        theirs = [token async for delta in answer for token in delta.tokens], list((await answer).tokens)
    for tokens, whole in (theirs, await asyncio.to_thread(ask)):
        assert len(tokens) == COUNT
        assert all(FIRST <= token < FIRST + WORDS for token in tokens)
        assert tokens == whole[-COUNT:] or tokens == whole[1 : 1 + COUNT]


def test_an_interval_is_a_time() -> None:
    for wrong in (-1.0, float("nan"), 60_001.0):
        with pytest.raises(ConfigError, match=r"--stream-interval is .*; use 0 to 60000"):
            ServerConfig(stream_interval=wrong)
    assert ServerConfig().stream_interval == 0
