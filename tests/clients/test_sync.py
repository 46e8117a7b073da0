import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pavane.clients import CallCancelled, SyncClient
from tests.clients.conftest import QUICK

FAKE = """
import asyncio
from tests.clients.fake_server import FakeServer

async def main():
    server = FakeServer()
    server.hold["held"] = asyncio.Event()
    print(await server.start(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)
    print(len(server.submits), flush=True)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture
def process():
    # A process of its own: gRPC's asyncio has one poller per process, for one loop.
    with subprocess.Popen([sys.executable, "-c", FAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        p.target = p.stdout.readline().strip()
        yield p
        p.kill()


def test_the_same_verbs_without_a_loop(process):
    threads = threading.active_count()
    with SyncClient(process.target, retry=QUICK, linger=0.05) as client:
        assert client.server_info().model == "fake"
        assert client.tokenize(user="four") == (4,)
        assert client.detokenize([1, 2]) == "1 2"
        with client.workflow() as wf:
            task = wf.prefill(user="a")
            answer = wf.decode(task.exact(), prefix="So: ", max_tokens=3)
            assert "".join(delta.text for delta in answer) == "m1-0 m1-1 m1-2 "
            assert answer.result(timeout=5).text == "So: m1-0 m1-1 m1-2 "
            assert answer.done()
            assert [r.id for r in wf.list()] == ["m0", "m1"]
            held = wf.decode(id="held")
            with pytest.raises(TimeoutError):
                held.result(timeout=0.01)
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(held.result)
                assert wf.finish(answer) == ()
                assert not answer.finish()
                assert held.cancel() == ("held",)
                with pytest.raises(CallCancelled):
                    waiting.result()
            task.release()
        assert wf.total.generated == 5
    assert threading.active_count() <= threads + 1  # gRPC may keep one
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "2\n"


def test_an_error_in_the_block_still_closes(process):
    def block():
        with SyncClient(process.target) as client, client.workflow("w") as wf:
            wf.prefill(user="a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    with SyncClient(process.target) as client, client.workflow("other") as wf:
        assert wf.prefill(user="a").result(timeout=5).text == "a"


def test_samples_go_out_together(process):
    with SyncClient(process.target, linger=0.05) as client, client.workflow() as wf:
        samples = wf.decode_n(3, id="n", max_tokens=1)
        assert [sample.result(timeout=5).text for sample in samples] == ["n-0-0 ", "n-1-0 ", "n-2-0 "]
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "1\n"
