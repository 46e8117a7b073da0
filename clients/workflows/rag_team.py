"""A RAG team: agents read the same documents, each in an order and a role of its own, and a judge reads all answers.

    document d  alone, no parents
    agent a     ← role a, the documents beginning with number a and round again, question
    judge       ← judge root, all answers

No two agents' prompts begin alike, so a prefix cache shares nothing: A agents encode A times all documents. With reuse
each document is encoded once, for everybody. The whole graph is submitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.results import Result
from pavane.clients.workflows.calls import Calls, Handle
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem, texts
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, count, tokens

NAME = "rag-team"
PROMPTS = {
    "role_system": "You are reader {agent} of {agents}. You answer from the documents that follow, in two sentences.",
    "role": "The documents follow, then the question.",
    "document": "Document {number}\n\n{document}",
    "question": "{question}",
    "judge_system": "You combine the answers of several readers into the one that most of them support.",
    "judge": "{question}",
}


@dataclass(frozen=True)
class Reading(Problem):
    """A question, and where the answer may be."""

    question: str
    documents: tuple[str, ...] = texts("to read", least=1, separator="\n\n")


@dataclass(frozen=True)
class TeamSizes(Sizes):
    agents: int = count(4, "readers")
    answer_tokens: int = tokens(128, "of a reader's answer")
    judge_tokens: int = tokens(128, "of the judge's answer")

    def longest(self) -> int:
        return max(self.answer_tokens, self.agents * self.answer_tokens + self.judge_tokens)


@dataclass(frozen=True)
class Team(Outcome):
    """The readers' answers and the judge's."""

    readers: tuple[Result, ...]
    final: str


def submit(calls: Calls[Handle], problem: Reading, sizes: TeamSizes) -> tuple[list[Handle], Handle]:
    """The whole graph at once. The readers' answers and the judge's."""
    documents = [
        calls.prefill(f"document-{i}", prompt="document", number=i, document=document)
        for i, document in enumerate(problem.documents, 1)
    ]
    question = calls.prefill("question", question=problem.question)
    answers = []
    for agent in range(1, sizes.agents + 1):
        role = calls.prefill(f"role-{agent}", prompt="role", agent=agent, agents=sizes.agents)
        first = (agent - 1) % len(documents)
        ordered = [*documents[first:], *documents[:first]]
        answers.append(calls.decode(f"reader-{agent}", role, *ordered, question, max_tokens=sizes.answer_tokens))
    judge = calls.prefill("judge", question=problem.question)
    return answers, calls.decode("final", judge, *answers, max_tokens=sizes.judge_tokens)


async def run(
    client: Client, problem: Reading, sizes: TeamSizes, setting: Setting, follow: Follow | None = None
) -> Team:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        answers, final = submit(run, problem, sizes)
    return run.outcome(Team, readers=tuple([await answer for answer in answers]), final=(await final).text)


SAMPLES = (
    Reading(
        "In which year did the ferry stop, and what replaced it?",
        (
            "The island of Hallo lies four kilometres off the coast. Until the bridge was opened people reached it by "
            "a small ferry that made six trips a day in summer and two in winter.",
            "Work on the bridge began in 1961. It took three years longer than planned, because the first two piers "
            "sank into the sand and had to be built again further north.",
            "The ferryman, Anders Holm, made his last trip in the autumn of 1967, a week after the first cars had "
            "crossed. His boat is in the harbour museum today.",
            "The museum shows tools of fishermen, a lamp from the old lighthouse and some three hundred photographs. "
            "It is open from May to September.",
        ),
    ),
    Reading(
        "Which plants need no watering in July?",
        (
            "Lavender comes from dry hills. Once it has grown for two years its roots are so deep that rain is enough.",
            "Tomatoes need water every day when it is hot, at the root and not on the leaves.",
            "Sage and thyme are watered in their first summer only.",
        ),
    ),
)

KIND = Kind(
    NAME,
    "agents read the same documents in orders of their own, a judge reads the agents",
    Reading,
    TeamSizes,
    lambda: TeamSizes(agents=3, answer_tokens=40, judge_tokens=40),
    PROMPTS,
    run,
    SAMPLES,
    submit,
)
