"""Servers that tests break on purpose, and what is asked of one afterwards."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import grpc
from end_to_end.served import PATIENCE, ServerProcess
from support.tiny_folder import write_tiny

from pavane.protos.v1 import admin_pb2
from pavane.protos.v1 import admin_pb2_grpc as admin_rpc

START = (str(Path(__file__).with_name("faulty_server.py")),)
Stats = admin_pb2.GetStatsResponse


@dataclass(frozen=True)
class Fault:
    """The file that tells the runner what to do in its next step."""

    file: Path

    def order(self, what: str) -> None:
        self.file.write_text(what)

    async def begun(self) -> None:
        await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@dataclass(frozen=True)
class Faulty:
    server: ServerProcess
    fault: Fault

    @property
    def target(self) -> str:
        return self.server.target


@contextmanager
def faulty(folder: Path, *flags: str, **variables: str) -> Iterator[Faulty]:
    """`faulty_server.py` with these flags and variables, of a model without weights. Its log must be clean at the end,
    but for what tests order."""
    fault = Fault(folder / "fault")
    model = ("--model", str(write_tiny(folder)), "--load-format", "dummy", "--log-level", "info")
    server = ServerProcess(*model, *flags, start=START, FAULT=str(fault.file), **variables)
    try:
        yield Faulty(server.wait_ready(), fault)
    finally:
        server.stop()


def clean(log: str) -> None:
    """No request and no task has met a defect of the server."""
    assert "Traceback" not in log, log
    assert " ERROR " not in log, log


def probe(server: ServerProcess, path: str) -> tuple[int, str]:
    """Status and text."""
    url = server.metrics_url.replace("/metrics", path)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode().strip()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()


async def stats(channel: grpc.aio.Channel) -> Stats:
    answer: Stats = await admin_rpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=PATIENCE)
    return answer


async def until(channel: grpc.aio.Channel, true: Callable[[Stats], bool], within: float = PATIENCE) -> Stats:
    """What the server says of itself as soon as that is `true`."""
    deadline = time.monotonic() + within
    while not true(last := await stats(channel)):
        assert time.monotonic() < deadline, last
        await asyncio.sleep(0.05)
    return last


def unfinished(told: Stats) -> int:
    return told.calls.blocked + told.calls.queued + told.calls.running


def at_rest(told: Stats) -> bool:
    """Nothing runs and nothing is held."""
    return unfinished(told) == 0 and told.slots.locked == 0
