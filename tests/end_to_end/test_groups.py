"""Groups: the first few of several messages as a parent."""

from __future__ import annotations

import pytest
from end_to_end.served import LONG, Wire, decode, group, prefill, read, refused, running

from pavane.protos.v1 import pavane_pb2 as pb


def parents(message: pb.Message) -> list[str]:
    return [use.id for use in message.receipt.parents]


@pytest.mark.parametrize("cancel_rest", [True, False])
async def test_the_first_that_are_done_are_read_in_their_order(wire: Wire, cancel_rest: bool) -> None:
    calls = [
        prefill("q", "Name a river."),
        decode("third", ["q"], max_tokens=LONG),
        decode("second", ["q"], max_tokens=8),
        decode("first", ["q"], max_tokens=2),
        decode("a", ["q", pb.ParentRef(id="best", fidelity=pb.FIDELITY_EXACT)]),
    ]
    best = group("best", "third", "second", "first", need=2, cancel_rest=cancel_rest)
    await wire.submit(*calls, groups=[best])
    story = await wire.ended("a", *(["third"] if cancel_rest else []))
    a = story["a"].message
    assert a.state == pb.STATE_DONE
    assert parents(a) == ["q", "second", "first"]
    assert [use.fidelity for use in a.receipt.parents][1:] == [pb.FIDELITY_EXACT] * 2
    if cancel_rest:
        third = story["third"].message
        assert (third.state, third.error.reason) == (pb.STATE_CANCELLED, "CANCELLED")
        assert "group 'best' has the 2 answers it needs" in third.error.text
        assert 8 <= third.receipt.generated < LONG
    else:
        await running(wire, "third", tokens=10)
    # Sent again it is the same group, and later readers read the same winners.
    await wire.submit(*calls, groups=[best])
    assert parents((await wire.tell(decode("b", ["best"])))["b"].message) == ["second", "first"]


async def test_a_group_may_come_before_and_after_its_readers_members_end(wire: Wire) -> None:
    await wire.tell(prefill("q", "Name a river."), decode("x", ["q"]), decode("y", ["q"]))
    story = await wire.tell(decode("a", ["g", "h"]), groups=[group("g", "y", "x", need=2), group("h", "q", need=1)])
    assert parents(story["a"].message) == ["y", "x", "q"]


async def test_a_group_that_cannot_have_enough_fails_its_readers(wire: Wire) -> None:
    await wire.submit(
        prefill("q", "Count."),
        *(decode(id, ["q"], max_tokens=LONG) for id in ("x", "y", "z")),
        decode("a", ["g"]),
        groups=[group("g", "x", "y", "z", need=2)],
    )
    await running(wire, "z")
    await wire.cancel("x")
    assert (await wire.get("a")).state == pb.STATE_BLOCKED
    await wire.cancel("y")
    a = (await wire.ended("a"))["a"].message
    assert (a.state, a.error.reason, list(a.error.ids)) == (pb.STATE_FAILED, "PARENT_FAILED", ["g"])
    for word in ("group 'g'", "the 2 answers it needs", "2 of its 3 members"):
        assert word in a.error.text
    late = (await wire.tell(decode("b", ["g"])))["b"].message
    assert (late.state, late.error.reason) == (pb.STATE_FAILED, "PARENT_FAILED")


async def test_cancelling_and_releasing_a_group(wire: Wire) -> None:
    await wire.submit(
        *(decode(id, max_tokens=LONG) for id in ("x", "y")),
        decode("a", ["g"]),
        groups=[group("g", "x", "y", need=1), group("h", "y", need=1)],
    )
    assert sorted((await wire.cancel("g", descendants=True)).cancelled) == ["a", "x", "y"]
    await wire.release("h")
    told = await refused(wire.submit(decode("b", ["h"])))
    assert told.reason == "UNKNOWN_MESSAGE"
    for request in (
        wire.rpc.GetMessage(pb.GetMessageRequest(workflow_id=wire.id, id="g")),
        wire.watch(0, ["g"]).read(),
    ):
        told = await refused(request)
        assert told.reason == "UNKNOWN_MESSAGE"
        assert "'g' is a group, not a message" in told.words
    assert [message.id for message in (await wire.list()).messages] == ["x", "y", "a"]


async def test_a_group_alone_may_be_submitted_and_run(wire: Wire) -> None:
    await wire.tell(prefill("q", "Hello."))
    await wire.submit(groups=[group("g", "q", need=1)])
    story = await read(wire.run(decode("a", ["g"]), groups=[group("h", "a", need=1)]))
    assert parents(story["a"].message) == ["q"]
