"""Graphs of calls: who waits for whom, and every way in which a call ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from end_to_end.served import (
    LONG,
    Wire,
    content,
    copied,
    decode,
    prefill,
    read,
    refs,
    refused,
    running,
    seconds,
    stored,
)

from pavane.protos.v1 import pavane_pb2 as pb

# ---- promises


@pytest.mark.parametrize("order", ["parents first", "children first", "one by one", "after their parents"])
async def test_a_child_may_come_at_any_time(wire: Wire, order: str) -> None:
    calls = [
        prefill("q", "Name a river."),
        decode("a", ["q"], "One:"),
        decode("b", ["q", "a"], "Two:"),
        decode("c", ["b", "q"], "Three:"),
    ]
    if order == "parents first":
        await wire.submit(*calls)
    elif order == "children first":
        await wire.submit(*reversed(calls))
    elif order == "one by one":  # while the parents run
        for call in calls:
            await wire.submit(call)
    else:
        for call in calls:
            await wire.submit(call)
            await wire.get(call.id, wait=True)
    story = await wire.ended("q", "a", "b", "c")
    assert [told.message.state for told in story.calls.values()] == [pb.STATE_DONE] * 4
    assert story.order == ["q", "a", "b", "c"]
    lengths = {id: len(told.message.tokens) for id, told in story.calls.items()}
    q, a, b = lengths["q"], lengths["a"], lengths["b"]
    uses = {id: [(u.id, u.placed_at, u.encoded_at) for u in story[id].message.receipt.parents] for id in "abc"}
    assert uses["a"] == [("q", 0, 0)]
    assert uses["b"] == [("q", 0, 0), ("a", q, q)]
    assert uses["c"] == [("b", 0, q + a), ("q", b, 0)]
    blocked = story["c"].message.receipt.blocked.ToNanoseconds()
    assert (blocked == 0) == (order == "after their parents")


async def test_the_same_answer_however_a_graph_arrives(wire: Wire, new_wire: Callable[..., Wire]) -> None:
    """Greedy answers depend neither on the order of submission nor on the workflow."""
    calls = [prefill("q", "Name a river in France."), decode("a", ["q"], max_tokens=6), decode("b", ["a", "q"])]
    texts = []
    await wire.tell(calls[0])  # so that all of them find it encoded, and their steps are of the same shapes
    for order in (calls, calls[::-1]):
        wire = new_wire()
        await wire.open()
        story = await wire.tell(*order)
        texts.append({id: list(told.message.tokens) for id, told in story.calls.items()})
        await wire.close()
    assert texts[0] == texts[1]


async def test_the_same_bytes_are_the_same_call(wire: Wire) -> None:
    call = decode("a", temperature=1.0)
    first = await wire.submit(call)
    message = await wire.get("a", wait=True)
    again = await wire.submit(call, call)
    assert again.cursor <= first.cursor
    story = await wire.tell(call)  # tells of the end once more
    assert story["a"].message == message
    told = await refused(wire.submit(prefill("fine", "?"), copied(call, start=3)))
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert "choose a new one" in told.words
    assert list(told.error.ids) == ["a"] if told.error else False
    gone = await refused(wire.rpc.GetMessage(pb.GetMessageRequest(workflow_id=wire.id, id="fine")))
    assert gone.reason == "UNKNOWN_MESSAGE"  # all or nothing
    assert await wire.get("a") == message


async def test_open_twice(wire: Wire) -> None:
    await wire.tell(prefill("q", "?"))
    answer = await wire.open()
    assert answer.existed
    assert answer.cursor > 0
    assert (await wire.get("q")).state == pb.STATE_DONE


# ---- cancelling


async def test_cancel_without_descendants_fails_the_children(wire: Wire) -> None:
    await wire.submit(decode("a", max_tokens=LONG), decode("b", ["a"]), decode("c", ["b"]), decode("d", max_tokens=6))
    await running(wire, "a")
    assert list((await wire.cancel("a")).cancelled) == ["a"]
    story = await wire.ended(*"abcd")
    a, b, c, d = (story[id].message for id in "abcd")
    assert (a.state, a.error.reason) == (pb.STATE_CANCELLED, "CANCELLED")
    assert (b.state, b.error.reason, list(b.error.ids)) == (pb.STATE_FAILED, "PARENT_CANCELLED", ["a"])
    assert (c.state, c.error.reason, list(c.error.ids)) == (pb.STATE_FAILED, "PARENT_FAILED", ["b"])
    assert d.state == pb.STATE_DONE
    # What there is of it stays readable, and is no parent.
    assert content(await wire.get("a")) == content(a)
    assert len(content(a)) >= 1
    late = (await wire.tell(decode("e", ["a"])))["e"].message
    assert (late.state, late.error.reason) == (pb.STATE_FAILED, "PARENT_CANCELLED")
    assert "'a'" in late.error.text
    assert list((await wire.cancel("a", "d", descendants=True)).cancelled) == []


async def test_cancel_with_descendants(wire: Wire) -> None:
    await wire.submit(
        decode("a", max_tokens=LONG), decode("b", ["a"]), decode("c", ["b"]), pb.Call(
            id="k", prefill=pb.Prefill(copy=pb.Copy(of="a"))
        ), decode("d", max_tokens=4),
    )  # fmt: skip
    await running(wire, "a")
    assert set((await wire.cancel("a", descendants=True)).cancelled) == {"a", "b", "c", "k"}
    story = await wire.ended(*"abckd")
    assert {id: told.message.state for id, told in story.calls.items()} == {
        **dict.fromkeys("abck", pb.STATE_CANCELLED),
        "d": pb.STATE_DONE,
    }


# ---- time, budget, ttl


async def test_a_timeout_covers_the_wait_for_parents(wire: Wire) -> None:
    await wire.submit(
        decode("long", max_tokens=LONG),
        decode("child", ["long"], timeout=seconds(0.3)),
        decode("slow", max_tokens=LONG, timeout=seconds(0.5)),
        decode("quick", max_tokens=2, timeout=seconds(50)),
    )
    story = await wire.ended("child", "slow", "quick")
    child, slow = story["child"].message, story["slow"].message
    assert (child.state, child.error.reason) == (pb.STATE_FAILED, "DEADLINE_EXCEEDED")
    assert "waiting for parents" in child.error.text
    assert "0.3 s" in child.error.text
    assert content(child) == []
    assert 0.3 <= child.receipt.total.ToNanoseconds() / 1e9 < 5
    assert (slow.state, slow.error.reason) == (pb.STATE_FAILED, "DEADLINE_EXCEEDED")
    assert "running" in slow.error.text
    assert len(content(slow)) > 0
    assert story["quick"].message.state == pb.STATE_DONE
    assert (await wire.get("long")).state == pb.STATE_RUNNING


async def test_a_deadline_is_that_of_all_calls_of_a_workflow(wire: Wire) -> None:
    await wire.submit(decode("early", max_tokens=LONG), decode("child", ["early"]))
    await wire.open(deadline=seconds(0.4))
    await wire.submit(decode("late", max_tokens=LONG, timeout=seconds(50)), decode("soon", timeout=seconds(0.1)))
    story = await wire.ended("early", "child", "late")
    for id in ("early", "late"):
        message = story[id].message
        assert (message.state, message.error.reason) == (pb.STATE_FAILED, "DEADLINE_EXCEEDED")
        assert "the deadline of its workflow" in message.error.text
    assert story["child"].message.state == pb.STATE_FAILED
    assert 0.3 < story["late"].message.receipt.total.ToNanoseconds() / 1e9 < 5


async def test_a_budget_ends_all_calls_and_can_be_raised(wire: Wire) -> None:
    await wire.open(budget_tokens=30)
    story = await wire.tell(prefill("q", "Hello."), decode("a", ["q"], max_tokens=LONG), decode("b", ["a"]))
    assert story["q"].message.state == pb.STATE_DONE
    a = story["a"].message
    assert (a.state, a.error.reason) == (pb.STATE_FAILED, "BUDGET_EXHAUSTED")
    assert "30 tokens" in a.error.text
    assert "budget_tokens" in a.error.text
    spent = story["q"].message.receipt.encoded + a.receipt.encoded + a.receipt.generated
    assert 30 <= spent <= 31  # the last token is not encoded any more
    assert story["b"].message.state == pb.STATE_FAILED
    told = await refused(wire.submit(prefill("r", "Hi.")))
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BUDGET_EXHAUSTED")
    assert "larger budget_tokens" in told.words
    await wire.open(budget_tokens=1000)
    assert (await wire.tell(decode("c", ["q"])))["c"].message.state == pb.STATE_DONE


async def test_an_unused_workflow_expires(new_wire: Callable[..., Wire]) -> None:
    wire = new_wire()
    await wire.open(ttl=seconds(0.05))
    await wire.submit(prefill("q", "Hello."), decode("a", ["q"]))
    story = await read(wire.watch())  # ends when the workflow does
    assert story["a"].message.state == pb.STATE_DONE  # it outlives the ttl as long as it has calls
    told = await refused(wire.submit(prefill("r", "Hi.")))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_WORKFLOW")
    assert "OpenWorkflow" in told.words
    assert (await wire.close()).total.generated == 4
    assert not (await wire.open()).existed
    total = (await wire.close()).total
    assert (total.encoded, total.generated, total.total.ToNanoseconds()) == (0, 0, 0)


# ---- releasing and closing


async def test_release_disturbs_no_reader(wire: Wire) -> None:
    await wire.submit(
        prefill("q", "Hello."), decode("a", ["q"], max_tokens=6), decode("b", ["a", "q"]), prefill("z", "Unused.")
    )
    await running(wire, "a")
    await wire.release("q", "a", "z")
    message = await wire.get("b", wait=True)
    assert message.state == pb.STATE_DONE
    assert [use.id for use in message.receipt.parents] == ["a", "q"]
    for id in ("q", "z", "a"):
        told = await refused(wire.rpc.GetMessage(pb.GetMessageRequest(workflow_id=wire.id, id=id)))
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MESSAGE")
        assert "released" in told.words
    told = await refused(wire.submit(decode("c", ["q"])))
    assert told.reason == "UNKNOWN_MESSAGE"
    await wire.release("q")  # again
    assert [m.id for m in (await wire.list()).messages] == ["b"]


async def test_a_released_id_does_not_come_back(wire: Wire) -> None:
    """Its bytes may be sent again, as always; whoever then asks for the message is told that it is gone."""
    call = prefill("q", "Hello.")
    await wire.tell(call)
    await wire.release("q")
    await wire.submit(call)
    for stream in (wire.watch(0, ["q"]), wire.run(call)):
        async with asyncio.timeout(3):
            told = await refused(stream.read())
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MESSAGE")


async def test_a_ttl_releases_what_has_ended(wire: Wire) -> None:
    short = pb.Retention(ttl=seconds(0.3), readers=3)
    await wire.tell(prefill("q", "Hello.", retention=short))
    assert (await wire.get("q")).state == pb.STATE_DONE
    await wire.submit(decode("a", ["q"], max_tokens=60))
    told = None
    async with asyncio.timeout(5):
        while told is None:
            await asyncio.sleep(0.05)
            if [m.id for m in (await wire.list()).messages] == ["a"]:
                told = await refused(wire.submit(decode("b", ["q"])))
    assert told.reason == "UNKNOWN_MESSAGE"
    assert "released" in told.words
    assert (await wire.get("a", wait=True)).state == pb.STATE_DONE


async def test_last_use_releases_the_parent(wire: Wire) -> None:
    last = pb.ParentRef(id="q", last_use=True)
    story = await wire.tell(prefill("q", "Hello."), decode("a", ["q"]), decode("b", [last, "a"], max_tokens=8))
    assert story["a"].message.state == story["b"].message.state == pb.STATE_DONE
    told = await refused(wire.rpc.GetMessage(pb.GetMessageRequest(workflow_id=wire.id, id="q")))
    assert "released" in told.words
    assert (await wire.get("a")).state == pb.STATE_DONE


async def test_closing_ends_everything_and_can_be_repeated(wire: Wire) -> None:
    story = await wire.tell(prefill("q", "Hello."), decode("a", ["q"]))
    await wire.submit(decode("long", ["q"], max_tokens=LONG), decode("child", ["long"]))
    await running(wire, "long")
    watch = wire.watch(0, no_deltas=True)
    seen = await read(watch, until=lambda seen: "long" in seen.calls)
    first = await wire.close()
    assert await wire.close() == first
    rest = await read(watch, story=seen)
    ended = [rest[id].message for id in ("long", "child")]
    assert [(m.state, m.error.reason) for m in ended] == [(pb.STATE_CANCELLED, "WORKFLOW_CLOSED")] * 2
    messages = [*(told.message for told in story.calls.values()), *ended]
    for name in ("reused_in_place", "repositioned", "encoded", "generated", "trailer", "reencoded"):
        assert getattr(first.total, name) == sum(getattr(m.receipt, name) for m in messages), name
    told = await refused(wire.rpc.GetMessage(pb.GetMessageRequest(workflow_id=wire.id, id="a")))
    assert told.reason == "UNKNOWN_WORKFLOW"


async def test_waiting_for_a_message(wire: Wire) -> None:
    await wire.submit(decode("long", max_tokens=LONG), decode("a", max_tokens=6))
    assert (await wire.get("a")).state != pb.STATE_DONE
    done = await wire.get("a", wait=True)
    assert done.state == pb.STATE_DONE
    assert len(content(done)) == 6
    assert await wire.get("a", wait=True) == done
    waiting = asyncio.create_task(wire.get("long", wait=True))
    await running(wire, "long")
    await wire.cancel("long")
    assert (await waiting).state == pb.STATE_CANCELLED


async def test_pages_of_messages(wire: Wire) -> None:
    ids = [f"m{i}" for i in range(7)]
    await wire.tell(*(stored(id, 3) for id in ids))
    found: list[pb.Message] = []
    token, sizes = "", []
    while True:
        page = await wire.list(3, token)
        found += page.messages
        sizes.append(len(page.messages))
        token = page.next_page_token
        if not token:
            break
        await wire.tell(stored(f"later{len(sizes)}", 3))  # behind the page that was read
    assert [m.id for m in found] == [*ids, "later1", "later2"]
    assert sizes == [3, 3, 3]
    assert all(m.state == pb.STATE_DONE and m.text and not m.tokens for m in found)
    assert len((await wire.list()).messages) == 9


# ---- namespaces


async def test_namespaces_see_nothing_of_each_other(new_wire: Callable[..., Wire]) -> None:
    here, there = new_wire("tenant-a"), new_wire("tenant-b")
    there.id = here.id
    question = prefill("q", "A secret that one tenant keeps: 4711 0815 2342.")
    assert not (await here.open()).existed
    assert not (await there.open()).existed
    first = (await here.tell(question))["q"].message
    told = await refused(there.rpc.GetMessage(
        pb.GetMessageRequest(workflow_id=there.id, id="q"), metadata=(("pavane-namespace", "tenant-b"),)
    ))  # fmt: skip
    assert told.reason == "UNKNOWN_MESSAGE"
    assert (await there.list()).messages == []
    # The other tenant pays for the same text; the same tenant does not pay twice.
    length = len(first.tokens)
    assert first.receipt.encoded == length
    second = (await there.tell(question))["q"].message
    assert (second.receipt.encoded, second.receipt.reused_in_place) == (length, 0)
    again = (await here.tell(copied(question, id="again")))["again"].message
    assert (again.receipt.encoded, again.receipt.reused_in_place) == (0, length)
    await here.close()
    assert (await there.get("q")).state == pb.STATE_DONE
    await there.close()


async def test_parents_by_reference(wire: Wire) -> None:
    """Placements asked for are those of the receipt."""
    parents = refs(["x", pb.ParentRef(id="y", offset=100), pb.ParentRef(id="z", as_encoded=True)])
    story = await wire.tell(
        prefill("x", "One."), prefill("y", "Two."), prefill("z", "Three.", start=40), decode("a", parents, start=300)
    )
    message = story["a"].message
    assert [(u.id, u.placed_at, u.encoded_at) for u in message.receipt.parents] == [
        ("x", 0, 0),
        ("y", 100, 0),
        ("z", 40, 40),
    ]
    assert message.start == 300
    lengths = {id: len(story[id].message.tokens) for id in "xyz"}
    receipt = message.receipt
    assert receipt.repositioned == lengths["y"]
    assert receipt.reused_in_place == lengths["x"] + lengths["z"]
    assert receipt.encoded == message.content_begin
