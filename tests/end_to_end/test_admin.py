"""AdminService on a server that works: its numbers add up, and its lists come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from end_to_end.served import PATIENCE, ServerProcess, Wire, decode, failure, prefill, refused, stored

from pavane.protos.v1 import admin_pb2 as admin
from pavane.protos.v1 import admin_pb2_grpc as admin_rpc
from pavane.protos.v1 import pavane_pb2 as pb

Opened = Callable[..., Awaitable[Wire]]
CLASSES = ("reused_in_place", "repositioned", "encoded", "generated", "trailer", "reencoded")


class AdminWire:
    """The raw stub."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.rpc: Any = admin_rpc.AdminServiceStub(channel)

    async def stats(self) -> admin.GetStatsResponse:
        answer: admin.GetStatsResponse = await self.rpc.GetStats(admin.GetStatsRequest(), timeout=PATIENCE)
        return answer

    def workflows(self, **fields: Any) -> Any:
        return self.rpc.ListWorkflows(admin.ListWorkflowsRequest(**fields), timeout=PATIENCE)

    def messages(self, wire: Wire, **fields: Any) -> Any:
        fields.setdefault("namespace", wire.namespace)
        request = admin.AdminServiceListMessagesRequest(workflow_id=wire.id, **fields)
        return self.rpc.ListMessages(request, timeout=PATIENCE)

    async def workflow(self, wire: Wire) -> admin.WorkflowStats:
        (found,) = [w for w in (await self.workflows(page_size=1000)).workflows if w.id == wire.id]
        return found

    async def message(self, wire: Wire, id: str) -> admin.MessageStats:
        (found,) = [m for m in (await self.messages(wire)).messages if m.id == id]
        return found


@pytest.fixture
async def ops(channel: grpc.aio.Channel) -> AdminWire:
    return AdminWire(channel)


@pytest.fixture
async def opened(new_wire: Callable[..., Wire]) -> AsyncIterator[Opened]:
    """Opens workflows, which end with the test."""
    wires: list[Wire] = []

    async def make(namespace: str = "", **fields: Any) -> Wire:
        wire = new_wire(namespace)
        wires.append(wire)
        await wire.open(**fields)
        return wire

    yield make
    for wire in wires:
        await wire.close()


def check(stats: admin.GetStatsResponse) -> None:
    """What holds at any time."""
    slots = stats.slots
    assert slots.free + slots.idle + slots.locked == slots.total == 4096
    assert sum(n.slots for n in slots.namespaces) == slots.idle + slots.locked
    assert sorted((n.slots for n in slots.namespaces), reverse=True) == [n.slots for n in slots.namespaces]
    (tier,) = slots.tiers
    assert (tier.tier, tier.capacity, tier.used) == (admin.TIER_SLOTS, 4096, slots.idle + slots.locked)
    assert tier.bytes_per_token == 2 * 30 * 3 * 64 * 2  # K and V, layers, KV heads, head dimension, bfloat16
    for name in CLASSES:
        assert getattr(stats.recent.ended, name) <= getattr(stats.since_start.ended, name)
    assert stats.recent.steps <= stats.since_start.steps
    assert stats.recent_window.ToTimedelta() <= stats.uptime.ToTimedelta()
    times = stats.step_times
    assert times.median.ToTimedelta() <= times.p95.ToTimedelta() <= times.longest.ToTimedelta()
    assert stats.since_start.forward_time.ToTimedelta() <= stats.since_start.step_time.ToTimedelta()


async def test_counts_grow_by_the_receipts(ops: AdminWire, wire: Wire) -> None:
    before = await ops.stats()
    told = await wire.tell(prefill("q", "Who counts?"), *(decode(f"a{i}", ["q"], max_tokens=3) for i in range(2)))
    after = await ops.stats()
    check(after)
    for name in CLASSES:
        grown = getattr(after.since_start.ended, name) - getattr(before.since_start.ended, name)
        assert grown == sum(getattr(told[i].message.receipt, name) for i in ("q", "a0", "a1")), name
    assert after.since_start.sampled - before.since_start.sampled == 6
    assert after.since_start.steps - before.since_start.steps >= 3
    assert after.calls.done - before.calls.done == 3
    assert after.since_start.rows > before.since_start.rows
    assert after.recent.ended.generated >= 6
    assert after.limits.unfinished == 200
    assert after.limits.model_len > 1000
    assert (await ops.workflow(wire)).ended.generated == 6


