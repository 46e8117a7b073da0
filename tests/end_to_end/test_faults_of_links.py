"""Connections that go silent, break, or are slow: both sides find out, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from end_to_end.faults import Faulty, at_rest, clean, faulty, stats, unfinished, until
from end_to_end.served import LONG, Wire, content, decode, prefill, read, refused
from support.fault_proxy import FaultProxy, Way
from support.raw_grpc import RawRequest

from pavane.clients import Client, RetryPolicy
from pavane.protos.v1 import pavane_pb2 as pb

SILENCE_S = 0.7  # after which a connection is tried, and then that an answer may take; by both sides
ALIVE = [
    (option, round(SILENCE_S * 1000))
    for option in ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
]
FOUND_S = 8.0  # by when a dead connection is found on a busy machine: twice SILENCE_S on one that is not
QUICK = RetryPolicy(first=0.05, longest=0.3, give_up_after=30.0)


@pytest.fixture(scope="module")
def faulted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with faulty(tmp_path_factory.mktemp("links"), "--num-slots", "8192", KEEPALIVE_S=str(SILENCE_S)) as made:
        yield made
    clean(made.server.final_log)


@pytest.fixture
async def proxy(faulted: Faulty) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(faulted.target) as proxy:
        yield proxy


@pytest.fixture
async def straight(faulted: Faulty) -> AsyncIterator[grpc.aio.Channel]:
    """Not by the proxy. Nothing is left behind."""
    async with grpc.aio.insecure_channel(faulted.target) as channel:
        yield channel
        await until(channel, at_rest, FOUND_S)


async def test_silence_is_found_on_both_sides(proxy: FaultProxy, straight: grpc.aio.Channel) -> None:
    """A Run is cancelled on the server, and its caller told, though nobody has closed anything."""
    wire = Wire(straight, "silent")
    await wire.open()
    before = (await stats(straight)).calls.cancelled
    async with grpc.aio.insecure_channel(proxy.target, options=ALIVE) as channel:
        lost = Wire(channel, wire.id)
        run = lost.run(prefill("q", "Hello."), decode("a", ["q"], max_tokens=LONG))
        kept = lost.run(decode("kept", max_tokens=120), detach=True)
        await read(run, until=lambda story: "a" in story.calls and len(story["a"].tokens) > 3)
        await read(kept, until=lambda story: "kept" in story.calls and len(story["kept"].tokens) > 3)
        proxy.drop()
        began = time.monotonic()
        told = await refused(read(run))
        assert told.code is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - began < FOUND_S
        story = await wire.ended("a", "kept")
        assert time.monotonic() - began < FOUND_S
    assert story["a"].message.state == pb.STATE_CANCELLED
    assert story["kept"].message.state == pb.STATE_DONE
    assert (await stats(straight)).calls.cancelled == before + 1
    await wire.close()


async def test_who_answers_no_ping_is_hung_up_on(faulted: Faulty, straight: grpc.aio.Channel) -> None:
    """Though its kernel acknowledges every byte."""
    wire = Wire(straight, "mute")
    await wire.open()
    request = pb.RunRequest(submit=pb.SubmitRequest(workflow_id=wire.id, calls=[decode("a", max_tokens=LONG)]))
    mute = RawRequest(faulted.target, "/pavane.v1.WorkflowService/Run", request.SerializeToString())
    await until(straight, lambda told: unfinished(told) == 1)
    assert await asyncio.to_thread(mute.closed_by_server, FOUND_S)
    mute.close()
    assert (await wire.ended("a"))["a"].message.state == pb.STATE_CANCELLED
    await wire.close()


async def test_a_deadline_holds_where_nothing_passes(proxy: FaultProxy, straight: grpc.aio.Channel) -> None:
    """Whether the connection was there before, or comes about in the dark."""
    async with grpc.aio.insecure_channel(proxy.target) as old, grpc.aio.insecure_channel(proxy.target) as new:
        await stats(old)
        proxy.drop()
        began = time.monotonic()
        for channel in (old, new):
            request = pb.GetMessageRequest(workflow_id="w", id="a")
            told = await refused(Wire(channel, "w").rpc.GetMessage(request, timeout=0.5))
            assert told.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 1.0 + FOUND_S


async def interrupted(proxy: FaultProxy, fault: str) -> None:
    """What a network does to all connections, and then lets new ones pass."""
    links = list(proxy.links)
    if fault == "silence":
        proxy.drop()
        await asyncio.sleep(1.0)
        proxy.heal()
        return
    for link in links:
        getattr(link, fault)()


@pytest.mark.parametrize("fault", ["silence", "cut", "reset", "half_close"])
async def test_the_client_goes_on_from_where_it_was(proxy: FaultProxy, straight: grpc.aio.Channel, fault: str) -> None:
    """Every token comes once, and calls that are sent meanwhile are accepted once."""
    options = {"timeout": 2.0, "retry": QUICK, "options": [*ALIVE, ("grpc.min_reconnect_backoff_ms", 1000)]}
    before = await stats(straight)
    async with Client(proxy.target, **options) as client, client.workflow() as wf:
        question = wf.prefill(user="Count.")
        first = wf.decode(question, max_tokens=150, ignore_eos=True)
        tokens = []
        async for delta in first:
            tokens += delta.tokens
            if len(tokens) == len(delta.tokens):
                await interrupted(proxy, fault)
                second = wf.decode(first, max_tokens=5, ignore_eos=True)
        result = await first
        assert tuple(tokens) == result.content
        assert len(tokens) == 150
        assert len((await second).content) == 5
    after = await until(straight, lambda told: unfinished(told) == 0)
    assert after.calls.done - before.calls.done == 3
    assert (after.calls.failed, after.calls.cancelled) == (before.calls.failed, before.calls.cancelled)


async def test_a_slow_line_is_no_dead_one(proxy: FaultProxy, straight: grpc.aio.Channel) -> None:
    """The first request comes through as well, though its connection takes a while to come about."""
    proxy.up, proxy.down = Way(delay_s=0.15), Way(delay_s=0.15)
    async with Client(proxy.target) as client:
        assert (await client.server_info()).vocab_size > 0  # is asked once, and fails if that does
        async with client.workflow() as wf:
            answer = await wf.decode(wf.prefill(user="Hello."), max_tokens=20, ignore_eos=True)
            assert len(answer.content) == 20


async def test_a_line_that_trickles(proxy: FaultProxy, straight: grpc.aio.Channel) -> None:
    """Frames in pieces of 7 bytes, in both directions."""
    proxy.up, proxy.down = Way(trickle=7, delay_s=0.0005), Way(trickle=7, delay_s=0.0005)
    wire = Wire(straight, "trickle")
    await wire.open()
    async with grpc.aio.insecure_channel(proxy.target) as channel:
        story = await Wire(channel, wire.id).tell(prefill("q", "Hello."), decode("a", ["q"], max_tokens=30))
    assert content(story["a"].message) == story["a"].tokens
    assert len(story["a"].tokens) == 30
    await wire.close()
