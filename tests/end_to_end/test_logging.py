"""A server whose log cannot be written serves on, says how many lines it has lost, and stops in time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from end_to_end.served import PATIENCE, ServerProcess, Wire
from support.secured import tiny_model

F_SETPIPE_SZ = 1031
FLAGS = ("--num-slots", "2000", "--log-level", "debug", "--log-format", "json", "--drain-timeout", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def free_port() -> int:
    """For metrics: a log that cannot be read does not say which port was taken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def serving(model: str, stderr: int, metrics_port: int) -> Iterator[ServerProcess]:
    server = ServerProcess("--model", model, *FLAGS, "--metrics-port", str(metrics_port), stderr=stderr)
    try:
        yield server.wait_ready()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
    finally:
        server.stop()


async def answers(server: ServerProcess, requests: int) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "w")
        for _ in range(requests):
            await wire.info()


def lost(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        (value,) = re.findall(r"^pavane_log_lines_lost_total (\S+)", answer.read().decode(), re.M)
    return float(value)


def test_a_full_disk(model: str, free_port: int) -> None:
    with Path("/dev/full").open("wb") as full, serving(model, full.fileno(), free_port) as server:
        before = lost(free_port)
        assert before > 0
        asyncio.run(answers(server, 20))
        assert lost(free_port) >= before + 20


def test_a_pipe_that_is_not_read_and_then_without_a_reader(model: str, free_port: int) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, 4096)
    with serving(model, write, free_port) as server:
        os.close(write)
        told = b""
        while b"metrics on" not in told:
            told += os.read(read, 1 << 16)
        lines: list[dict[str, Any]] = [json.loads(line) for line in told.splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        asyncio.run(answers(server, 100))  # several times what the pipe holds
        assert lost(free_port) == 0
        os.close(read)
        asyncio.run(answers(server, 20))
        assert lost(free_port) >= 100
