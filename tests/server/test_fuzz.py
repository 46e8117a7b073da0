"""Whatever is sent, the server answers it with a status that says whose fault it is, and goes on.

PAVANE_FUZZ_MESSAGES=100000 PAVANE_FUZZ_SEED=7 python -m pytest tests/server/test_fuzz.py
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
import random
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest
from support.fuzz import WORKFLOWS, Fuzzer
from support.rpcs import RPCS, Rpc
from support.secured import served, tiny_model

from pavane.cache.audit import audit
from pavane.protos.v1 import pavane_pb2 as pb
from pavane.protos.v1 import pavane_pb2_grpc as rpc
from pavane.server.running import Server

COUNT = int(os.environ.get("PAVANE_FUZZ_MESSAGES", "5000"))
SEED = int(os.environ.get("PAVANE_FUZZ_SEED", "1"))
AT_ONCE = 24
LONGEST_S = 0.2  # streams and waits that are given up: their calls go on
GROWTH = 64 * 2**20  # bytes that the process may grow by after the first messages, however many there are
SWOLLEN = 256 * 2**20  # bytes that zip to 1 MB
OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS)


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def check_alive(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert not server._engine_task.done()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def send(channel: grpc.aio.Channel, one: Rpc, data: bytes, namespace: str) -> grpc.StatusCode:
    code, details = grpc.StatusCode.OK, ""
    try:
        await one.call(channel, data, (("pavane-namespace", namespace),), LONGEST_S)
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), error.details() or ""
    assert code not in OURS, (one.name, namespace, data, details)
    return code


async def test_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    fuzzer = Fuzzer(SEED)
    answers: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    left, sent_first = COUNT, min(1500, COUNT // 2)

    async def work(channel: grpc.aio.Channel) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            one = RPCS["WorkflowService/OpenWorkflow"] if left % 10 == 0 else fuzzer.random.choice(list(RPCS.values()))
            code = await send(channel, one, fuzzer.data(one.descriptor.input_type), fuzzer.random.choice(["", "a"]))
            answers[code.name] += 1
            reached[one.name] += code is grpc.StatusCode.OK

    async with (
        served(tiny_model(tmp_path), num_slots=2048, max_num_seqs=16, host_cache_gb=0.0) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        total, left = left, sent_first
        await asyncio.gather(*(work(channel) for _ in range(AT_ONCE)))
        before, left = memory(), total - sent_first
        await asyncio.gather(*(work(channel) for _ in range(AT_ONCE)))
        grown = memory() - before
        check_alive(server, caplog)
        stub = rpc.WorkflowServiceStub(channel)
        for namespace in ("", "a"):
            for workflow in WORKFLOWS:
                with suppress(grpc.aio.AioRpcError):
                    await stub.CloseWorkflow(
                        pb.CloseWorkflowRequest(workflow_id=workflow), metadata=(("pavane-namespace", namespace),)
                    )
        for _ in range(200):
            if server.engine.scheduler.graph.unfinished == 0:
                break
            await asyncio.sleep(0.02)
        scheduler = server.engine.scheduler
        assert scheduler.graph.unfinished == 0
        audit(scheduler.cache)
        print(dict(answers), f"grown by {grown / 2**20:.1f} MiB")
    assert answers.total() == COUNT
    assert grown < GROWTH
    # It came far: each kind of answer is there, and each RPC was answered well.
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= answers.keys()
    assert all(reached[name] for name in RPCS), reached


# ---- frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field without indexing or Huffman code (RFC 7541, 6.2.2)."""
    return b"\x00" + b"".join(bytes([len(word)]) + word.encode() for word in (name, value))


def headers(path: str, *more: tuple[str, str]) -> bytes:
    fields = (
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"), *more,
    )  # fmt: skip
    return b"".join(literal(*field) for field in fields)


