"""What is measured: a workflow with its sizes and a problem."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pavane.bench.workflows.figures import SIZES
from pavane.clients import Client
from pavane.clients.workflows import WORKFLOWS
from pavane.clients.workflows.kind import Kind
from pavane.clients.workflows.problem import Problem, load_problems
from pavane.clients.workflows.sizes import Sizes

ALL = "all"
# Documents of a problem that is made up for a benchmark, where no file of problems is given: of RAG teams.
DOCUMENTS = ("documents", "document_tokens")
WITH_DOCUMENTS = "rag-team"
WORDS = ("the", "harbour", "council", "kept", "a", "record", "of", "every", "ship", "with", "grain", "and", "timber")


class BadCase(ValueError):  # noqa: N818
    """Sizes or problems that cannot be; the text says what to change."""


@dataclass(frozen=True)
class Case:
    """`problem` is None where documents are still to be made up, of the number and length in `documents`."""

    kind: Kind[Any, Any]
    sizes: Sizes
    problem: Problem | None
    problem_name: str
    documents: Mapping[str, int] = field(default_factory=dict)

    @property
    def all_sizes(self) -> dict[str, int]:
        return {**{one.name: getattr(self.sizes, one.name) for one in fields(self.sizes)}, **self.documents}

    @property
    def name(self) -> str:
        """By which its runs are found again."""
        sizes = " ".join(f"{name}={value}" for name, value in self.all_sizes.items())
        return f"{self.kind.name} {sizes} problem={self.problem_name}"


def make_cases(
    name: str, sizes: Sequence[str], problems: Path | None, number: int, *, small: bool = False
) -> list[Case]:
    """One for each entry of `sizes`, which are "agents=4,rounds=2"; what is not named stays as SIZES or small() has it.
    `number` counts the problems of the file, or the workflow's own, from 1. Raises BadCase."""
    if name != ALL and name not in WORKFLOWS:
        raise BadCase(f"there is no workflow {name!r}; known are {ALL}, {', '.join(WORKFLOWS)}")
    if name == ALL and (sizes or problems):
        raise BadCase("sizes and problems belong to one workflow: name it instead of all")
    kinds = list(WORKFLOWS.values()) if name == ALL else [WORKFLOWS[name]]
    return [_case(kind, text, problems, number, small) for kind in kinds for text in sizes or [""]]


def _case(kind: Kind[Any, Any], text: str, problems: Path | None, number: int, small: bool) -> Case:
    given = _parse(text)
    documents = {}
    if kind.name == WITH_DOCUMENTS and problems is None:
        usual = {"documents": 2, "document_tokens": 20} if small else SIZES[kind.name]
        documents = {name: given.pop(name, usual[name]) for name in DOCUMENTS}
        if wrong := [name for name, value in documents.items() if value < 1]:
            raise BadCase(f"sizes: {wrong[0]} is {documents[wrong[0]]}; it must be at least 1")
    usual_sizes = kind.small()
    if not small:
        known = [one.name for one in fields(kind.sizes)]
        usual_sizes = replace(usual_sizes, **{n: v for n, v in SIZES.get(kind.name, {}).items() if n in known})
    sizes = _changed(kind, usual_sizes, given, documents)
    try:
        if documents:
            return Case(kind, sizes, None, "made-up", documents)
        samples = load_problems(problems, kind.problem) if problems else kind.sample_problems()
    except (ValueError, TypeError) as error:
        raise BadCase(f"{kind.name}: {error}") from error
    if not 1 <= number <= len(samples):
        raise BadCase(f"there is no problem {number}: there are {len(samples)}")
    return Case(kind, sizes, samples[number - 1], f"{problems.name if problems else 'own'}:{number}")


def sizes_of(kind: Kind[Any, Any], usual: Sizes, text: str) -> Sizes:
    """`usual` with what `text` says, as in "agents=4,rounds=2". Raises BadCase."""
    return _changed(kind, usual, _parse(text), ())


def _changed(kind: Kind[Any, Any], usual: Sizes, given: Mapping[str, int], others: Iterable[str]) -> Sizes:
    known = [one.name for one in fields(kind.sizes)]
    for name in given:
        if name not in known:
            raise BadCase(f"sizes: {kind.name} has no {name!r}; it has {', '.join([*known, *others])}")
    try:
        return replace(usual, **given)
    except (ValueError, TypeError) as error:
        raise BadCase(f"{kind.name}: {error}") from error


def _parse(text: str) -> dict[str, int]:
    given: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        try:
            given[name.strip()] = int(value)
        except ValueError:
            raise BadCase(f"sizes: {part!r} is not NAME=NUMBER, as in agents=4,rounds=2") from None
        if not equals:
            raise BadCase(f"sizes: {part!r} is not NAME=NUMBER, as in agents=4,rounds=2")
    return given


async def with_problem(case: Case, client: Client) -> Case:
    """The case with its documents, of exactly as many tokens as it says, made up."""
    if case.problem is not None:
        return case
    length, documents = case.documents["document_tokens"], []
    for i in range(case.documents["documents"]):
        draw = random.Random(i)
        tokens = await client.tokenize(text=" ".join(draw.choices(WORDS, k=2 * length)))
        documents.append((await client.detokenize(tokens[:length])).strip())
    question = "Which goods came to the town, and who kept the records?"
    return replace(case, problem=case.kind.problem(question=question, documents=tuple(documents)))
