"""A runner that raises, is late, or hangs: what callers are told, and what the probes say."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import grpc
import pytest
from end_to_end.served import LONG, PATIENCE, ServerProcess, Wire, decode, prefill, read, running
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.server.running import RUNNER_HANGS

FAULTY = (str(Path(__file__).with_name("faulty_server.py")),)


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


@pytest.fixture
def fault(tmp_path: Path) -> Fault:
    return Fault(tmp_path / "fault")


@pytest.fixture
def server(fault: Fault) -> Iterator[ServerProcess]:
    flags = ("--dtype", "bfloat16", "--num-slots", "4096", "--step-timeout", "2", "--log-level", "info")
    server = ServerProcess(*flags, start=FAULTY, FAULT=str(fault.file))
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def probe(server: ServerProcess, path: str) -> tuple[int, str]:
    """Status and text."""
    url = server.metrics_url.replace("/metrics", path)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode().strip()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()


async def test_a_step_that_raises_fails_its_calls_only(server: ServerProcess, fault: Fault) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "w")
        await wire.open()
        await wire.submit(prefill("q", "Hello."), decode("a", ["q"], max_tokens=LONG))
        await running(wire, "a", 3)
        fault.order("raise")
        story = await wire.ended("a")
        assert story["a"].message.state == pb.STATE_FAILED
        assert story["a"].message.error.reason == "RUNNER_FAILED"
        assert "fallen off the bus" in story["a"].message.error.text
        assert probe(server, "/readyz") == (200, "ready")
        again = await wire.tell(decode("b", ["q"]))
        assert again["b"].message.state == pb.STATE_DONE
        await wire.close()


async def test_a_late_step_is_no_fault(server: ServerProcess, fault: Fault) -> None:
    """While the runner computes for long, requests and probes are answered, and deadlines hold."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "w")
        await wire.open()
        await wire.submit(prefill("q", "Hello."), decode("a", ["q"], max_tokens=40))
        await running(wire, "a", 3)
        fault.order("late")
        await fault.begun()
        began = time.monotonic()
        assert (await wire.get("a")).state == pb.STATE_RUNNING
        assert probe(server, "/livez") == (200, "alive")
        assert time.monotonic() - began < 0.5
        story = await wire.ended("a")
        assert story["a"].message.state == pb.STATE_DONE
        await wire.close()


async def test_a_runner_that_hangs_ends_the_server(server: ServerProcess, fault: Fault) -> None:
    """Everybody is told, health is, and the process exits with a status of its own."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "w")
        await wire.open()
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        run = wire.run(prefill("q", "Hello."), decode("a", ["q"], max_tokens=LONG), decode("b", ["a"]))
        story = await read(run, until=lambda story: "a" in story.calls and bool(story["a"].deltas))
        fault.order("hang")
        began = time.monotonic()
        await read(run, story=story)
        assert 1.5 < time.monotonic() - began < 10
        for id in ("a", "b"):
            assert story[id].message.state == pb.STATE_FAILED
            assert story[id].message.error.reason == "RUNNER_FAILED"
            assert "the model runner hangs" in story[id].message.error.text
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
    assert await asyncio.to_thread(server.process.wait, PATIENCE) == RUNNER_HANGS
    assert "a step has taken more than 2 s" in server.log


def test_probes_and_other_paths(server: ServerProcess) -> None:
    assert probe(server, "/livez") == (200, "alive")
    assert probe(server, "/readyz") == (200, "ready")
    status, text = probe(server, "/metrics")
    assert status == 200
    assert "pavane_num_requests_running 0.0" in text
    assert probe(server, "/other") == (404, "there are /metrics, /livez, /readyz")
