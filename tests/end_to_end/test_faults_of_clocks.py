"""A wall clock that is put forward and back by a day: what is timed here is timed by another clock."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from end_to_end.faults import Faulty, at_rest, clean, faulty, probe, stats, until
from end_to_end.served import LONG, PATIENCE, Wire, content, decode, prefill, read, refused, running, seconds

from pavane.protos.v1 import pavane_pb2 as pb

FAKETIME = next((Path(__file__).parents[2] / ".tools").glob("usr/lib/*/faketime/libfaketimeMT.so.1"), None)
TTL_S = 1.0

pytestmark = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not there: make tools")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server's wall clock is ahead by, in a file."""
    file = tmp_path_factory.mktemp("clock") / "clock"
    file.write_text("+0")
    return file


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory, clock: Path) -> Iterator[Faulty]:
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with faulty(tmp_path_factory.mktemp("clocks"), "--num-slots", "4096", **fake) as made:
        yield made
    clean(made.server.final_log)


@pytest.mark.parametrize(("name", "jump"), [("forward", "+1d"), ("back", "-1d")])
async def test_nothing_is_timed_by_the_wall_clock(jumping: Faulty, clock: Path, name: str, jump: str) -> None:
    """Deadlines, times to live, streams, receipts, metrics and probes, across the jump and after it."""
    async with grpc.aio.insecure_channel(jumping.target) as channel:
        wire, brief = Wire(channel, f"w{name}"), Wire(channel, f"brief{name}")
        await wire.open(ttl=seconds(60.0), deadline=seconds(60.0))
        await brief.open(ttl=seconds(TTL_S))
        await wire.submit(
            prefill("q", "Hello."),
            decode("a", ["q"], max_tokens=80, timeout=seconds(30.0)),
            decode("late", ["q"], max_tokens=LONG, timeout=seconds(1.5)),
        )
        began = time.monotonic()
        await running(wire, "a", 3)
        watch = wire.watch(0, ["a", "late"])  # with a deadline as well
        await brief.tell(decode("x"))
        put(clock, jump)
        assert wall_day(jumping) != time.strftime("%Y-%m-%d", time.gmtime()), "the server's clock has jumped"
        async with grpc.aio.insecure_channel(jumping.target) as fresh:
            assert (await stats(fresh)).uptime.seconds < PATIENCE
        for path in ("/livez", "/readyz"):
            assert probe(jumping.server, path)[0] == 200
        await stats(channel)
        assert (await brief.list()).messages, "its ttl is not over"
        goodbye, used = brief.watch(0), time.monotonic()
        await goodbye.initial_metadata()
        story = await read(watch)
        assert 1.0 < time.monotonic() - began < 5.0
        assert story["a"].message.state == pb.STATE_DONE
        assert len(content(story["a"].message)) == 80
        assert story["late"].message.error.reason == "DEADLINE_EXCEEDED"
        total = story["a"].message.receipt.total
        assert 0.5 < total.seconds + total.nanos / 1e9 < 10.0
        again = await wire.tell(decode("b", ["q"], timeout=seconds(30.0)))
        assert again["b"].message.state == pb.STATE_DONE
        ended = await read(goodbye)
        assert ended.calls["x"].message.state == pb.STATE_DONE
        assert TTL_S - 0.1 < time.monotonic() - used < TTL_S + 5.0
        assert (await refused(brief.list())).reason == "UNKNOWN_WORKFLOW"
        for histogram in ("time_to_first_token", "e2e_request_latency", "inter_token_latency", "step"):
            assert 0 <= summed(jumping, histogram) < PATIENCE
        await wire.close()
        await until(channel, at_rest, 5.0)


def put(clock: Path, jump: str) -> None:
    clock.write_text(jump)


def wall_day(jumping: Faulty) -> str:
    """As the server's HTTP port has it."""
    with urllib.request.urlopen(jumping.server.metrics_url, timeout=PATIENCE) as answer:
        return time.strftime("%Y-%m-%d", time.strptime(answer.headers["Date"], "%a, %d %b %Y %H:%M:%S GMT"))


def summed(jumping: Faulty, name: str) -> float:
    """Seconds of a histogram together."""
    with urllib.request.urlopen(jumping.server.metrics_url, timeout=PATIENCE) as answer:
        text = answer.read().decode()
    match = re.search(rf"^pavane_{name}_seconds_sum (\S+)$", text, re.MULTILINE)
    assert match is not None
    return float(match[1])
