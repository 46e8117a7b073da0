"""A runner that raises, is late, or hangs: what callers are told, and what the probes say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from end_to_end.faults import Fault, Faulty, at_rest, faulty, probe, until
from end_to_end.served import LONG, PATIENCE, ServerProcess, Wire, content, decode, prefill, read, running
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.server.running import RUNNER_HANGS, RUNNER_LOST

FLAGS = ("--num-slots", "4096", "--step-timeout", "2")


@pytest.fixture(scope="module")
def faulted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """One server for all faults that it survives."""
    with faulty(tmp_path_factory.mktemp("faulty"), *FLAGS) as made:
        yield made


@pytest.fixture
def server(faulted: Faulty) -> ServerProcess:
    return faulted.server


@pytest.fixture
def fault(faulted: Faulty) -> Fault:
    return faulted.fault


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


async def test_logits_that_are_no_numbers_fail_their_calls_only(server: ServerProcess, fault: Fault) -> None:
    """Whatever the calls ask for. One that may try again does so."""
    broken = {
        "plain": {},
        "edited": {"repetition_penalty": 1.2, "presence_penalty": 0.5},
        "constrained": {"regex": "[^x]+"},
    }
    async with grpc.aio.insecure_channel(server.target) as channel:
        wire = Wire(channel, "numbers")
        await wire.open()
        calls = [decode(id, ["q"], max_tokens=LONG, seed=i, **asked) for i, (id, asked) in enumerate(broken.items(), 1)]
        calls.append(decode("again", ["q"], max_tokens=60, seed=4, max_attempts=2))
        calls.append(decode("well", ["q"], max_tokens=60, seed=5))
        calls.append(decode("child", ["plain"]))
        await wire.submit(prefill("q", "Hello."), *calls)
        for id in (*broken, "again"):
            await running(wire, id, 3)
        fault.order("nan 1 2 3 4")
        story = await wire.ended("q", *(call.id for call in calls))
        for id in broken:
            message = story[id].message
            assert message.state == pb.STATE_FAILED
            assert message.error.reason == "RUNNER_FAILED"
            assert f"call '{id}': the model's logits after" in message.error.text
            assert "are not numbers" in message.error.text
            assert len(content(message)) >= 3
        assert story["child"].message.error.reason == "PARENT_FAILED"
        for id, attempts in (("again", 2), ("well", 1)):
            assert story[id].message.state == pb.STATE_DONE
            assert story[id].message.attempts == attempts
            assert len(content(story[id].message)) == 60
        await until(channel, at_rest, 5.0)
        assert probe(server, "/readyz") == (200, "ready")
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


async def test_a_runner_that_hangs_ends_the_server(tmp_path: Path) -> None:
    """Everybody is told, health is, and the process exits with a status of its own."""
    with faulty(tmp_path, *FLAGS) as hanging:
        await hang(hanging.server, hanging.fault)


async def hang(server: ServerProcess, fault: Fault) -> None:
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


async def test_a_runner_that_is_lost_ends_the_server(tmp_path: Path) -> None:
    """As one that hangs does, at once and with another status."""
    with faulty(tmp_path, *FLAGS) as losing:
        async with grpc.aio.insecure_channel(losing.server.target) as channel:
            wire = Wire(channel, "w")
            await wire.open()
            run = wire.run(prefill("q", "Hello."), decode("a", ["q"], max_tokens=LONG), decode("b", ["a"]))
            story = await read(run, until=lambda story: "a" in story.calls and bool(story["a"].deltas))
            losing.fault.order("lose")
            await read(run, story=story)
            for id in ("a", "b"):
                assert story[id].message.state == pb.STATE_FAILED
                assert story[id].message.error.reason == "RUNNER_FAILED"
                assert "the card does not answer any more" in story[id].message.error.text
        assert await asyncio.to_thread(losing.server.process.wait, PATIENCE) == RUNNER_LOST


def test_probes_and_other_paths(server: ServerProcess) -> None:
    assert probe(server, "/livez") == (200, "alive")
    assert probe(server, "/readyz") == (200, "ready")
    status, text = probe(server, "/metrics")
    assert status == 200
    assert "pavane_num_requests_running 0.0" in text
    assert probe(server, "/other") == (404, "there are /metrics, /livez, /readyz")
