"""Branch, solve, merge: a story from many words, written in two halves at the same time and merged.

    words   ← branch            which half of the words goes together, as JSON
    story-1 ← solve-1           the words that were named
    story-2 ← solve-2           the others
    final   ← merge, story-1, story-2

The client takes part once: from the answer to the branch prompt it writes the two solve prompts. Each word is in one
of the halves, whatever the model says: the JSON can name only words of the problem, and the rest is the other half.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.results import Result
from pavane.clients.workflows.decisions import LEAST_TOKENS, json_object
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem, texts
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, tokens

NAME = "branch-solve-merge"
PROMPTS = {
    "branch_system": "You plan short stories. Choose the words that fit together best.",
    "branch": "Choose {half} of these words for the first part of a story: {concepts}.",
    "solve_system": "You write short stories in plain words.",
    "solve": "Write a short story that uses all of these words: {words}.",
    "merge_system": "You edit stories.",
    "merge": "Merge the two stories that follow into one that uses all of these words: {concepts}.",
}


@dataclass(frozen=True)
class Words(Problem):
    concepts: tuple[str, ...] = texts("that the story should use", least=2, separator=",")

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, word in enumerate(self.concepts):
            if word in self.concepts[:i]:
                raise ValueError(f"concepts[{i}] {word!r} is there twice; leave one out")


@dataclass(frozen=True)
class StorySizes(Sizes):
    branch_tokens: int = tokens(512, "of the choice of words", least=LEAST_TOKENS)
    story_tokens: int = tokens(512, "of a half")
    final_tokens: int = tokens(1024, "of the whole story")

    def longest(self) -> int:
        return max(self.branch_tokens, 2 * self.story_tokens + self.final_tokens)


@dataclass(frozen=True)
class Story(Outcome):
    """The words of the two halves, and the merged story."""

    halves: tuple[tuple[str, ...], tuple[str, ...]]
    final: str


async def run(
    client: Client, problem: Words, sizes: StorySizes, setting: Setting, follow: Follow | None = None
) -> Story:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    concepts = problem.concepts
    half = (len(concepts) + 1) // 2
    named = {"type": "array", "items": {"enum": list(concepts)}, "minItems": half, "maxItems": half}
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        branch = run.prefill("branch", half=half, concepts=", ".join(concepts))
        merge = run.prefill("merge", concepts=", ".join(concepts))
        words = run.decode("words", branch, max_tokens=sizes.branch_tokens, json_schema=json_object(words=named))
        halves = split(await words, concepts)
        stories = []
        for i, own in enumerate(halves, 1):
            solve = run.prefill(f"solve-{i}", prompt="solve", words=", ".join(own))
            stories.append(run.decode(f"story-{i}", solve, max_tokens=sizes.story_tokens))
        final = run.decode("final", merge, *stories, max_tokens=sizes.final_tokens)
    return run.outcome(Story, halves=halves, final=(await final).text)


def split(words: Result, concepts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that the answer names, and the others. Raises ValueError if it was cut off before the first."""
    named = {json.loads(text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', words.text.partition(":")[2])}
    first = tuple(word for word in concepts if word in named)
    if not first:
        raise ValueError(f"{words.id}: {words.text!r} names no word of the problem; allow it more tokens")
    return first, tuple(word for word in concepts if word not in named)


SAMPLES = (
    Words(("lighthouse", "storm", "letter", "bicycle", "baker", "ferry", "violin", "key")),
    Words(("garden", "ladder", "cat", "moon", "teacher", "bucket")),
)

KIND = Kind(
    NAME,
    "a story from given words, written in two halves and merged",
    Words,
    StorySizes,
    lambda: StorySizes(branch_tokens=64, story_tokens=64, final_tokens=96),
    PROMPTS,
    run,
    SAMPLES,
)
