"""Namespaces with bounds of their own, and deadlines that nobody expects to be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import grpc
import pytest
from end_to_end.served import Failure, Wire, decode, prefill, refused, running, seconds, stored

from pavane.protos.v1 import pavane_pb2 as pb

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def bounded(new_wire: Callable[..., Wire]) -> AsyncIterator[Wire]:
    wire = new_wire("bounded")
    await wire.open()
    yield wire
    await wire.close()


def limit(told: Failure, *words: str) -> None:
    assert (told.code, told.reason) == (FULL, "TENANT_LIMIT")
    assert told.error is not None
    assert 0 < told.error.retry_after.ToNanoseconds() <= 60 * 10**9
    assert "grpc-status-details-bin" in told.metadata
    for word in ("tenant 'bounded'", *words):
        assert word in told.words


async def test_a_tenant_has_so_many_workflows(bounded: Wire, new_wire: Callable[..., Wire]) -> None:
    second, third, other = new_wire("bounded"), new_wire("bounded"), new_wire("free")
    await second.open()
    limit(await refused(third.open()), "2 open workflows", "close some")
    assert (await second.open()).existed
    await other.open()
    await other.close()
    await second.close()
    await third.open()
    await third.close()


async def test_a_tenant_has_so_many_unfinished_calls(bounded: Wire) -> None:
    await bounded.submit(decode("a", max_tokens=60), decode("b", max_tokens=60), decode("c", max_tokens=60))
    limit(await refused(bounded.submit(decode("d"), decode("e"))), "3 unfinished calls of 4", "send later")
    await bounded.submit(decode("d"))
    told = await refused(bounded.submit(*(prefill(f"p{i}", "?") for i in range(5))))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    await bounded.cancel("a", "b", "c", "d")
    await bounded.tell(decode("e"))


async def test_a_tenant_stores_so_many_tokens(bounded: Wire) -> None:
    await bounded.tell(stored("a", 200))
    limit(await refused(bounded.submit(stored("b", 101))), "stores 200 tokens of 300", "these calls add 101", "release")
    await bounded.release("a")
    await bounded.tell(stored("b", 101))


async def test_a_tenant_runs_so_many_calls_at_once(bounded: Wire) -> None:
    story = await bounded.tell(*(decode(id, max_tokens=8) for id in "abc"))
    receipts = sorted((told.message.receipt for told in story.calls.values()), key=lambda r: r.total.ToNanoseconds())
    for before, after in pairwise(receipts):
        assert before.total.ToNanoseconds() <= after.blocked.ToNanoseconds() + after.queued.ToNanoseconds()


async def test_a_deadline_without_hope(bounded: Wire) -> None:
    await bounded.submit(decode("long", max_tokens=100), decode("a"), decode("b"))
    await running(bounded, "long")
    told = await refused(bounded.submit(decode("c", timeout=seconds(1e-6))))
    assert (told.code, told.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_HOPELESS")
    assert told.error is not None
    assert list(told.error.ids) == ["c"]
    assert told.error.retry_after.ToNanoseconds() > 0
    assert "give it more" in told.words
    await bounded.submit(decode("c", timeout=seconds(60)))
    await bounded.finish("long")
    assert (await bounded.get("c", wait=True)).state == pb.STATE_DONE
    await bounded.open(deadline=seconds(1e-6))
    told = await refused(bounded.submit(decode("d")))
    assert (told.code, told.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert "open it again with a later one" in told.words
