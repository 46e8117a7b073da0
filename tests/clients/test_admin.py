"""The client of AdminService: pages, values, and a server that does not serve it."""

import grpc
import pytest

from pavane.clients import Admin, FailedPrecondition, RetryPolicy, WorkflowClosed
from pavane.clients.admin_results import CacheEvent
from pavane.protos.v1 import admin_pb2_grpc as stubs
from tests.clients.fake_admin import FakeAdmin, workflow


@pytest.fixture
async def fake():
    servicer = FakeAdmin([workflow(i, running=i % 2, namespace=("acme", "")[i % 2]) for i in range(7)])
    server = grpc.aio.server()
    stubs.add_AdminServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(None)


@pytest.fixture
async def admin(fake):
    async with Admin(fake.target, retry=RetryPolicy(give_up_after=0.0)) as admin:
        yield admin


async def test_stats(admin):
    stats = await admin.stats()
    assert stats.uptime == 101.0
    assert (stats.calls.running, stats.calls.unfinished) == (5, 12)
    assert stats.slots == stats.slots_free + stats.slots_idle + stats.slots_locked == 1000
    assert [(t.name, t.capacity, t.used, t.bytes_per_token) for t in stats.tiers] == [("slots", 1000, 750, 23_040)]
    assert stats.namespaces == (("acme", 600), ("", 150))
    assert (stats.since_start.sampled, stats.since_start.ended.repositioned) == (110, 300)
    assert stats.recent.step_time == pytest.approx(1.2)
    assert (stats.step_median, stats.step_p95, stats.step_longest) == (0.02, 0.03, 0.05)
    assert (stats.max_running, stats.max_step_tokens, stats.max_unfinished, stats.max_model_len) == (
        64,
        512,
        16384,
        2048,
    )


async def test_workflows_page_by_page(admin, fake, monkeypatch):
    monkeypatch.setattr("pavane.clients.admin.PAGE", 3)
    found = [w async for w in admin.workflows()]
    assert [w.id for w in found] == [f"w{i:03}" for i in range(7)]
    assert [request.page_token for request in fake.requests] == ["", "w002", "w005"]
    assert (found[2].ttl_left, found[2].idle, found[2].calls.done) == (56.5, 3.5, 2)
    assert found[1].ttl_left is None
    assert [w.id async for w in admin.workflows("acme")] == ["w000", "w002", "w004", "w006"]
    assert [w.id async for w in admin.workflows("")] == ["w001", "w003", "w005"]
    assert [w.id async for w in admin.workflows(unfinished_only=True, limit=2)] == ["w001", "w003"]
    assert [w.id async for w in admin.workflows(limit=4)] == ["w000", "w001", "w002", "w003"]


async def test_messages_page_by_page(admin):
    messages = [m async for m in admin.messages("w", namespace="acme")]
    assert [m.id for m in messages] == ["m0", "m1", "m2", "m3"]
    assert (messages[0].state, messages[0].parents, messages[0].age) == ("done", ("p",), 1.0)
    assert (messages[0].tokens, messages[0].tokens_in_slots, messages[0].tokens_on_host) == (9, 6, 0)


async def test_watching(admin):
    first, second = [changes async for changes in admin.watch_cache()]
    assert (first.events, first.dropped) == ((), 0)
    assert second.events == (CacheEvent("evicted", "acme", "", "m", b"key", 7, 3, "host", ""),)
    assert second.dropped == 2


async def test_wrong_names_are_told_before_they_are_sent(admin, fake):
    with pytest.raises(ValueError, match="a workflow id must be"):
        [m async for m in admin.messages("not valid")]
    with pytest.raises(ValueError, match="a namespace has at most 64"):
        [w async for w in admin.workflows("not valid")]
    assert fake.requests == []


async def test_a_server_without_it():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Admin(f"127.0.0.1:{port}") as admin:
        with pytest.raises(FailedPrecondition, match="--admin on"):
            await admin.stats()
        with pytest.raises(FailedPrecondition, match="ADMIN_OFF"):
            [changes async for changes in admin.watch_cache()]
    with pytest.raises(WorkflowClosed, match="not open"):
        await admin.stats()
    await server.stop(None)
