import subprocess
import sys

import pytest

SERVE = """
import asyncio
from tests.clients.fake_server import FakeServer

async def main():
    server = FakeServer()
    server.fail = {"bad"}
    print("listening on", await server.start(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def serve():
    """The command line of a fake server."""
    return [sys.executable, "-c", SERVE]


@pytest.fixture(scope="session")
def target(serve):
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[-1]
        process.kill()
