"""The parallel debate: agents answer alone, then read each other and answer again, round after round.

    start   system and problem
    debate  the instruction between the rounds
    round 0 agent i ← start
    round r agent i ← start, its own answers (oldest first), debate, the last answers of the others

A prefix cache likes that order best: what an agent saw before stands first. Without reuse the others' answers still
have to be encoded again for every agent; with it they are read where they lie.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import fmean

from pavane.clients import Client, Fidelity, Message, Receipt, Result, Workflow

SYSTEM = "You solve word problems. Think step by step, briefly, and end with the answer."
DEBATE = "Here is what other solvers say. Compare it with your own solution, correct what is wrong, and answer again."

Follow = Callable[[int, int, Message], Awaitable[None]]


@dataclass(frozen=True)
class Debate:
    """`agents` solvers, `rounds` rounds after the first, at most `max_tokens` tokens an answer."""

    problem: str
    agents: int = 3
    rounds: int = 2
    max_tokens: int = 96
    temperature: float = 0.7
    seed: int = 1
    equal_lengths: bool = False  # every answer has exactly max_tokens tokens, for comparisons


@dataclass(frozen=True)
class Outcome:
    """Answers by round and agent, the receipt of the whole, and its time on the clock in seconds."""

    answers: tuple[tuple[Result, ...], ...]
    total: Receipt
    wall: float

    @property
    def first_token(self) -> float:
        """Mean time to first token after round 0, in seconds from when the parents were complete."""
        return fmean(answer.receipt.first_token for row in self.answers[1:] for answer in row)


def submit(wf: Workflow, debate: Debate, fidelity: Fidelity) -> list[list[Message]]:
    """The whole graph at once; the server starts each call as its parents are there. Handles by round and agent."""
    start = wf.prefill(system=SYSTEM, user=debate.problem, fidelity=fidelity, id="start")
    instruction = wf.prefill(user=DEBATE, fidelity=fidelity, id="debate")
    rounds: list[list[Message]] = []
    for r in range(debate.rounds + 1):
        answers = []
        for agent in range(debate.agents):
            own = [row[agent] for row in rounds]
            others = [m for i, m in enumerate(rounds[-1]) if i != agent] if rounds else []
            answers.append(
                wf.decode(
                    start,
                    *own,
                    *([instruction, *others] if rounds else []),
                    id=f"agent{agent + 1}-round{r}",
                    fidelity=fidelity,
                    max_tokens=debate.max_tokens,
                    ignore_eos=debate.equal_lengths,
                    temperature=debate.temperature,
                    seed=debate.seed * 1000 + r * debate.agents + agent,
                )
            )
        rounds.append(answers)
    return rounds


async def run_debate(client: Client, debate: Debate, fidelity: Fidelity, follow: Follow) -> Outcome:
    """Runs it in a workflow of its own; `follow(round, agent, message)` may read each answer as it comes."""
    begin = time.perf_counter()
    async with client.workflow() as wf:
        rounds = submit(wf, debate, fidelity)

        async def lane(
            agent: int,
        ) -> None:  # one answer after the other: the next may begin before this one's end is known
            for r, row in enumerate(rounds):
                await follow(r, agent, row[agent])

        await asyncio.gather(*map(lane, range(debate.agents)))
        answers = tuple([tuple([await message for message in row]) for row in rounds])
        wall = time.perf_counter() - begin
    return Outcome(answers, wf.total, wall)
