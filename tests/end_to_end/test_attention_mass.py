"""Where attention goes, over the wire: asked for and not."""

from __future__ import annotations

import pytest
from end_to_end.served import ServerProcess, Wire, decode, prefill

from pavane.clients import Client
from pavane.protos.v1 import pavane_pb2 as pb


def asking(call: pb.Call) -> pb.Call:
    call.decode.attention_mass = True
    return call


async def test_a_receipt_says_where_attention_went_if_asked(wire: Wire) -> None:
    parents = ["code", "question", "noise"]
    story = await wire.tell(
        prefill("code", "The secret word is marmalade. Remember it."),
        prefill("noise", "Rivers flow."),
        prefill("question", "Which word is secret?", ["code"]),
        asking(decode("a", parents, "The secret word is", max_tokens=6)),
        decode("b", parents, "The secret word is", max_tokens=6),
        asking(decode("c", parents, "The secret word is", forced=pb.Forced(ids=[40, 41, 42], one_pass=True))),
    )
    for id in "ac":
        mass = dict(story[id].message.receipt.attention_mass)
        assert mass.keys() == {*parents, "(own)"}
        assert sum(mass.values()) == pytest.approx(1, abs=1e-4)
        assert min(mass.values()) > 0
    assert not story["b"].message.receipt.attention_mass
    assert story["a"].message.text == story["b"].message.text
    assert not (await wire.close()).total.attention_mass
    await wire.open()


async def test_the_client_asks(server: ServerProcess) -> None:
    async with Client(server.target) as client, client.workflow() as wf:
        question = wf.prefill(user="Name a river.")
        asked = await wf.decode(question, max_tokens=3, attention_mass=True, ignore_eos=True)
        plain = await wf.decode(question, max_tokens=3, ignore_eos=True)
    assert asked.receipt.attention_mass.keys() == {question.id, "(own)"}
    assert sum(asked.receipt.attention_mass.values()) == pytest.approx(1, abs=1e-4)
    assert plain.receipt.attention_mass == {}
