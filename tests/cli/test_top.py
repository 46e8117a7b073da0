"""pavane top: what it shows, and the terminal that it leaves behind."""

import asyncio
import fcntl
import io
import json
import os
import pty
import signal
import struct
import sys
import termios
from dataclasses import replace

import grpc
import pytest
from rich.console import Console

from pavane.cli.top import as_json, look
from pavane.cli.top_view import render, shares, short
from pavane.clients import Admin, ServerInfo
from pavane.clients.admin_results import Tier
from pavane.protos.v1 import admin_pb2_grpc, pavane_pb2_grpc
from pavane.protos.v1 import pavane_pb2 as pb
from tests.clients.fake_admin import FakeAdmin, workflow

INFO = ServerInfo("Tiny", "0.1.0", 2048, 97, 1000, None, (), (), "chatml", "")


class FakeModel(pavane_pb2_grpc.ModelServiceServicer):
    async def GetServerInfo(self, request, context):  # noqa: N802
        return pb.GetServerInfoResponse(model="Tiny", version="0.1.0")


@pytest.fixture
async def fake():
    servicer = FakeAdmin([workflow(i, running=i % 3) for i in range(40)])
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server)
    pavane_pb2_grpc.add_ModelServiceServicer_to_server(FakeModel(), server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(None)


@pytest.fixture
async def frame(fake):
    async with Admin(fake.target) as admin:
        first = await look(admin, INFO, None)
        return await look(admin, INFO, first)


def drawn(frame, width, height):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render(frame, console, height), end="")
    return console.export_text().splitlines()


def test_the_picture(frame):
    lines = drawn(frame, 80, 24)
    assert len(lines) == 24
    assert max(map(len, lines)) == 80
    text = "\n".join(lines)
    assert "up 1m42 · Tiny" in lines[0]
    assert "running 5/64  queued 3  blocked 4   done 1.2k  failed 0  cancelled 0" in lines[1]
    assert "10/s of 20.0 ms with 12.0 rows · p95 30.0 ms, longest 50 ms" in text
    assert "110/s generated · 120/s encoded · 220 generated since start" in text
    assert "████▓▓▓▓▓▓▓▓▒▒▒▒ 25% locked · 50% idle · 25% free of 1.0k, 23MB" in text
    assert "reuse 60s ██████████▓▓▓▓▒▒ 60% in place · 30% moved · 10% encoded · 60 again" in text
    assert lines[13:16] == [
        "acme     w002              2     0     0     2   1.5k    700     31    50k    3s",
        "acme     w005              2     0     0     2   1.5k    700     31    50k    6s",
        "acme     w008              2     0     0     2   1.5k    700     31    50k    9s",
    ]


