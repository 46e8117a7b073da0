"""The parallel debate: agents answer alone, then read each other and answer again, round after round.

    start    system and problem
    debate   the instruction between the rounds
    round 0  agent i ← start
    round r  agent i ← start, its own answers (oldest first), debate, the last answers of the others

or, with a summariser, who reads all and tells the agents:

    summary r-1      ← summarise, all answers of round r-1
    round r  agent i ← start, its own answers (oldest first), debate, summary r-1

A prefix cache likes that order best: what an agent saw before stands first. Without reuse the others' answers still
have to be encoded again for every agent; with it they are read where they lie. No decision is taken on the way, so the
whole graph is submitted at once and the server starts each call as its parents are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from pavane.clients.client import Client
from pavane.clients.results import Result
from pavane.clients.workflows.calls import Calls, Handle
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import TextProblem
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.samples import WORD_PROBLEMS
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, count, tokens

NAME = "debate"
PROMPTS = {
    "start_system": "You solve word problems. Think step by step, briefly, and end with the answer.",
    "start": "{problem}",
    "debate": "Here is what other solvers say. Compare it with your solution, correct what is wrong, and answer again.",
    "summarise_system": "You summarise what several solvers say: where they agree, where they differ, and why.",
    "summarise": "{problem}",
}


@dataclass(frozen=True)
class DebateSizes(Sizes):
    agents: int = count(3, "solvers", least=2)
    rounds: int = count(3, "after the first")
    answer_tokens: int = tokens(512, "of an answer")
    last_tokens: int = tokens(1024, "of an answer in the last round")
    summary_tokens: int = tokens(0, "of a summary between rounds (0: the agents read each other)", least=0)

    def longest(self) -> int:
        heard = self.summary_tokens or (self.agents - 1) * self.answer_tokens
        last = self.rounds * self.answer_tokens + heard + self.last_tokens
        return max(last, self.agents * self.answer_tokens + self.summary_tokens)


@dataclass(frozen=True)
class Debate(Outcome):
    """`answers_by_round`: by round and agent."""

    answers_by_round: tuple[tuple[Result, ...], ...]

    @property
    def first_token(self) -> float:
        """Mean time to first token after round 0, in seconds from when the parents were complete."""
        return fmean(answer.receipt.first_token for row in self.answers_by_round[1:] for answer in row)


def submit(calls: Calls[Handle], problem: TextProblem, sizes: DebateSizes) -> list[list[Handle]]:
    """The whole graph at once. The answers by round and agent."""
    start = calls.prefill("start", problem=problem.problem)
    instruction = calls.prefill("debate")
    if sizes.summary_tokens:
        summarise = calls.prefill("summarise", problem=problem.problem)
    rounds: list[list[Handle]] = []
    for r in range(sizes.rounds + 1):
        most = sizes.last_tokens if r == sizes.rounds else sizes.answer_tokens
        heard = rounds[-1] if rounds else []
        if rounds and sizes.summary_tokens:
            heard = [calls.decode(f"summary-round{r - 1}", summarise, *heard, max_tokens=sizes.summary_tokens)]
        answers = []
        for agent in range(sizes.agents):
            own = [row[agent] for row in rounds]
            others = [message for message in heard if message not in own]
            asked = [instruction, *others] if rounds else []
            answers.append(calls.decode(f"agent{agent + 1}-round{r}", start, *own, *asked, max_tokens=most))
        rounds.append(answers)
    return rounds


async def run(
    client: Client, problem: TextProblem, sizes: DebateSizes, setting: Setting, follow: Follow | None = None
) -> Debate:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        rounds = submit(run, problem, sizes)
    return run.outcome(Debate, answers_by_round=tuple([tuple([await message for message in row]) for row in rounds]))


KIND = Kind(
    NAME,
    "agents answer alone, then read each other and answer again",
    TextProblem,
    DebateSizes,
    lambda: DebateSizes(rounds=2, answer_tokens=64, last_tokens=64),
    PROMPTS,
    run,
    WORD_PROBLEMS,
    submit,
)
