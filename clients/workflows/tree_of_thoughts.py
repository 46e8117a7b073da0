"""Tree of thoughts: many proposals, votes on them, and an answer made from the one with most votes.

    propose, vote, finish   instructions with the problem; nobody sees two of them
    proposal i  ← propose
    vote j      ← vote, all proposals
    final       ← finish, the winner

Proposals are written at the same time, and so are votes; a vote begins in the step that completes the last proposal.
With a prefix cache the first voter encodes all proposals again; with reuse they are read where they lie, so the first
token of a vote comes at once. Only the winner needs the client: which number a vote names is in its first tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

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

NAME = "tree-of-thoughts"
CHOICE = "BEST CHOICE: "
PROMPTS = {
    "propose_system": "You solve problems. Write one solution, step by step and briefly, and end with the answer.",
    "propose": "{problem}",
    "vote_system": "You judge solutions. Name the number of the one that is most likely right, then say why.",
    "vote": "Which of the numbered solutions that follow solves this problem?\n\n{problem}",
    "finish_system": "You turn a draft of a solution into a clear and correct answer.",
    "finish": "Here is a problem, followed by a draft of its solution. Give the final answer.\n\n{problem}",
}


@dataclass(frozen=True)
class TreeSizes(Sizes):
    proposals: int = count(8, "solutions to choose from", most=99)
    votes: int = count(4, "on all solutions")
    need: int = count(0, "votes that are enough; the rest is given up (0: all)", least=0)
    proposal_tokens: int = tokens(512, "of a solution")
    vote_tokens: int = tokens(256, "of a vote with its reason")
    final_tokens: int = tokens(256, "of the answer")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.need > self.votes:
            raise ValueError(f"need is {self.need}, but there are only {self.votes} votes")

    def longest(self) -> int:
        voter = self.proposals * self.proposal_tokens + self.vote_tokens
        return max(voter, self.proposal_tokens + self.final_tokens)


@dataclass(frozen=True)
class TreeOfThoughts(Outcome):
    """`votes`: the number of the proposal that each complete vote names; `winner` counts from 1, too."""

    votes: tuple[int, ...]
    winner: int
    final: str


def submit(calls: Calls[Handle], problem: TextProblem, sizes: TreeSizes) -> tuple[list[Handle], list[Handle]]:
    """All that needs no decision, at once: proposals and votes. A scripted run has the votes that its script has."""
    root = calls.prefill("propose", problem=problem.problem)
    proposals = [
        calls.decode(f"proposal-{i}", root, prefix=f"Solution #{i}:", max_tokens=sizes.proposal_tokens)
        for i in range(1, sizes.proposals + 1)
    ]
    ask = calls.prefill("vote", problem=problem.problem)
    numbers = "|".join(str(i) for i in range(1, sizes.proposals + 1))
    votes = [
        calls.decode(
            f"vote-{j}", ask, *proposals, prefix=CHOICE, regex=rf"({numbers})\.(.|\n)*", max_tokens=sizes.vote_tokens
        )
        for j in range(1, sizes.votes + 1)
        if not sizes.need or calls.expects(f"vote-{j}")
    ]
    return proposals, votes


async def run(
    client: Client, problem: TextProblem, sizes: TreeSizes, setting: Setting, follow: Follow | None = None
) -> TreeOfThoughts:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        proposals, voters = submit(run, problem, sizes)
        finish = run.prefill("finish", problem=problem.problem)
        votes = tuple(map(choice, await run.first(voters, sizes.need or len(voters))))
        winner = max(range(1, sizes.proposals + 1), key=lambda i: (Counter(votes)[i], -i))  # of equals the first
        final = run.decode("final", finish, proposals[winner - 1], max_tokens=sizes.final_tokens)
    return run.outcome(TreeOfThoughts, votes=votes, winner=winner, final=(await final).text)


def choice(vote: Result) -> int:
    """The number that a vote names. Raises ValueError if it names none."""
    found = re.match(rf"{CHOICE}(\d+)", vote.text)
    if found is None:
        raise ValueError(f"{vote.id}: {vote.text!r} names no proposal")
    return int(found[1])


KIND = Kind(
    NAME,
    "several solutions, votes on them, an answer made from the best",
    TextProblem,
    TreeSizes,
    lambda: TreeSizes(proposals=3, votes=3, proposal_tokens=48, vote_tokens=24, final_tokens=48),
    PROMPTS,
    run,
    WORD_PROBLEMS,
)
