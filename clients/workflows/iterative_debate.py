"""The iterative debate: two sides take turns, and a moderator says when the matter is settled.

    affirmative, negative, moderator   roots; nobody sees two of them
    affirmative-0 ← affirmative
    negative-0    ← negative, affirmative-0
    round r       affirmative-r ← affirmative, all turns of both sides so far
                  negative-r    ← negative, all turns so far
                  moderator-r   ← moderator, the turns after the opening and its own, by time

Everything up to the moderator's first word is submitted at once. Whether another round follows is the first field of
its JSON. A prefix cache does well here: each reader goes on from its own last prompt and encodes only what the other
side has said since. With reuse nobody encodes anything but the header of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.message import Message
from pavane.clients.workflows.decisions import LEAST_TOKENS, decision, field_of, json_object
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import TextProblem
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.samples import WORD_PROBLEMS
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, count, tokens

NAME = "iterative-debate"
VERDICT = json_object(settled={"type": "boolean"}, answer={"type": "string", "maxLength": 40})
PROMPTS = {
    "affirmative_system": "You debate how to solve a problem. Argue for your solution; where you are wrong, say so.",
    "affirmative": "{problem}",
    "negative_system": "You debate how to solve a problem. You look for mistakes in the other side's solution.",
    "negative": "{problem}",
    "moderator_system": "You lead a debate between two sides. Say whether the matter is settled, and the answer.",
    "moderator": "The problem:\n\n{problem}",
}


@dataclass(frozen=True)
class TurnSizes(Sizes):
    rounds: int = count(2, "after the opening, at most")
    turn_tokens: int = tokens(512, "of one side's turn")
    moderator_tokens: int = tokens(512, "of the moderator's verdict", least=LEAST_TOKENS)

    def longest(self) -> int:
        debater = 2 * (self.rounds + 1) * self.turn_tokens
        return max(debater, self.rounds * (2 * self.turn_tokens + self.moderator_tokens))


@dataclass(frozen=True)
class IterativeDebate(Outcome):
    """`rounds` that were held after the opening, whether the moderator then called the matter settled, its answer. The
    answer is empty if the verdict was cut off before it."""

    rounds: int
    settled: bool
    final: str


async def run(
    client: Client, problem: TextProblem, sizes: TurnSizes, setting: Setting, follow: Follow | None = None
) -> IterativeDebate:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        sides = [run.prefill(side, problem=problem.problem) for side in ("affirmative", "negative")]
        moderator = run.prefill("moderator", problem=problem.problem)
        turns: list[Message] = []  # of both sides
        heard: list[Message] = []  # by the moderator
        for r in range(sizes.rounds + 1):
            said: list[Message] = []
            for side in sides:
                said.append(run.decode(f"{side.id}-{r}", side, *turns, *said, max_tokens=sizes.turn_tokens))
            turns += said
            if r == 0:
                continue
            heard += said
            word = run.decode(
                f"moderator-{r}", moderator, *heard, max_tokens=sizes.moderator_tokens, json_schema=VERDICT
            )
            heard.append(word)
            verdict = await word
            if settled := decision(verdict, "settled") is True:
                break
    return run.outcome(IterativeDebate, rounds=r, settled=settled, final=str(field_of(verdict, "answer") or ""))


KIND = Kind(
    NAME,
    "two sides take turns until a moderator calls the matter settled",
    TextProblem,
    TurnSizes,
    lambda: TurnSizes(turn_tokens=48, moderator_tokens=48),
    PROMPTS,
    run,
    WORD_PROBLEMS,
)