@pytest.mark.parametrize(("width", "height"), [(60, 5), (80, 24), (80, 14), (200, 60), (33, 24)])
def test_it_fits(frame, width, height):
    lines = drawn(frame, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_all_of_it_without_a_terminal(frame):
    assert sum("  w0" in line or " w0" in line for line in drawn(frame, 80, None)) == 40


def test_a_tier_below_the_slots(frame):
    host = Tier("host", 4096, 1024, 23_040, kept_tokens=3000, fetched_tokens=1250, failed_moves=1)
    stats = replace(frame.stats, tiers=(*frame.stats.tiers, host))
    workflows = (replace(frame.workflows[0], tokens_on_host=640), *frame.workflows[1:])
    lines = drawn(replace(frame, stats=stats, workflows=workflows), 80, 24)
    assert max(map(len, lines)) == 80
    assert "host      ████▓▓▓▓▓▓▓▓▓▓▓▓ 25% used · 75% free of 4.1k, 94MB · 3.0k in, 1.2k out" in lines
    head, first = lines[13:15]
    assert head[head.index("HOST") - 1 : head.index("HOST") + 4] == " HOST"
    assert first[: head.index("HOST") + 4].endswith("1.5k    700   640")


def test_an_empty_server(frame):
    none = replace(frame.stats, namespaces=(), slots_free=1000, slots_idle=0, slots_locked=0, workflows=0)
    text = "\n".join(drawn(replace(frame, stats=none, workflows=()), 80, 24))
    assert "no workflow is open" in text
    assert "0% locked · 0% idle · 100% free" in text


def test_a_server_that_does_not_answer(frame):
    assert drawn(replace(frame, trouble="it is gone"), 80, 24)[0] == "no answer, numbers are old: it is gone"


def test_a_server_that_was_started_again(frame):
    """Rates are those of its last minute, not of the difference to one before."""
    text = "\n".join(drawn(replace(frame, earlier=None), 80, 24))
    assert "11/s generated · 12/s encoded" in text


async def test_order_of_workflows(fake):
    fake.workflows = [workflow(1), workflow(2, running=1), workflow(0), workflow(3, running=2)]
    fake.workflows.sort(key=lambda w: w.id)
    async with Admin(fake.target) as admin:
        assert [w.id for w in (await look(admin, INFO, None)).workflows] == ["w003", "w002", "w000", "w001"]


def test_json(frame):
    told = json.loads(as_json(frame))
    assert told["server"] == {"target": frame.target, "model": "Tiny", "version": "0.1.0"}
    assert told["stats"]["calls"]["running"] == 5
    assert len(told["workflows"]) == 40


def test_shares_and_short_numbers():
    assert shares([1, 1, 1], 20) == [7, 6, 7]
    assert shares([0, 5, 0], 20) == [0, 20, 0]
    assert shares([0, 0], 20) == [0, 0]
    assert [short(n) for n in (0, 999, 1000, 9_949, 9_951, 999_499, 999_501, 2_500_000)] == [
        *("0", "999", "1.0k", "9.9k", "10k", "999k", "1.0M", "2.5M")
    ]


async def pavane(*words):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pavane.cli.main", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def test_once(fake):
    status, out, err = await pavane("top", "--once", "--server", fake.target)
    assert (status, err) == (0, "")
    assert out.startswith("pavane top")
    assert "\x1b" not in out
    status, out, _ = await pavane("top", "--once", "--json", "--server", fake.target)
    assert json.loads(out)["stats"]["slots"] == 1000


async def test_wrong_uses(fake):
    status, _, err = await pavane("top", "--server", fake.target, "--interval", "0")
    assert (status, err) == (2, "pavane top: --interval is 0; use 0.1 to 3600 seconds\n")
    status, _, err = await pavane("top", "--server", "127.0.0.1:1")
    assert status == 2
    assert "no server answers at 127.0.0.1:1" in err


@pytest.mark.parametrize(("key", "status"), [(b"q", 0), (b"\x03", 130)])
async def test_a_terminal_is_left_as_it_was(fake, key, status):
    """The other screen, the cursor and the keyboard are given back; a new size is drawn without waiting."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pavane.cli.main", "top", "--server", fake.target, "--interval", "3600"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""},
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)),
    )
    seen = bytearray()
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(ours, lambda: (seen.extend(os.read(ours, 65_536)), arrived.set()))

    async def until(words):
        async with asyncio.timeout(30):
            while words not in seen:
                arrived.clear()
                await arrived.wait()

    await until(b"q quits")
    assert b"\x1b[?1049h" in seen
    assert not termios.tcgetattr(theirs)[3] & termios.ICANON
    seen.clear()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 70, 0, 0))
    process.send_signal(signal.SIGWINCH)  # which the kernel sends to the terminal's group
    await until(b"q quits")
    os.write(ours, key)
    assert await asyncio.wait_for(process.wait(), 30) == status
    await until(b"\x1b[?1049l")
    assert b"\x1b[?25h" in seen
    assert termios.tcgetattr(theirs) == before
    loop.remove_reader(ours)
    os.close(ours)
    os.close(theirs)
