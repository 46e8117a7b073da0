"""The first few of several messages as a parent."""

import asyncio

import grpc
import pytest

from pavane.clients import AlreadyExists, CallCancelled, Edge, InvalidRequest
from pavane.clients.group import group_message
from pavane.protos.v1 import pavane_pb2 as pb


async def test_a_group_is_a_parent(client, fake):
    fake.hold["slow"] = asyncio.Event()
    async with client.workflow() as wf:
        task = wf.prefill(user="q")
        slow, first, second = (wf.decode(task, id=name) for name in ("slow", "first", "second"))
        best = wf.group(slow, first, "second", need=2, cancel_rest=True)
        final = wf.decode(task, best.exact().last(), max_tokens=2)
        assert [(ref.id, ref.fidelity, ref.last_use) for ref in final.call.parents] == [
            ("m0", pb.FIDELITY_UNSPECIFIED, False),
            ("m1", pb.FIDELITY_EXACT, True),
        ]
        result = await final
        with pytest.raises(CallCancelled):
            await slow
        assert wf.group("slow", "first", "second", need=2, cancel_rest=True, id="m1") is best
        await wf.release(best)
    assert [use.id for use in result.receipt.parents] == ["m0", "first", "second"]
    assert fake.submits == [["m0", "slow", "first", "second", "m2"]]
    assert fake.groups == ["m1"]
    assert repr(best) == "<Group m1: 2 of slow, first, second>"
    assert (await second).state == "done"


async def test_cancelling_a_group_cancels_its_members(client, fake):
    fake.hold = {"a": asyncio.Event(), "b": asyncio.Event()}
    async with client.workflow() as wf:
        a, b = wf.decode(id="a"), wf.decode(id="b")
        assert await wf.cancel(wf.group(a, b, need=1)) == ("a", "b")
        for message in (a, b):
            with pytest.raises(CallCancelled):
                await message


async def test_ids_are_shared_with_messages(client, fake):
    async with client.workflow() as wf, client.workflow() as other:
        task = wf.prefill(user="q", id="q")
        wf.group(task, need=1, id="g")
        for make in (
            lambda: wf.group("q", need=1, id="q"),
            lambda: wf.group("q", need=1, cancel_rest=True, id="g"),
            lambda: wf.prefill(user="r", id="g"),
        ):
            with pytest.raises(AlreadyExists, match="has this id already"):
                make()
        with pytest.raises(ValueError, match="belongs to another workflow"):
            other.group(task, need=1)


async def test_a_refused_group_is_no_parent(client, fake):
    refusal = pb.Error(reason="INVALID_GROUP", text="group 'm0' is not fine", ids=["m0"])
    fake.refusals = [(grpc.StatusCode.INVALID_ARGUMENT, refusal)]
    async with client.workflow() as wf:
        group = wf.group("elsewhere", need=1)
        reader = wf.decode(group)
        with pytest.raises(InvalidRequest, match="not fine"):
            await reader
        with pytest.raises(InvalidRequest, match="not fine"):
            wf.decode(group)


@pytest.mark.parametrize(
    ("members", "need", "says"),
    [
        ([], 1, "at least one member"),
        (["a", "b"], 0, "need must be from 1 to 2, not 0"),
        (["a", "b"], 3, "need must be from 1 to 2, not 3"),
        (["a", "b"], "2", "need must be an integer"),
        (["a", "a"], 1, "member 'a' is listed twice"),
        (["a b"], 1, "a member's id must be"),
    ],
)
def test_wrong_groups_are_refused_in_words(members, need, says):
    with pytest.raises((ValueError, TypeError), match=says):
        group_message("g", [Edge(member) for member in members], need, False)


def test_a_member_has_no_placement():
    for edge in (Edge("a").at(3), Edge("a").exact(), Edge("a").last()):
        with pytest.raises(ValueError, match="'a' is an edge"):
            group_message("g", [edge], 1, False)
    with pytest.raises(ValueError, match="a group's id must be"):
        group_message("g g", [Edge("a")], 1, False)
