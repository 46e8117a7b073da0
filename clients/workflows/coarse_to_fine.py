"""Coarse to fine: an outline, all sections at the same time, then each section once more with the others in sight.

    outline    ← write
    section k  ← write, outline
    revision k ← write, outline, all sections

A prefix cache shares write and outline with everybody, and of the sections the first: the others were written in its
place. With reuse nothing is encoded again. The whole graph is submitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pavane.clients.client import Client
from pavane.clients.results import Result
from pavane.clients.workflows.calls import Calls, Handle
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import TextProblem
from pavane.clients.workflows.run import Follow, Run
from pavane.clients.workflows.samples import SUBJECTS
from pavane.clients.workflows.setting import Setting
from pavane.clients.workflows.sizes import Sizes, count, tokens

NAME = "coarse-to-fine"
PROMPTS = {
    "write_system": "You write clear texts: first an outline, then its sections, then each section improved.",
    "write": "Write about this in {sections} sections: {problem}",
}


@dataclass(frozen=True)
class TextSizes(Sizes):
    sections: int = count(4, "of the text", most=99)
    outline_tokens: int = tokens(256, "of the outline")
    section_tokens: int = tokens(256, "of a section, also when revised")

    def longest(self) -> int:
        return self.outline_tokens + (self.sections + 1) * self.section_tokens


@dataclass(frozen=True)
class Text(Outcome):
    """The revised sections."""

    sections: tuple[str, ...]


def submit(calls: Calls[Handle], problem: TextProblem, sizes: TextSizes) -> list[Handle]:
    """The whole graph at once. The revised sections."""
    root = calls.prefill("write", problem=problem.problem, sections=sizes.sections)
    outline = calls.decode("outline", root, prefix="Outline:", max_tokens=sizes.outline_tokens)
    numbers = range(1, sizes.sections + 1)
    sections = [
        calls.decode(f"section-{k}", root, outline, prefix=f"Section {k}:", max_tokens=sizes.section_tokens)
        for k in numbers
    ]
    return [
        calls.decode(
            f"revision-{k}", root, outline, *sections, prefix=f"Section {k}, revised:", max_tokens=sizes.section_tokens
        )
        for k in numbers
    ]


async def run(
    client: Client, problem: TextProblem, sizes: TextSizes, setting: Setting, follow: Follow | None = None
) -> Text:
    """Raises PavaneError, and ValueError for what is wrong with the arguments."""
    async with Run(NAME, client, problem, sizes, setting, PROMPTS, follow) as run:
        revised = submit(run, problem, sizes)
    results: list[Result] = [await message for message in revised]
    return run.outcome(Text, sections=tuple(result.text for result in results))


KIND = Kind(
    NAME,
    "an outline, its sections, each revised with the others in sight",
    TextProblem,
    TextSizes,
    lambda: TextSizes(sections=3, outline_tokens=48, section_tokens=48),
    PROMPTS,
    run,
    SUBJECTS,
    submit,
)
