"""Many clients at once that vanish, stall, or take all connections: the server and the others are none the worse."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import psutil
import pytest
from end_to_end.faults import Faulty, at_rest, clean, faulty, probe, stats, until
from end_to_end.served import LONG, Wire, decode, frames, read, refused, running, stored
from support.raw_grpc import RawRequest

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.server.service import FRAME_BYTES

RUN, WATCH = "/pavane.v1.WorkflowService/Run", "/pavane.v1.WorkflowService/Watch"
CROWD, DETACHED, SUBMITTED = 1000, 100, 100
WORKFLOWS = 20
STREAMS = CROWD + 100
OF_ITS_OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection; else channels to one target share it
SETTLED_S = 20.0
FLAGS = (
    *("--max-num-seqs", "1200", "--max-num-batched-tokens", "4096", "--num-slots", "262144"),
    *("--scheduling-policy", "fcfs", "--max-streams", str(STREAMS), "--max-unfinished-calls", "4000"),
)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("crowd")
    tenants = folder / "tenants.json"
    tenants.write_text(json.dumps({"tenants": {"narrow": {"max_streams": 3}}}))
    with faulty(folder, *FLAGS, "--tenants", str(tenants)) as made:
        yield made
    clean(made.server.final_log)


@pytest.fixture
async def channel(crowded: Faulty) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(crowded.target) as channel:
        yield channel


def run_request(wire: Wire, *calls: pb.Call, detach: bool = False) -> bytes:
    submit = pb.SubmitRequest(workflow_id=wire.id, calls=calls)
    return pb.RunRequest(submit=submit, detach=detach).SerializeToString()


async def few_files(process: psutil.Process, at_most: int) -> None:
    deadline = time.monotonic() + SETTLED_S
    while (count := process.num_fds()) > at_most:
        assert time.monotonic() < deadline, f"{count} files are open, and were {at_most}"
        await asyncio.sleep(0.05)


async def test_a_thousand_clients_that_vanish(crowded: Faulty, channel: grpc.aio.Channel) -> None:
    """In mid-stream and without a goodbye: what nobody wants any more is cancelled, the rest goes on to its end."""
    process = psutil.Process(crowded.server.process.pid)
    wires = [Wire(channel, f"crowd{i}") for i in range(WORKFLOWS)]
    await asyncio.gather(*(wire.open() for wire in wires))
    files, before = process.num_fds(), (await stats(channel)).calls
    crowded.fault.order("pace 0.25")  # so that nothing ends before all have begun
    for number, wire in enumerate(wires):
        ids = range(number, SUBMITTED, WORKFLOWS)
        await wire.submit(*(decode(f"own{i}", max_tokens=60) for i in ids))
    crowd = []
    try:
        for i in range(CROWD):
            wire, detach = wires[i % WORKFLOWS], i >= CROWD - DETACHED
            call = decode(f"theirs{i}", max_tokens=60 if detach else LONG)
            crowd.append(RawRequest(crowded.target, RUN, run_request(wire, call, detach=detach)))
        await until(channel, lambda told: told.calls.running == CROWD + SUBMITTED, SETTLED_S)
        assert process.num_fds() >= files + CROWD
    finally:
        for request in crowd:
            request.reset()
    crowded.fault.order("pace 0.01")
    told = await until(channel, at_rest, SETTLED_S)
    assert told.calls.cancelled - before.cancelled == CROWD - DETACHED
    assert told.calls.done - before.done == DETACHED + SUBMITTED
    await few_files(process, files)
    # Their streams are free as well: more than would be left if they were not.
    story = await asyncio.gather(*(read(wires[0].watch(0, ["own0"])) for _ in range(STREAMS - CROWD + 50)))
    assert all(one["own0"].message.state == pb.STATE_DONE for one in story)
    await asyncio.gather(*(wire.close() for wire in wires))


async def test_readers_that_stall(crowded: Faulty, channel: grpc.aio.Channel) -> None:
    """They hold a frame or two each, however much there is for them, and slow nobody down."""
    readers = 40
    process = psutil.Process(crowded.server.process.pid)
    wire = Wire(channel, "stalled")
    await wire.open()
    big = [f"big{i}" for i in range(80)]
    for i in range(0, len(big), 10):
        await wire.submit(*(stored(id, 8000, token=300) for id in big[i : i + 10]))
    size = sum([frame.ByteSize() async for frame in frames(wire.watch(0, big))])
    assert size > 3 * FRAME_BYTES
    await wire.submit(decode("brisk", max_tokens=LONG))
    await running(wire, "brisk", 3)
    before = process.memory_info().rss
    request = pb.WatchRequest(workflow_id=wire.id).SerializeToString()
    stalled = [RawRequest(crowded.target, WATCH, request) for _ in range(readers)]
    gaps, last = [], time.monotonic()
    brisk = wire.watch(0, ["brisk"])
    async for _ in frames(brisk):
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        if len(gaps) == 100:
            break
    brisk.cancel()
    grown = process.memory_info().rss - before
    print(f"{size / 1e6:.1f} MB for each of {readers}: {grown / 1e6:.1f} MB more, longest gap {max(gaps):.3f} s")
    for one in stalled:
        one.close()
    assert grown < readers * 6 * FRAME_BYTES < readers * size / 4
    assert sorted(gaps)[len(gaps) // 2] < 0.2
    await wire.cancel("brisk")
    await until(channel, at_rest, SETTLED_S)
    await wire.close()


async def test_the_deadline_of_a_reader_that_stalls(crowded: Faulty) -> None:
    """Its stream ends on the server too, and gives its place to others."""
    narrow = [("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(crowded.target, options=narrow) as channel:
        wire = Wire(channel, "deadline", "narrow")
        await wire.open()
        await wire.submit(*(stored(f"big{i}", 8000) for i in range(20)))
        request = pb.WatchRequest(workflow_id=wire.id)
        metadata = (("pavane-namespace", "narrow"),)
        stalled = [wire.rpc.Watch(request, timeout=1.5, metadata=metadata) for _ in range(3)]
        for stream in stalled:
            await stream.initial_metadata()
        began = time.monotonic()
        assert (await refused(wire.get("big0"))).reason == "TOO_MANY_STREAMS"
        assert (await refused(read(stalled[0]))).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 5.0
        while True:
            try:
                await wire.get("big0")
            except grpc.aio.AioRpcError:
                assert time.monotonic() - began < SETTLED_S
                await asyncio.sleep(0.05)
            else:
                break
        await wire.close()


async def test_memory_of_what_nobody_watches(crowded: Faulty, channel: grpc.aio.Channel) -> None:
    """A workflow that goes on and on, and releases what it does not need, does not grow."""
    process = psutil.Process(crowded.server.process.pid)
    wire = Wire(channel, "unwatched")
    await wire.open()
    grown = []
    for turn in range(4):
        before = process.memory_info().rss
        ids = [f"a{turn}-{i}" for i in range(300)]
        await wire.submit(*(decode(id, max_tokens=12) for id in ids))
        early = ids[::2]
        await wire.release(*early)  # while they run
        await until(channel, at_rest)
        await wire.release(*ids[1::2])
        grown.append(process.memory_info().rss - before)
    print(f"RSS by turn: {[f'{one / 1e6:.2f} MB' for one in grown]}")
    assert sum(grown[1:]) < 4e6
    assert not (await wire.list()).messages
    await wire.close()


async def test_more_connections_than_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those beyond are closed as they come; who is in stays in, probes are answered, and later there is room again."""
    with faulty(tmp_path_factory.mktemp("files"), NOFILE="200") as made:
        async with grpc.aio.insecure_channel(made.target) as channel:
            wire = Wire(channel, "w")
            await wire.open()
            await wire.submit(decode("a", max_tokens=LONG))
            request = pb.WatchRequest(workflow_id=wire.id).SerializeToString()
            crowd = [RawRequest(made.target, WATCH, request) for _ in range(300)]
            began = time.monotonic()
            async with grpc.aio.insecure_channel(made.target, options=OF_ITS_OWN) as late:
                told = await refused(stats(late))
                assert told.code is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began < 5.0
            await running(wire, "a", 3)
            for path in ("/livez", "/readyz"):
                assert probe(made.server, path)[0] == 200
            assert psutil.Process(made.server.process.pid).num_fds() < 200
            for one in crowd:
                one.close()
            async with grpc.aio.insecure_channel(made.target, options=OF_ITS_OWN) as later:
                await asyncio.wait_for(room(later), SETTLED_S)
            await wire.close()
    clean(made.server.final_log)


async def room(channel: grpc.aio.Channel) -> None:
    """Returns when the server takes the connection."""
    while True:
        try:
            await stats(channel)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.05)
        else:
            return
