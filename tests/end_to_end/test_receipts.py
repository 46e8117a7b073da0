"""The receipts of a parallel debate, by formula.

AGENTS answer the task S in ROUNDS rounds; in every round but the first each reads S, its own last answer and then those
of the others. With s tokens of S, h of a header (its forced beginning included) and L of an answer (header, content,
trailer), whose headers begin with the same c tokens, the counting rule gives

REUSE   S costs s once. An answer costs its own header, h. But the headers of round 1 see the same: what they begin with
        costs c once. Answers of round 1 were encoded right behind S, so that only
        an agent's own stands there again in round 2; all others, and all in later rounds, are moved.
EXACT   S is stored and costs s in the first answer that reads it. In round 2 the path S, own answer is known, the
        other answers are encoded behind it by every agent. In later rounds the last answers were written behind others,
        so each agent encodes all of them behind S, but for the c tokens that all headers begin with. In round 1 these
        are encoded once, too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from itertools import combinations

import pytest
from end_to_end.served import Story, Wire, decode, prefill

from pavane.protos.v1 import pavane_pb2 as pb

AGENTS, ROUNDS, TOKENS = 3, 3, 3
WORDS = [
    "Red",
    "Seven",
    "London",
    "Maybe",
    "Old",
    "Fire",
    "Birds",
    "Green",
    "Twenty",
]  # each begins a header of its own


def order(agent: int) -> list[int]:
    """Its own answer first."""
    return [(agent + i) % AGENTS for i in range(AGENTS)]


def debate(task: str, fidelity: int) -> list[pb.Call]:
    calls = [prefill("task", task, fidelity=fidelity)]
    for turn in range(ROUNDS):
        for agent in range(AGENTS):
            parents = ["task", *(f"r{turn - 1}a{i}" for i in order(agent))] if turn else ["task"]
            word = WORDS[turn * AGENTS + agent]
            calls.append(decode(f"r{turn}a{agent}", parents, word, max_tokens=TOKENS, fidelity=fidelity))
    return calls


def common(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Lengths:
    """What the formulas are made of."""

    def __init__(self, story: Story, task: list[int]) -> None:
        messages = {id: told.message for id, told in story.calls.items()}
        self.s = len(task)
        self.h = {id: m.content_begin for id, m in messages.items() if id != "task"}
        self.L = {id: len(m.tokens) for id, m in messages.items()}
        tokens = [list(messages[id].tokens) for id in self.h]
        shared = {common(a, b) for a, b in combinations(tokens, 2)}
        assert len(shared) == 1  # otherwise the formula would have to know which answers are alike
        (self.c,) = shared

    def answers(self, turn: int) -> int:
        return sum(self.L[f"r{turn}a{agent}"] for agent in range(AGENTS))


@pytest.fixture
async def wire(new_wire: Callable[..., Wire], request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    """In a namespace of its own: nothing is encoded yet."""
    wire = new_wire(re.sub(r"[^A-Za-z0-9]", "-", request.node.name))
    await wire.open()
    yield wire
    await wire.close()


async def run(wire: Wire, task: str, fidelity: int) -> tuple[Story, Lengths, pb.Receipt]:
    calls = debate(task, fidelity)
    story = await wire.tell(*calls)
    assert {told.message.state for told in story.calls.values()} == {pb.STATE_DONE}
    lengths = Lengths(story, await wire.tokenize(calls[0].prefill))
    total: pb.Receipt = (await wire.close()).total
    trailer = len((await wire.info()).trailer_ids)
    assert total.generated == AGENTS * ROUNDS * TOKENS
    assert total.trailer == AGENTS * ROUNDS * trailer
    assert total.reencoded == 0
    assert total.preemptions == 0
    assert sum(lengths.h.values()) + total.generated + total.trailer == sum(
        length for id, length in lengths.L.items() if id != "task"
    )
    return story, lengths, total


async def test_reuse(wire: Wire) -> None:
    story, n, total = await run(wire, "Which number is the largest prime below 100? (reuse)", pb.FIDELITY_REUSE)
    assert n.c > 0
    alike = (AGENTS - 1) * n.c
    assert total.encoded == n.s + sum(n.h.values()) - alike
    assert total.reused_in_place == ROUNDS * AGENTS * n.s + n.answers(0) + alike
    moved = (AGENTS - 1) * n.answers(0) + sum(AGENTS * n.answers(turn) for turn in range(1, ROUNDS - 1))
    assert total.repositioned == moved
    for turn in range(ROUNDS):
        for agent in range(AGENTS):
            message = story[f"r{turn}a{agent}"].message
            before = [f"r{turn - 1}a{i}" for i in order(agent)] if turn else []
            visible = n.s + sum(n.L[id] for id in before) + n.h[message.id]
            receipt = message.receipt
            assert receipt.reused_in_place + receipt.repositioned + receipt.encoded == visible
            assert receipt.encoded == n.h[message.id] - (0 if turn or not agent else n.c)
            assert message.start == visible - n.h[message.id]
            assert not receipt.placement_ignored


async def test_all_exact(wire: Wire) -> None:
    story, n, total = await run(wire, "Which number is the largest prime below 100? (exact)", pb.FIDELITY_EXACT)
    task = story["task"].message.receipt
    assert (task.encoded, task.reused_in_place, task.repositioned) == (0, 0, 0)
    assert n.c > 0
    encoded = n.s + sum(n.h.values()) + (AGENTS - 1) * (n.answers(0) - n.c)
    encoded += sum(AGENTS * (n.answers(turn) - n.c) for turn in range(1, ROUNDS - 1))
    assert total.encoded == encoded
    assert total.repositioned == 0
    visible = ROUNDS * AGENTS * n.s + sum(n.h.values()) + sum(AGENTS * n.answers(t) for t in range(ROUNDS - 1))
    assert total.reused_in_place == visible - encoded


@pytest.mark.parametrize("fidelity", [pb.FIDELITY_REUSE, pb.FIDELITY_EXACT])
async def test_a_second_debate_finds_what_the_first_encoded(wire: Wire, fidelity: int) -> None:
    """Each answer computes the last token of its header, which its first one is chosen after; all else is there."""
    task = f"Which number is the largest prime below 1000? ({fidelity})"
    await wire.tell(*debate(task, fidelity))
    await wire.close()
    await wire.open()
    _, n, total = await run(wire, task, fidelity)
    assert total.encoded == len(n.h)
