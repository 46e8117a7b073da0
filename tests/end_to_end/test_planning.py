"""Plans over the wire: what they say comes true, and what they refuse is what Submit refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from end_to_end.served import PATIENCE, Wire, decode, prefill, refused, turns

from pavane.protos.v1 import pavane_pb2 as pb

EXACT = pb.FIDELITY_EXACT
COUNTS = ("reused_in_place", "repositioned", "encoded", "generated", "trailer", "reencoded", "placement_ignored")


def plan(wire: Wire, *calls: pb.Call, **fields: Any) -> Any:
    submit = pb.SubmitRequest(workflow_id=wire.id, calls=calls)
    return wire.rpc.Plan(pb.PlanRequest(submit=submit, **fields), timeout=PATIENCE)


def said(message: pb.Message) -> tuple[object, ...]:
    """All that a plan tells of a call."""
    counts = [getattr(message.receipt, name) for name in COUNTS]
    parents = [use.SerializeToString(deterministic=True) for use in message.receipt.parents]
    return (message.id, message.state, message.start, message.finish, message.error.reason, *counts, *parents)


def debate(task: str, **fields: Any) -> list[pb.Call]:
    return [
        pb.Call(id="task", prefill=turns(("system", "Be brief."), ("user", task)), **fields),
        pb.Call(id="ask", prefill=turns(("user", "Compare.")), **fields),
        *(decode(f"{name}-0", ["task"], f"I am {name}:", max_tokens=5, **fields) for name in ("ann", "ben")),
        decode("ann-1", ["task", "ann-0", "ask", "ben-0"], max_tokens=3, **fields),
        decode("ben-1", ["task", "ben-0", "ask", "ann-0"], forced=pb.Forced(ids=[40, 41, 42]), **fields),
        pb.Call(id="copy", prefill=pb.Prefill(copy=pb.Copy(of="ben-1")), parents=[pb.ParentRef(id="task")], **fields),
        decode("last", ["copy", "ann-1", pb.ParentRef(id="ben-1", fidelity=EXACT)], max_tokens=2, **fields),
    ]


@pytest.mark.parametrize("fidelity", [pb.FIDELITY_REUSE, EXACT])
async def test_a_plan_comes_true(wire: Wire, fidelity: Any) -> None:
    calls = debate(f"Is 91 a prime? ({fidelity})", fidelity=fidelity)
    planned = await plan(wire, *calls)
    assert [message.text for message in planned.planned] == [""] * len(calls)
    assert not (await wire.list()).messages
    story = await wire.tell(*calls)
    assert [said(message) for message in planned.planned] == [
        said(story[message.id].message) for message in planned.planned
    ]
    total = (await wire.close()).total
    assert [getattr(planned.total, name) for name in COUNTS] == [getattr(total, name) for name in COUNTS]
    assert planned.critical_path[-1] == "last"
    await wire.open()


async def test_a_group_is_planned_as_if_its_first_members_were_first(wire: Wire) -> None:
    calls = [
        prefill("q", "Is 89 a prime?"),
        decode("a", ["q"], "A:", max_tokens=2),
        decode("b", ["q"], "B:", max_tokens=40),
        decode("sum", ["g"], "So:", max_tokens=2),
    ]
    group = pb.Group(id="g", members=["a", "b"], need=1, cancel_rest=True)
    submit = pb.SubmitRequest(workflow_id=wire.id, calls=calls, groups=[group])
    planned = await wire.rpc.Plan(pb.PlanRequest(submit=submit), timeout=PATIENCE)
    assert [(one.group_id, list(one.winners)) for one in planned.assumed_winners] == [("g", ["a"])]
    states = {message.id: message.state for message in planned.planned}
    assert (states["a"], states["b"], states["sum"]) == (pb.STATE_DONE, pb.STATE_CANCELLED, pb.STATE_DONE)


async def test_what_was_submitted_is_passed_over_and_read(wire: Wire) -> None:
    calls = debate("Is 97 a prime?")
    await wire.tell(*calls[:4])
    planned = await plan(wire, *calls)
    assert [message.id for message in planned.planned] == [call.id for call in calls[4:]]
    story = await wire.tell(*calls)
    assert all(said(message) == said(story[message.id].message) for message in planned.planned)


async def test_kv_is_told_in_bytes(wire: Wire) -> None:
    """SmolLM2-135M has 30 layers of 3 KV heads with 64 dimensions each, in bfloat16."""
    planned = await plan(wire, prefill("p", tokens=[30] * 20))
    assert (planned.peak_slots, planned.kv_bytes_read) == (20, 20 * 2 * 30 * 3 * 64 * 2)


async def test_lengths_are_assumed(wire: Wire) -> None:
    calls = [decode("a"), decode("b", max_tokens=400), decode("c", forced=pb.Forced(ids=[5, 6]))]
    calls[0].decode.sampling.ClearField("max_tokens")

    async def lengths(**fields: Any) -> list[int]:
        answer = await plan(wire, *calls, **fields)
        return [message.receipt.generated for message in answer.planned]

    assert await lengths() == [256, 400, 2]
    assert await lengths(assumed_tokens=30) == [30, 30, 2]
    refusal = await refused(plan(wire, *calls, assumed_tokens=0))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_what_a_call_would_fail_of_is_in_its_message(wire: Wire) -> None:
    info = await wire.info()
    half = info.token_slots // 2 + 1
    calls = [
        prefill("p", tokens=[30] * half),
        prefill("q", tokens=[31] * half),
        decode("both", ["p", "q"]),
        decode("far", ["p"], start=info.max_model_len - 3),
        decode("child", ["far"]),
    ]
    answer = await plan(wire, *calls)
    reasons = {message.id: message.error.reason for message in answer.planned}
    failing = {"both": "NEVER_FITS", "far": "CONTEXT_TOO_LONG", "child": "PARENT_FAILED"}
    assert reasons == {"p": "", "q": "", **failing}


async def test_refusals_are_those_of_submit(wire: Wire, new_wire: Callable[..., Wire]) -> None:
    await wire.tell(prefill("a", "Hello."))
    for bad in (prefill("a", "Other."), prefill("b", "Hello.", ["nobody"]), prefill("b c", "x"), pb.Call(id="b")):
        one, other = await refused(plan(wire, bad)), await refused(wire.submit(bad))
        assert (one.code, one.error) == (other.code, other.error)
    assert (await refused(plan(wire))).reason == "INVALID_REQUEST"
    assert (await refused(plan(new_wire(), prefill("a", "Hello.")))).reason == "UNKNOWN_WORKFLOW"
