import pytest

from pavane.clients import Client, RetryPolicy
from tests.clients.fake_server import FakeServer

QUICK = RetryPolicy(first=0.001, longest=0.01, give_up_after=2.0)


@pytest.fixture
async def fake():
    server = FakeServer()
    server.target = await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(fake):
    async with Client(fake.target, retry=QUICK) as client:
        yield client
