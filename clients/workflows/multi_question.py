"""Several questions in one prompt, each encoded by itself.

    question i ← rules, all at the same time
    answer     ← rules, all questions

No question sees another, so that all can be encoded in parallel and found again wherever else they are asked. That is
also the hardest test of reuse: a question that was read alone does not know that it is one of several.
"""

from __future__ import annotations

from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.workflows.calls import Calls, Handle
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem, texts
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, tokens

NAME = "multi-question"
PROMPTS = {
    "rules_system": "You answer all questions that you are asked, in their order, one short line for each.",
    "question": "Question {number}: {question}",
}


@dataclass(frozen=True)
class Questions(Problem):
    questions: tuple[str, ...] = texts("to answer", least=2, separator=";")


@dataclass(frozen=True)
class AnswerSizes(Sizes):
    answer_tokens: int = tokens(64, "of the answer to all")

    def longest(self) -> int:
        return self.answer_tokens


@dataclass(frozen=True)
class Answered(Outcome):
    final: str


def submit(calls: Calls[Handle], problem: Questions, sizes: AnswerSizes) -> Handle:
    """The whole graph at once. The answer."""
    rules = calls.prefill("rules")
    asked = [
        calls.prefill(f"question-{i}", rules, prompt="question", number=i, question=question)
        for i, question in enumerate(problem.questions, 1)
    ]
    return calls.decode("answer", rules, *asked, max_tokens=sizes.answer_tokens)


async def run(
    client: Client, problem: Questions, sizes: AnswerSizes, setting: Setting, follow: Follow | None = None
) -> Answered:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        answer = submit(run, problem, sizes)
    return run.outcome(Answered, final=(await answer).text)


SAMPLES = (
    Questions(("What is the capital of Norway?", "How many legs has a spider?")),
    Questions(("Which metal is liquid at room temperature?", "Who painted the Mona Lisa?", "What is 7 times 8?")),
)

KIND = Kind(
    NAME,
    "several questions, each encoded by itself, one answer",
    Questions,
    AnswerSizes,
    lambda: AnswerSizes(answer_tokens=32),
    PROMPTS,
    run,
    SAMPLES,
    submit,
)
