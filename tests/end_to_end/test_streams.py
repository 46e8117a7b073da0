"""Streams: deltas, cursors, lost and slow readers."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from end_to_end.served import PATIENCE, ServerProcess, Story, Wire, content, decode, prefill, read, refused, stored

from pavane.clients import Client, SyncClient
from pavane.protos.v1 import pavane_pb2 as pb


def whole(story: Story, id: str, prefix: str = "") -> None:
    """The deltas of a finished answer are exactly what it has beyond its forced beginning."""
    message = story[id].message
    assert message.state == pb.STATE_DONE
    assert message.text == prefix + story[id].text
    assert content(message) == story[id].tokens
    assert len(story[id].tokens) == message.receipt.generated


@pytest.mark.parametrize("prefix", ["", "My idea: "])
async def test_deltas_add_up_to_the_text(wire: Wire, prefix: str) -> None:
    call = decode("a", ["q"], prefix, max_tokens=8, logprobs=1)
    story = await wire.tell(prefill("q", "Name three rivers."), call)
    whole(story, "a", prefix)
    told, message = story["a"], story["a"].message
    assert len(told.deltas) > 1
    assert not told.deltas[0].text.startswith("My")
    assert [p for delta in told.deltas for p in delta.logprobs] == list(message.logprobs)
    assert len(message.logprobs) == 8
    assert all(p <= 0 for p in message.logprobs)
    assert await wire.text(content(message)) == told.text
    info = await wire.info()
    assert list(message.tokens[message.content_end :]) == list(info.trailer_ids)
    assert message.finish == pb.FINISH_REASON_LENGTH
    assert told.states == [pb.STATE_QUEUED, pb.STATE_RUNNING] or told.states[-1] == pb.STATE_RUNNING
    cursors = [cursor for told in story.calls.values() for cursor in told.cursors]
    assert len(set(cursors)) == len(cursors)


async def test_no_deltas_if_none_are_wanted(wire: Wire) -> None:
    cursor = (await wire.submit(decode("a"))).cursor
    story = await read(wire.watch(cursor, ["a"], no_deltas=True))
    assert story["a"].deltas == []
    assert len(content(story["a"].message)) == 4


async def test_many_calls_at_once(wire: Wire) -> None:
    calls = [prefill("q", "Say something.")]
    calls += [decode(f"a{i}", ["q"], f"Idea {i}:", temperature=1.0, seed=i, max_tokens=2 + i % 4) for i in range(24)]
    story = await wire.tell(*calls)
    assert len(story.order) == 25
    for i in range(24):
        whole(story, f"a{i}", f"Idea {i}:")
        assert len(story[f"a{i}"].tokens) == 2 + i % 4


async def test_a_lost_watch_is_taken_up_at_its_cursor(wire: Wire) -> None:
    """Every frame by a watch of its own: nothing is missing and nothing comes twice."""
    cursor = (
        await wire.submit(prefill("q", "Count."), *(decode(f"a{i}", ["q"], max_tokens=6) for i in range(2)))
    ).cursor
    story = Story()
    story.cursor = cursor
    lost = 0
    while len(story.order) < 3:
        stream = wire.watch(story.cursor)
        await read(stream, until=lambda _: True, story=story)
        stream.cancel()
        lost += 1
    assert lost > 4
    for i in range(2):
        told = story[f"a{i}"]
        assert told.cursors == sorted(set(told.cursors))
        # The end carries what the last deltas would have said.
        assert told.message.text.startswith(told.text)
        assert content(told.message)[: len(told.tokens)] == told.tokens
        assert len(content(told.message)) == 6
        assert len(told.tokens) >= 5
    replay = await read(wire.watch(cursor, ["q", "a0", "a1"]))
    assert {id: told.message for id, told in replay.calls.items()} == {
        id: told.message for id, told in story.calls.items()
    }
    assert all(told.deltas == [] for told in replay.calls.values())


async def test_a_lost_run_leaves_what_others_submitted_or_read(wire: Wire) -> None:
    """A Run that is sent again after a lost connection is not cut short by the end of the first one."""
    calls = decode("shared", max_tokens=40), prefill("q", "Hello.")
    first, second = wire.run(*calls), wire.run(*calls)
    await read(first, until=lambda story: bool(story["shared"].deltas) if "shared" in story.calls else False)
    await read(second, until=lambda story: "shared" in story.calls)
    first.cancel()
    await wire.submit(decode("theirs", max_tokens=40))
    reader = wire.run(decode("theirs", max_tokens=40))
    await read(reader, until=lambda story: "theirs" in story.calls)
    reader.cancel()
    story = await wire.ended("shared", "theirs")
    assert [story[id].message.state for id in ("shared", "theirs")] == [pb.STATE_DONE] * 2


async def test_a_lost_run_cancels_what_it_submitted(wire: Wire) -> None:
    await wire.submit(decode("other", max_tokens=12))
    stream = wire.run(decode("long", max_tokens=2000), decode("after", ["long"]))
    await read(stream, until=lambda story: "long" in story.calls and bool(story["long"].deltas))
    stream.cancel()
    story = await wire.ended("long", "after", "other")
    assert story["long"].message.state == pb.STATE_CANCELLED
    assert story["long"].message.error.reason == "CANCELLED"
    assert 0 < len(content(story["long"].message)) < 2000
    assert story["after"].message.state in (pb.STATE_CANCELLED, pb.STATE_FAILED)
    assert story["other"].message.state == pb.STATE_DONE


async def test_a_detached_run_goes_on(wire: Wire) -> None:
    stream = wire.run(decode("a", max_tokens=12), detach=True)
    await read(stream, until=lambda story: bool(story["a"].deltas))
    stream.cancel()
    message = await wire.get("a", wait=True)
    assert message.state == pb.STATE_DONE
    assert len(content(message)) == 12


@pytest.mark.parametrize("kind", ["watch", "run"])
async def test_a_reader_that_stalls(server: ServerProcess, new_wire: Callable[..., Wire], kind: str) -> None:
    """A stream that is not read holds nobody up, and catches up with deltas merged."""
    narrow = [("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)]
    big = [f"big{i}" for i in range(24)]
    async with grpc.aio.insecure_channel(server.target, options=narrow) as slow_channel:
        wire = new_wire()
        slow = Wire(slow_channel, wire.id)
        await wire.open()
        # More than a connection holds, and nothing to compute: the first frames of the slow reader get stuck.
        calls = [*(stored(id, 3000) for id in big), decode("a", max_tokens=32)]
        if kind == "run":
            stream = slow.run(*calls)
            await stream.initial_metadata()  # the first frame is on its way: the calls are accepted
        else:
            stream = slow.watch(0)
            await wire.submit(*calls)
        brisk = await read(
            wire.watch(0, ["a"]), until=lambda story: "a" in story.calls and len(story["a"].tokens) >= 12
        )
        assert not brisk["a"].ends
        story = await read(stream, until=lambda story: "a" in story.order)
        stream.cancel()
        assert set(story.order) == {*big, "a"}
        assert all(len(story[id].message.tokens) == 3000 for id in big)
        told = story["a"]
        assert max(len(delta.tokens) for delta in told.deltas) >= 5
        assert len(told.deltas) < 28
        assert told.message.text.startswith(told.text)
        assert content(told.message)[: len(told.tokens)] == told.tokens
        await wire.close()


async def test_the_client_streams_and_hears_of_the_end(server: ServerProcess) -> None:
    async with Client(server.target) as client, client.workflow() as wf:
        question = wf.prefill(system="You are brief.", user="Name a river.")
        answers = [wf.decode(question, prefix=f"River {i}: ", max_tokens=5, seed=i, ignore_eos=True) for i in range(3)]
        final = wf.decode(question, *answers, fidelity="exact", max_tokens=4, temperature=0)
        for i, answer in enumerate(answers):
            pieces = [delta async for delta in answer]
            result = await answer
            assert result.text == f"River {i}: " + "".join(piece.text for piece in pieces)
            assert result.content == tuple(token for piece in pieces for token in piece.tokens)
        parents = (await final).receipt.parents
        assert [use.id for use in parents] == [question.id, *(a.id for a in answers)]
        assert {use.fidelity for use in parents} == {"exact"}
    assert wf.total.generated == 15 + len((await final).content)


def test_the_client_without_an_event_loop(server: ServerProcess) -> None:
    with SyncClient(server.target) as client, client.workflow() as wf:
        answer = wf.decode(wf.prefill(user="Name a river."), max_tokens=4, temperature=0, ignore_eos=True)
        text = "".join(delta.text for delta in answer)
        assert answer.result(PATIENCE).text == text
        assert len(answer.result().content) == 4


async def test_watch_of_nothing_known(wire: Wire) -> None:
    told = await refused(wire.watch(0, ["nobody"]).read())
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MESSAGE")
    assert "nobody" in told.words