def grpc_message(data: bytes, length: int | None = None, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


def connection(draw: random.Random, fuzzer: Fuzzer) -> bytes:
    """What one connection sends."""
    noise = draw.randbytes(draw.randrange(1, 400))
    start = PREFACE + frame(SETTINGS, 0, 0)
    one = draw.choice(list(RPCS.values()))
    data = fuzzer.data(one.descriptor.input_type)
    opened = frame(HEADERS, END_HEADERS, 1, headers(one.path))
    kind = draw.randrange(10)
    if kind == 0:
        return noise
    if kind == 1:
        return PREFACE + noise
    if kind == 2:
        frames = (
            frame(draw.randrange(12), draw.randrange(256), draw.randrange(4), draw.randbytes(draw.randrange(40)))
            for _ in range(20)
        )
        return start + b"".join(frames)
    if kind == 3:  # a message that is shorter than it says
        return start + opened + frame(DATA, END_STREAM, 1, grpc_message(data, len(data) + draw.randrange(1, 99)))
    if kind == 4:  # ... by far
        return start + opened + frame(DATA, 0, 1, grpc_message(data, 2**32 - 1))
    if kind == 5:  # longer than it says, or two of them
        return start + opened + frame(DATA, END_STREAM, 1, grpc_message(data, len(data) // 2) + grpc_message(data))
    if kind == 6:
        opened = frame(HEADERS, END_HEADERS, 1, headers(one.path, ("grpc-encoding", "gzip")))
        return start + opened + frame(DATA, END_STREAM, 1, grpc_message(noise, compressed=1))
    if kind == 7:
        opens = (frame(HEADERS, END_HEADERS, 2 * i + 1, headers(one.path)) for i in range(100))
        return start + b"".join(o + frame(RST, 0, 2 * i + 1, b"\0\0\0\x08") for i, o in enumerate(opens))
    if kind == 8:
        path = draw.choice(["", "/", "//", "/pavane.v1.WorkflowService/", one.path + "x", "/" + "a" * 200])
        return start + frame(HEADERS, END_HEADERS | END_STREAM, 1, headers(path, ("authorization", "Bearer x" * 9)))
    parts = draw.randrange(200)
    return start + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, literal("a", "b")) * parts + noise


async def talk(port: int, data: bytes, patience: float = 0.02) -> bytes:
    """What is answered until the server ends the connection or says nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(ConnectionError, TimeoutError):
        writer.write(data)
        await writer.drain()
        while piece := await asyncio.wait_for(reader.read(65_536), patience):
            answer += piece
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def test_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw, fuzzer = random.Random(SEED), Fuzzer(SEED + 1)
    async with served(tiny_model(tmp_path)) as server:
        for _ in range(max(20, COUNT // 200)):
            await asyncio.gather(*(talk(server.port, connection(draw, fuzzer)) for _ in range(16)))
        check_alive(server, caplog)
        # The connections are gone, and what was opened on them; a client that behaves is served as ever.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await rpc.ModelServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=20)


async def test_pings_without_pause_end_the_connection(tmp_path: Path) -> None:
    async with served(tiny_model(tmp_path)) as server:
        answer = await talk(server.port, PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"12345678") * 20, 0.5)
    assert b"too_many_pings" in answer  # GOAWAY with ENHANCE_YOUR_CALM


async def test_what_swells_when_it_is_unpacked_is_refused(tmp_path: Path) -> None:
    """No further than a message may be large."""
    bomb = gzip.compress(bytes(SWOLLEN), compresslevel=1)
    body = struct.pack(">BI", 1, len(bomb)) + bomb
    data = b"".join(frame(DATA, 0, 1, body[at : at + 16_000]) for at in range(0, len(body), 16_000))
    async with served(tiny_model(tmp_path)) as server:
        before = memory()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        path = headers(RPCS["ModelService/Tokenize"].path, ("grpc-encoding", "gzip"))
        writer.write(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, path))
        await reader.read(9)
        writer.write(frame(SETTINGS, 1, 0) + data + frame(DATA, END_STREAM, 1))  # acknowledged: its window is ours now
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            while piece := await asyncio.wait_for(reader.read(65_536), 1.0):
                answer += piece
        grown = memory() - before
        writer.close()
        await writer.wait_closed()
    assert b"grpc-status\x018" in answer  # RESOURCE_EXHAUSTED
    assert grown < SWOLLEN / 2
