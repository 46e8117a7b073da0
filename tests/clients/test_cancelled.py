"""Opening and closing that are cancelled on their way: nothing stays open on the server."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from pavane.clients import SyncClient, completion
from tests.clients.conftest import QUICK

SLOW_S = 0.3


async def cancelled(task, after=SLOW_S / 3):
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


def is_closed(fake, name):
    return fake.workflows["", name].closed


@pytest.mark.parametrize("close", [True, False])
async def test_what_a_cancelled_opening_has_opened_is_closed(client, fake, close):
    fake.slow["w"] = SLOW_S
    await cancelled(asyncio.create_task(client.workflow("w", close=close).__aenter__()))
    assert is_closed(fake, "w") is close


async def test_a_cancelled_closing_still_closes(client, fake):
    fake.hold["m0"] = asyncio.Event()
    wf = client.workflow("w")
    await wf.__aenter__()
    answer = wf.decode()
    await anext(aiter(answer))
    fake.slow["w"] = SLOW_S
    await cancelled(asyncio.create_task(wf.close()))
    assert is_closed(fake, "w")
    assert answer.done()
    assert wf.total.generated == 2


async def test_a_server_that_does_not_answer_is_not_waited_for(client, fake, monkeypatch):
    monkeypatch.setattr(completion, "PARTING_S", 0.05)
    fake.slow["w"] = 10
    begun = asyncio.get_running_loop().time()
    error = await cancelled(asyncio.create_task(client.workflow("w").__aenter__()), after=0.1)
    assert asyncio.get_running_loop().time() - begun < 5
    assert "may not have heard" in error.__notes__[0]


async def test_a_second_cancellation_is_obeyed_at_once(client, fake):
    fake.slow["w"] = 10
    task = asyncio.create_task(client.workflow("w").__aenter__())
    await asyncio.sleep(0.1)
    task.cancel()
    begun = asyncio.get_running_loop().time()
    await cancelled(task, after=0.05)
    assert asyncio.get_running_loop().time() - begun < completion.PARTING_S / 2


FAKE = """
import asyncio
from tests.clients.fake_server import FakeServer

async def main():
    server = FakeServer()
    server.slow["w"] = 0.5
    print(await server.start(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)
    print(server.workflows["", "w"].closed, flush=True)
    await server.stop()

asyncio.run(main())
"""


def test_an_interrupted_opening_without_a_loop_leaves_nothing_open():
    def block():
        with SyncClient(process.stdout.readline().strip(), retry=QUICK) as client:
            timer.start()
            client.workflow("w").__enter__()

    interrupt = (threading.main_thread().ident, signal.SIGINT)
    timer = threading.Timer(0.2, signal.pthread_kill, interrupt)
    # A process of its own: gRPC's asyncio has one poller per process, for one loop.
    command = [sys.executable, "-c", FAKE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with pytest.raises(KeyboardInterrupt):
            block()
        assert process.communicate("\n", timeout=10)[0] == "True\n"
