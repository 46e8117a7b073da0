"""Runs problems in each mode, judges the answers, and measures how far reuse moved them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from pavane.bench.evals.divergence import divergences
from pavane.bench.evals.samples import SAMPLES
from pavane.bench.evals.tasks import TASKS, BadLine, Line, Task
from pavane.bench.lab import Lab
from pavane.bench.report import say
from pavane.bench.workflows.arms import SETTINGS
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import Diverged, Judged
from pavane.clients import Message
from pavane.clients.workflows import Kind, Outcome, Setting
from pavane.clients.workflows.problem import Problem
from pavane.clients.workflows.sizes import Sizes


@dataclass(frozen=True)
class Question:
    """A problem, its number in the file from 1, and what its answer is compared with."""

    number: int
    problem: Problem
    reference: Sequence[str]


@dataclass(frozen=True)
class Evaluation:
    kind: Kind[Any, Any]
    task: Task
    sizes: Sizes
    temperature: float
    seed: int

    @property
    def case(self) -> str:
        sizes = " ".join(f"{one.name}={getattr(self.sizes, one.name)}" for one in fields(self.sizes))
        return f"{self.kind.name} {sizes} temperature={self.temperature:g}"


class _Begun:
    """Sees whether a run came so far as to submit a call."""

    submitted = False

    def on_message(self, message: Message) -> None:
        self.submitted = True


def questions(kind: Kind[Any, Any], path: Path | None, most: int | None) -> list[Question]:
    """Of a file with a problem in each line, or our own. Raises BadLine with the line of what is wrong."""
    task = TASKS[kind.name]
    found: list[Question] = []
    for number, line in enumerate(SAMPLES[kind.name] if path is None else _lines(path), 1):
        if most is not None and len(found) == most:
            break
        try:
            found.append(Question(number, kind.problem.from_json(line), task.reference(line)))
        except (ValueError, TypeError) as error:
            raise BadLine(f"{path or 'our own problems'}:{number}: {error}") from error
    if not found:
        raise BadLine(f"{path} has no problems; each line is a JSON object such as {json.dumps(SAMPLES[kind.name][0])}")
    return found


def _lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadLine(f"cannot read {path}: {error}") from error
    lines = []
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise BadLine(f"{path}:{number}: not JSON: {error}") from None
    return lines


def final_texts(outcome: Outcome) -> list[str]:
    """What a run is judged by: its final answer, or those of the last round of a debate, which has none."""
    if rounds := getattr(outcome, "answers_by_round", None):
        return [answer.text for answer in rounds[-1]]
    return [str(outcome.final)]  # type: ignore[attr-defined]


async def evaluate(
    lab: Lab, journal: Journal, wanted: Evaluation, problems: Sequence[Question], modes: Sequence[str], *, score: bool
) -> None:
    """Adds to the journal what it lacks. All modes of a problem have the same seed. Raises PavaneError, and BadLine for
    a problem that the workflow refuses."""
    done = {(judged.problem, judged.mode) for judged in journal.all(Judged) if judged.case == wanted.case}
    for question in problems:
        for mode in modes:
            if (question.number, mode) not in done:
                await _one(lab, journal, wanted, question, mode, score=score)


async def _one(lab: Lab, journal: Journal, wanted: Evaluation, question: Question, mode: str, *, score: bool) -> None:
    begun = _Begun()
    setting = Setting(**SETTINGS[mode], temperature=wanted.temperature, seed=wanted.seed + question.number)
    name, task = wanted.kind.name, wanted.task
    async with lab.pavane.client() as client:
        try:
            outcome = await wanted.kind.run(client, question.problem, wanted.sizes, setting, begun)
        except ValueError as error:
            if not begun.submitted:
                raise BadLine(f"problem {question.number}: {error}") from error
            # An answer that the workflow could not read: a run without a result.
            say(f"  {name}, problem {question.number}, {mode}: {error}")
            journal.add(Judged(wanted.case, name, question.number, mode, (), (), 0.0, 0, 0.0))
            return
        moved = await divergences(client, outcome, setting.layout) if score and mode != "exact" else []
    texts = tuple(final_texts(outcome))
    judged = Judged(
        case=wanted.case,
        workflow=name,
        problem=question.number,
        mode=mode,
        texts=texts,
        answers=tuple(map(task.answer, texts)),
        score=fmean(task.score(text, question.reference) for text in texts),
        generated=outcome.total.generated,
        wall=outcome.wall,
    )
    for one in moved:
        journal.add(
            Diverged(wanted.case, name, question.number, mode, one.call, one.kl, one.top1_agreement, one.kl_by_parent)
        )
    journal.add(judged)  # last: what is judged is complete
    say(f"  {name}, problem {question.number}, {mode}: {task.name} {judged.score:.2f}")
