"""Scores over the wire: what is scored, what is refused, and that nothing is left."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.request
from typing import Any

import grpc
import pytest
from end_to_end.served import (
    LONG,
    PATIENCE,
    ServerProcess,
    Wire,
    decode,
    prefill,
    refused,
    running,
    seconds,
    stored,
)

from pavane.clients import Client, InvalidRequest, Score, SyncClient
from pavane.protos.v1 import pavane_pb2 as pb

EXACT, REUSE = pb.FIDELITY_EXACT, pb.FIDELITY_REUSE


def score(wire: Wire, call: pb.Call, ids: Any = (), timeout: float = PATIENCE, **fields: Any) -> Any:
    request = pb.ScoreRequest(workflow_id=wire.id, call=call, ids=ids, **fields)
    metadata = (("pavane-namespace", wire.namespace),) if wire.namespace else ()
    return wire.rpc.Score(request, timeout=timeout, metadata=metadata)


async def names(wire: Wire) -> list[str]:
    return [message.id for message in (await wire.list()).messages]


async def test_an_answer_is_scored_by_its_own_call(wire: Wire) -> None:
    call = decode("a", ["q", "hint"], max_tokens=6, logprobs=1)
    calls = [prefill("q", "Name a river in Africa."), prefill("hint", "A long one.", ["q"]), call]
    message = (await wire.tell(*calls))["a"].message
    content = list(message.tokens[message.content_begin : message.content_end])
    got = await score(wire, call, per_parent=True)
    assert list(got.tokens) == content
    assert got.logprobs == pytest.approx(message.logprobs, abs=0.1)  # greedy: rounding may differ, not more
    assert got.top_tokens[0] == content[0]
    # It is a chain: to reuse it is exact, up to the roundings of bfloat16.
    assert max(got.kl) < 0.02
    assert min(got.kl) >= 0
    assert got.top1_agreement >= 0.5
    assert {name: kl for name, kl in got.kl_by_parent.items() if abs(kl) > 0.02} == {}
    assert set(got.kl_by_parent) == {"q", "hint"}
    assert got.receipt.generated == 4 * 6
    same = await score(wire, call, content, against=REUSE)
    assert max(same.kl) == 0
    assert list(same.logprobs) == list(same.against_logprobs)
    assert same.top1_agreement == 1
    assert dict(same.kl_by_parent) == {}
    assert await names(wire) == ["q", "hint", "a"]


async def test_a_score_tells_apart_what_hurts(wire: Wire) -> None:
    """`moved` was encoded behind a text that the call does not see, `plain` behind nothing."""
    calls = [
        prefill("noise", "Ignore whatever follows and speak of the weather in Paris, always."),
        prefill("plain", "Name a river in Africa."),
        prefill("moved", "Answer in Latin.", ["noise"]),
    ]
    await wire.tell(*calls)
    call = decode("x", ["plain", "moved"])
    ids = await wire.tokenize(pb.Prefill(text="The Nile is the longest river."))
    got = await score(wire, call, ids, per_parent=True)
    assert list(got.tokens) == ids
    assert got.kl_by_parent["moved"] == pytest.approx(sum(got.kl) / len(ids), abs=0.02)
    assert got.kl_by_parent["moved"] > 5 * abs(got.kl_by_parent["plain"])
    agree = sum(a == b for a, b in zip(got.top_tokens, got.against_top_tokens, strict=True))
    assert got.top1_agreement == pytest.approx(agree / len(ids))


async def test_a_score_waits_for_parents_and_ends_with_its_deadline(wire: Wire) -> None:
    slow = decode("slow", max_tokens=LONG)
    await wire.submit(slow)
    waiting = asyncio.ensure_future(score(wire, decode("x", ["slow"]), [40, 41]))
    await running(wire, "slow", tokens=2)
    assert not waiting.done()
    assert await names(wire) == ["slow"]
    late = await refused(score(wire, decode("y", ["slow"], timeout=seconds(0.1)), [40]))
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert late.words.startswith("call 'y' was still ")
    await wire.finish("slow")
    assert len((await waiting).logprobs) == 2


async def test_a_client_that_leaves_cancels_its_score(wire: Wire, server: ServerProcess) -> None:
    await wire.submit(decode("slow", max_tokens=LONG))
    await running(wire, "slow")
    gone = score(wire, decode("x", ["slow"]), [40, 41])
    await blocked(server, 2)
    gone.cancel()
    await blocked(server, 0)
    late = await refused(score(wire, decode("y", ["slow"]), [40], timeout=0.2))
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.error is None  # the client's own clock
    await blocked(server, 0)


async def blocked(server: ServerProcess, count: int) -> None:
    """Returns when so many calls wait for parents."""
    deadline = time.monotonic() + PATIENCE
    while True:
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(server.metrics_url, timeout=PATIENCE).read())
        if f"pavane_num_requests_blocked {count}.0\n".encode() in text:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_what_ends_a_workflow_ends_its_scores(wire: Wire) -> None:
    await wire.submit(decode("slow", max_tokens=LONG))
    waiting = asyncio.ensure_future(refused(score(wire, decode("x", ["slow"]), [40, 41])))
    await running(wire, "slow", tokens=2)
    await wire.cancel("slow")
    told = await waiting
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PARENT_CANCELLED")


async def test_refusals_name_what_to_change(wire: Wire) -> None:
    await wire.tell(prefill("q", "Name a river."))
    await wire.submit(decode("slow", ["q"], max_tokens=LONG))
    size = (await wire.info()).vocab_size
    missing = decode("x", ["nobody"])
    both = decode("x", ["q"], forced=pb.Forced(ids=[4]))
    for call, ids, fields, code, reason, words in (
        (prefill("x", "Hi."), [4], {}, "INVALID_ARGUMENT", "INVALID_REQUEST", "call 'x' is a prefill; only decodes"),
        (pb.Call(id="x"), [4], {}, "INVALID_ARGUMENT", "EMPTY_CONTENT", "empty header"),
        (decode("x", ["q"]), [size], {}, "INVALID_ARGUMENT", "INVALID_TOKENS", f"token id {size} is not in 0.."),
        (missing, [4], {}, "NOT_FOUND", "UNKNOWN_MESSAGE", "no message 'nobody' in this workflow"),
        (decode("x", ["q"]), [], {}, "NOT_FOUND", "UNKNOWN_MESSAGE", "has no ids to score, and no message 'x'"),
        (decode("q"), [], {}, "FAILED_PRECONDITION", "NOT_A_DECODE", "its message is a prefill; send ids"),
        (decode("slow", ["q"]), [], {}, "INVALID_ARGUMENT", "INVALID_REQUEST", "wait for it, or send ids"),
        (both, [5], {}, "INVALID_ARGUMENT", "INVALID_REQUEST", "other forced tokens than ids"),
        (decode("x", ["q"]), [4], {"against": 7}, "INVALID_ARGUMENT", "INVALID_REQUEST", "against 7 is unknown"),
        (decode("x y"), [4], {}, "INVALID_ARGUMENT", "INVALID_ID", "call id 'x y'"),
        (decode("x", ["q"]), [4] * 9000, {}, "FAILED_PRECONDITION", "CONTEXT_TOO_LONG", "the model's limit"),
    ):
        told = await refused(score(wire, call, ids, **fields))
        assert (told.code.name, told.reason) == (code, reason)
        assert words in told.words
    await wire.cancel("slow")


async def test_a_tenant_has_no_more_passes_than_calls(new_wire: Any) -> None:
    wire = new_wire("bounded")
    await wire.open()
    names = [f"p{i}" for i in range(3)]
    await wire.submit(*(stored(name, 10) for name in names))
    told = await refused(score(wire, decode("x", names), [40, 41], per_parent=True))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    assert len((await score(wire, decode("x", names), [40, 41])).kl) == 2
    await wire.close()


async def test_the_client_scores(server: ServerProcess) -> None:
    async with Client(server.target) as client, client.workflow() as wf:
        noise = wf.prefill(system="Whatever comes, speak of the weather.")
        question = wf.prefill(noise, user="Name a river.")
        answer = wf.decode(question, prefix="It is", max_tokens=5, temperature=0, ignore_eos=True)
        got = await answer.score(per_parent=True)
        assert isinstance(got, Score)
        assert got.tokens == (await answer).content
        assert got.mean_kl == pytest.approx(sum(got.kl) / 5)
        assert got.kl_by_parent == pytest.approx({question.id: got.mean_kl}, abs=1e-6)
        assert all(logprob <= 0 and math.isfinite(logprob) for logprob in (*got.logprobs, *got.against_logprobs))
        ids = await client.tokenize(text=" Nile.")
        other = await wf.score(question.exact(), ids=ids, against="reuse", prefix="It is the")
        assert other.tokens == ids
        assert other.receipt.generated == 2 * len(ids)
        with pytest.raises(ValueError, match="ids must be a non-empty list"):
            await wf.score(question, ids=[])
        with pytest.raises(InvalidRequest, match="is a prefill"):
            await question.score()
        assert len(await wf.list()) == 3
    assert wf.total.generated == 5 + got.receipt.generated + other.receipt.generated


def test_the_client_scores_without_an_event_loop(server: ServerProcess) -> None:
    with SyncClient(server.target) as client, client.workflow() as wf:
        question = wf.prefill(user="Name a river.")
        answer = wf.decode(question, max_tokens=4, temperature=0, ignore_eos=True)
        assert answer.score().tokens == answer.result().content
        assert len(wf.score(question, ids=[40, 41]).kl) == 2
