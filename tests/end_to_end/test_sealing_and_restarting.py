"""Decodes that are sealed while they run, calls that get more than one attempt, and labels."""

from __future__ import annotations

import grpc
from end_to_end.served import LONG, ServerProcess, Wire, content, decode, prefill, read, refused, running

from pavane.protos.v1 import pavane_pb2 as pb

NEVER = grpc.StatusCode.FAILED_PRECONDITION


async def test_a_sealed_decode_is_a_message_like_any_other(wire: Wire) -> None:
    await wire.submit(prefill("q", "Count."), decode("a", ["q"], max_tokens=LONG), decode("b", ["q", "a"]))
    await running(wire, "a", tokens=3)
    assert list((await wire.finish("a", "a")).sealed) == ["a"]
    story = await wire.ended("a", "b")
    a, b = story["a"].message, story["b"].message
    assert (a.state, a.finish) == (pb.STATE_DONE, pb.FINISH_REASON_SEALED)
    trailer = list((await wire.info()).trailer_ids)
    assert 3 < len(content(a)) < LONG
    assert list(a.tokens[a.content_end :]) == trailer
    assert (a.receipt.generated, a.receipt.trailer) == (len(content(a)), len(trailer))
    assert a.text == await wire.text(content(a))
    assert b.state == pb.STATE_DONE
    assert [use.tokens for use in b.receipt.parents][1] == len(a.tokens)
    assert list((await wire.finish("a")).sealed) == []


async def test_sealing_is_all_or_nothing(wire: Wire) -> None:
    await wire.submit(prefill("q", "Count."), decode("a", ["q"], max_tokens=LONG), decode("b", ["a"]))
    await running(wire, "a")
    for id, reason, words in [("q", "NOT_A_DECODE", "is a Prefill"), ("b", "NOT_STARTED", "'b' is blocked")]:
        told = await refused(wire.finish("a", id))
        assert (told.code, told.reason) == (NEVER, reason)
        assert words in told.words
        assert told.error is not None
        assert list(told.error.ids) == [id]
    await running(wire, "a", tokens=len(content(await wire.get("a"))) + 3)  # it goes on


async def test_a_call_gets_another_attempt(wire: Wire) -> None:
    """Either digit may come first, nothing may follow the one: half of all attempts fail."""
    (six,) = await wire.tokenize(pb.Prefill(text="6"))
    options = {"regex": "05|16", "logit_bias": {six: float("-inf")}, "temperature": 100.0}
    once = [decode(f"once{i}", seed=i, **options) for i in range(6)]
    often = [decode(f"often{i}", seed=i, max_attempts=16, **options) for i in range(6)]
    story = await wire.tell(*once, *often)
    failed = 0
    for i in range(6):
        one, told = story[f"once{i}"].message, story[f"often{i}"]
        message = told.message
        assert (message.state, message.text, len(content(message))) == (pb.STATE_DONE, "05", 2)
        assert "05".startswith(told.text)
        receipt = message.receipt
        assert receipt.encoded in (1, message.content_begin)  # the last token of the header, and who is first the rest
        assert receipt.encoded + receipt.reused_in_place == message.content_begin
        assert (receipt.generated, receipt.reencoded) == (2, message.attempts - 1)  # the row where the content begins
        if one.state == pb.STATE_DONE:
            assert (message.attempts, message.seed, told.restarts) == (1, i, [])
        else:
            failed += 1
            assert (one.error.reason, one.attempts, one.text) == ("NOTHING_ALLOWED", 1, "1")
            assert message.attempts > 1
            assert message.seed != i
        for restart in told.restarts:
            assert restart.error.reason == "NOTHING_ALLOWED"
            assert 1 < restart.attempt <= message.attempts
    assert 0 < failed < 6
    late = await read(wire.watch(0, [call.id for call in often]))
    assert not any(told.restarts or told.deltas for told in late.calls.values())


async def test_labels_come_back_and_stand_in_the_log(wire: Wire, server: ServerProcess) -> None:
    labels = {"agent": "critic", "run": 'a "quoted"\nline'}
    (six,) = await wire.tokenize(pb.Prefill(text="6"))
    fails = decode("b", labels=labels, regex="6", logit_bias={six: float("-inf")})
    story = await wire.tell(prefill("a", "Hello.", labels=labels), fails, decode("c"))
    assert dict(story["a"].message.labels) == dict(story["b"].message.labels) == labels
    assert dict(story["c"].message.labels) == {}
    assert [dict(message.labels) for message in (await wire.list()).messages] == [labels, labels, {}]
    (line,) = [line for line in server.log.splitlines() if f"of workflow {wire.id!r}" in line]
    for word in ("call 'b'", "failed", "NOTHING_ALLOWED", repr(labels)):
        assert word in line