async def test_stats_under_load(ops: AdminWire, opened: Opened) -> None:
    """Numbers add up at random moments of two tenants' work, with more asked for than the slots hold."""
    wires = [await opened(namespace) for namespace in ("tenant-a", "tenant-b", "")]
    for wire in wires:
        await wire.submit(
            *(prefill(f"p{i}", f"{wire.id}: number {i}. " * 60) for i in range(4)),
            *(decode(f"d{i}", [f"p{i}", f"p{(i + 1) % 4}"], max_tokens=6) for i in range(4)),
        )
    seen = set()
    done = 0
    while done < len(wires):
        stats = await ops.stats()
        check(stats)
        seen |= {n.namespace for n in stats.slots.namespaces}
        done = 0
        for wire in wires:
            entry = await ops.workflow(wire)
            counts = entry.calls
            total = sum(getattr(counts, field.name) for field in counts.DESCRIPTOR.fields)
            assert total == 8
            assert entry.tokens_in_slots <= entry.tokens
            assert entry.HasField("ttl_left") == (counts.done == 8)
            assert counts.failed == 0
            done += counts.done == 8
        await asyncio.sleep(0.02)
    assert seen >= {"tenant-a", "tenant-b", ""}


async def test_where_messages_lie(ops: AdminWire, wire: Wire) -> None:
    await wire.tell(prefill("q", "Where am I?"), decode("a", ["q"], max_tokens=3), stored("lazy", 9))
    copy = prefill("copied", parents=["a"], tokens=[1])
    copy.prefill.copy.of = "q"
    await wire.tell(copy)
    await wire.submit(decode("long", ["q"], max_tokens=2000), decode("waits", ["long", "q"]))
    page = await ops.messages(wire)
    assert [m.id for m in page.messages] == ["q", "a", "lazy", "copied", "long", "waits"]
    q, a, lazy, copied, _, waits = page.messages
    assert (q.state, q.decode, q.readers_left, list(q.parents)) == (pb.STATE_DONE, False, 2, [])
    assert q.tokens == q.tokens_in_slots == len((await wire.get("q")).tokens)
    assert q.bytes == q.tokens * 2 * 30 * 3 * 64 * 2
    assert (a.decode, list(a.parents), a.tokens_in_slots) == (True, ["q"], a.tokens)
    assert (lazy.tokens, lazy.tokens_in_slots, lazy.bytes) == (9, 0, 0)
    assert (copied.copy_of, copied.tokens) == ("q", q.tokens)
    assert (waits.state, list(waits.parents), waits.tokens_in_slots) == (pb.STATE_BLOCKED, ["long", "q"], 0)
    entry = await ops.workflow(wire)
    assert (entry.calls.blocked, entry.calls.done) == (1, 4)
    await wire.cancel("long", descendants=True)
    assert (await ops.message(wire, "q")).readers_left == 0
    await wire.release("lazy")
    assert "lazy" not in [m.id for m in (await ops.messages(wire)).messages]


async def test_budget_and_life_of_a_workflow(ops: AdminWire, opened: Opened) -> None:
    wire = await opened("tenant-c", budget_tokens=500)
    told = await wire.tell(prefill("q", "Spend something."), decode("a", ["q"], max_tokens=3))
    entry = await ops.workflow(wire)
    work = sum(
        m.receipt.encoded + m.receipt.generated + m.receipt.trailer for m in (told["q"].message, told["a"].message)
    )
    assert (entry.namespace, entry.budget_tokens, entry.spent_tokens) == ("tenant-c", 500, work)
    left, idle = entry.ttl_left.ToTimedelta().total_seconds(), entry.idle.ToTimedelta().total_seconds()
    # each is cut to microseconds
    assert left + idle == pytest.approx(entry.ttl.ToTimedelta().total_seconds(), abs=3e-6)
    assert 0 <= idle < PATIENCE
    assert 0 < entry.tokens_in_slots <= entry.slots
    again = await ops.workflow(wire)
    assert again.idle.ToTimedelta() > entry.idle.ToTimedelta(), "to be looked at is no use"


async def pages(ask: Callable[..., Any], items: str, **fields: Any) -> AsyncIterator[list[Any]]:
    token = ""
    while True:
        page = await ask(page_token=token, **fields)
        yield list(getattr(page, items))
        token = page.next_page_token
        if not token:
            return


async def test_pages_of_messages(ops: AdminWire, wire: Wire) -> None:
    await wire.tell(*(stored(f"m{i}", 1) for i in range(7)))
    found = [[m.id for m in page] async for page in pages(lambda **f: ops.messages(wire, **f), "messages", page_size=3)]
    assert found == [["m0", "m1", "m2"], ["m3", "m4", "m5"], ["m6"]]
    exact = [len(page) async for page in pages(lambda **f: ops.messages(wire, **f), "messages", page_size=7)]
    assert exact == [7], "no empty page behind the last one"
    first = await ops.messages(wire, page_size=3)
    await wire.release("m2", "m3")
    rest = await ops.messages(wire, page_size=3, page_token=first.next_page_token)
    assert [m.id for m in rest.messages] == ["m4", "m5", "m6"]


