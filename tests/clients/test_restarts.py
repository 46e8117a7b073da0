"""Handles of calls that begin again, that are sealed, and what a workflow is opened with."""

import asyncio

import pytest

from pavane.clients import FailedPrecondition
from pavane.protos.v1 import pavane_pb2 as pb
from tests.clients.test_workflow import words


async def collect(message):
    return [(delta.attempt, delta.text) async for delta in message]


async def two_tokens(message):
    """Returns when so many are there."""
    async for delta in message:
        if delta.tokens[-1] == 1:
            return


def text_of(deltas, attempt):
    return "".join(text for number, text in deltas if number == attempt)


@pytest.mark.parametrize("cut_after", [None, 1, 2, 3, 5])
async def test_a_restart_voids_what_came_before(client, fake, cut_after):
    fake.restart = {"a"}
    fake.hold["a"] = asyncio.Event()
    fake.cut_watch_after = cut_after
    async with client.workflow() as wf:
        message = wf.decode(id="a", max_attempts=2)
        early = asyncio.create_task(collect(message))
        await two_tokens(message)
        fake.hold["a"].set()
        result = await message
        first, late = await early, await collect(message)
    assert text_of(first, 1) == "void-0 void-1 "
    assert text_of(first, 2) == text_of(late, 2) == result.text == words("a")
    assert [number for number, _ in first] == sorted(number for number, _ in first)
    assert late[0] == (2, "")
    assert {number for number, _ in late} == {2}
    assert result.attempts == 2


async def test_a_restart_that_was_missed_is_seen_at_the_end(client, fake):
    fake.restart = {"a"}
    fake.hold["a"] = asyncio.Event()
    fake.cut_watch_after, fake.skip_deltas = 2, True
    async with client.workflow() as wf:
        message = wf.decode(id="a", max_attempts=2)
        early = asyncio.create_task(collect(message))
        await two_tokens(message)
        fake.hold["a"].set()
        await message
    assert text_of(await early, 2) == words("a")


async def test_a_decode_is_sealed(client, fake):
    fake.hold["a"] = asyncio.Event()
    async with client.workflow() as wf:
        task = wf.prefill(user="q")
        message = wf.decode(task, id="a", labels={"agent": "critic"})
        async for delta in message:
            if delta.tokens == (1,):
                assert await message.finish()
        result = await message
        assert (result.finish, result.text, dict(result.labels)) == ("sealed", words("a", 2), {"agent": "critic"})
        assert not await message.finish()
        assert await wf.finish(message) == ()
        with pytest.raises(FailedPrecondition) as caught:
            await wf.finish(message, task)
        assert caught.value.reason == "NOT_A_DECODE"


async def test_what_a_workflow_is_opened_with(client, fake):
    async with client.workflow("one", priority=-3, deadline=1.5), client.workflow("two"):
        one, two = fake.opens
    assert one == pb.OpenWorkflowRequest(workflow_id="one", priority=-3, deadline={"seconds": 1, "nanos": 500_000_000})
    assert two == pb.OpenWorkflowRequest(workflow_id="two")
    with pytest.raises(ValueError, match="priority must be from -2147483648 to 2147483647, not 2147483648"):
        client.workflow(priority=2**31)
    with pytest.raises(ValueError, match="deadline must be more than 0"):
        client.workflow(deadline=0)