async def test_pages_of_workflows(ops: AdminWire, opened: Opened) -> None:
    wires = [await opened(f"paged-{i % 2}") for i in range(5)]
    ours = [wire.id for wire in wires]
    found = [[(w.namespace, w.id) for w in page] async for page in pages(ops.workflows, "workflows", page_size=2)]
    keys = [key for page in found for key in page]
    assert keys == sorted(keys)
    assert all(len(page) == 2 for page in found[:-1])
    assert {key[1] for key in keys} >= set(ours)
    one = [w.id async for page in pages(ops.workflows, "workflows", page_size=2, namespace="paged-0") for w in page]
    assert one == sorted(ours[::2])
    await wires[1].submit(decode("long", max_tokens=2000))
    busy = await ops.workflows(unfinished_only=True)
    assert [w.id for w in busy.workflows] == [wires[1].id]
    first = await ops.workflows(page_size=2, namespace="paged-0")
    named = next(wire for wire in wires if wire.id == first.workflows[-1].id)
    await named.close()
    rest = await ops.workflows(page_size=2, namespace="paged-0", page_token=first.next_page_token)
    assert [w.id for w in rest.workflows] == sorted(ours[::2])[2:]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"page_token": "nonsense"}, "page_token 'nonsense' is not one that ListWorkflows returned"),
        ({"page_token": "a/b/c"}, "page_token 'a/b/c' is not one"),
        ({"page_token": "a/b", "namespace": "c"}, "page_token 'a/b' is not one"),
        ({"namespace": "not valid"}, "namespace 'not valid' is not valid"),
    ],
)
async def test_wrong_lists_of_workflows(ops: AdminWire, fields: dict[str, str], words: str) -> None:
    told = await refused(ops.workflows(**fields))
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in told.words


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        (
            {"page_token": "-1"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "page_token '-1' is not one that ListMessages returned",
        ),
        ({"page_token": "²"}, grpc.StatusCode.INVALID_ARGUMENT, "page_token '²' is not one"),
        ({"namespace": "other"}, grpc.StatusCode.NOT_FOUND, "no workflow 'wf-"),
        ({"namespace": "a b"}, grpc.StatusCode.INVALID_ARGUMENT, "namespace 'a b' is not valid"),
    ],
)
async def test_wrong_lists_of_messages(
    ops: AdminWire, wire: Wire, fields: dict[str, str], code: grpc.StatusCode, words: str
) -> None:
    told = await refused(ops.messages(wire, **fields))
    assert told.code == code
    assert words in told.words


async def test_no_such_workflow(ops: AdminWire, new_wire: Callable[..., Wire]) -> None:
    told = await refused(ops.messages(new_wire()))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_WORKFLOW")
    unnamed = ops.rpc.ListMessages(admin.AdminServiceListMessagesRequest(), timeout=PATIENCE)
    assert (await refused(unnamed)).reason == "INVALID_ID"


async def test_watching_the_cache(ops: AdminWire, opened: Opened) -> None:
    wire = await opened("watched")
    await wire.tell(prefill("before", tokens=range(100, 130)))
    stream = ops.rpc.WatchCache(admin.WatchCacheRequest(), timeout=PATIENCE)
    assert not (await stream.read()).events
    told = await wire.tell(prefill("q", tokens=range(200, 220)), decode("a", ["q"], max_tokens=5))
    messages = {i: told[i].message for i in ("q", "a")}
    seen: dict[str, list[admin.CacheEvent]] = {}
    while sum(e.tokens for e in seen.get("a", ())) < len(messages["a"].tokens):
        for event in (await stream.read()).events:
            if event.namespace != "watched":
                continue  # what the tests before have left may have to go
            assert event.kind == admin.CACHE_EVENT_KIND_STORED
            assert (event.namespace, event.workflow_id) == ("watched", wire.id)
            assert len(event.content_key) == 20
            seen.setdefault(event.message_id, []).append(event)
    assert set(seen) == {"q", "a"}
    assert sum(e.tokens for e in seen["q"]) == len(messages["q"].tokens)
    # More than all slots, of another tenant: everything idle goes.
    crowd = await opened("crowd")
    await crowd.submit(*(prefill(f"c{i}", tokens=[30 + i] * 1300) for i in range(4)))
    gone: dict[str, int] = {}
    lengths = {"before": len((await wire.get("before")).tokens), "q": len(messages["q"].tokens)}
    while any(gone.get(name, 0) < length for name, length in lengths.items()):
        frame = await stream.read()
        assert frame.dropped == 0
        for event in frame.events:
            if event.kind == admin.CACHE_EVENT_KIND_EVICTED and event.workflow_id == wire.id:
                gone[event.message_id] = gone.get(event.message_id, 0) + event.tokens
    assert {name: gone[name] for name in lengths} == lengths
    assert (await ops.message(wire, "q")).tokens_in_slots == 0
    stream.cancel()


async def test_off() -> None:
    """Where it is off it is not there, nor named."""
    process = ServerProcess("--admin", "off", "--load-format", "dummy", "--num-slots", "64")
    try:
        process.wait_ready()
        async with grpc.aio.insecure_channel(process.target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AdminWire(channel).stats()
            assert failure(caught.value).code == grpc.StatusCode.UNIMPLEMENTED
    finally:
        assert process.stop() == 0
