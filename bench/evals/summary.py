"""From judged runs to a table: scores, agreement between modes, and the distance of answers from exact edges."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pavane.bench.evals.tasks import TASKS
from pavane.bench.report import columns
from pavane.bench.stats import spread
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import Diverged, Judged

HEAD = ("case", "mode", "problems", "task", "score", "less exact", "agrees with exact", "KL, nats", "same top token")
WORST = 5


def summary(journal: Journal, cases: Sequence[str]) -> str:
    """A row for each case and mode; then the edges whose reuse costs most."""
    rows: list[Sequence[str]] = [HEAD]
    for case in cases:
        judged = [one for one in journal.all(Judged) if one.case == case]
        rows += [_row(journal, case, mode, judged) for mode in dict.fromkeys(one.mode for one in judged)]
    lines = [columns(rows, (0, 1, 3))]
    for workflow, edges in divergence(journal).items():
        worst = sorted(edges.items(), key=lambda item: -item[1])[:WORST]
        words = ", ".join(f"{call} reads {parent}: {kl:.3f}" for (call, parent), kl in worst)
        lines.append(f"{workflow}, KL that an exact edge would save: {words}")
    return "\n".join(lines)


def divergence(journal: Journal) -> dict[str, dict[tuple[str, str], float]]:
    """By workflow, of each edge (call, parent) the mean over the problems."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for one in journal.all(Diverged):
        for parent, kl in one.kl_by_parent.items():
            found.setdefault(one.workflow, {}).setdefault((one.call, parent), []).append(kl)
    return {workflow: {edge: fmean(each) for edge, each in edges.items()} for workflow, edges in found.items()}


def agreement(one: Judged, other: Judged) -> float:
    """The share of places in which two runs of a problem give the same answer; 0 if one of them gave none."""
    if len(one.answers) != len(other.answers) or not one.answers:
        return 0.0
    return fmean(a == b and a != "" for a, b in zip(one.answers, other.answers, strict=True))


def _row(journal: Journal, case: str, mode: str, judged: Sequence[Judged]) -> tuple[str, ...]:
    runs = {one.problem: one for one in judged if one.mode == mode}
    exact = {one.problem: one for one in judged if one.mode == "exact" and mode != "exact" and one.problem in runs}
    moved = [one for one in journal.all(Diverged) if one.case == case and one.mode == mode]
    workflow = judged[0].workflow
    return (
        workflow,
        mode,
        str(len(runs)),
        TASKS[workflow].name,
        _interval([one.score for one in runs.values()]),
        _interval([runs[i].score - one.score for i, one in exact.items()]),
        _interval([agreement(runs[i], one) for i, one in exact.items()]),
        _interval(_by_problem([(one.problem, one.kl) for one in moved])),
        _interval(_by_problem([(one.problem, one.top1_agreement) for one in moved])),
    )


def _by_problem(values: Sequence[tuple[int, float]]) -> list[float]:
    """Means over the answers of each problem: answers of one run are no independent sample."""
    found: dict[int, list[float]] = {}
    for problem, value in values:
        found.setdefault(problem, []).append(value)
    return [fmean(each) for each in found.values()]


def _interval(values: Sequence[float]) -> str:
    """Mean with its 95 % bootstrap interval over problems."""
    if not values:
        return ""
    found = spread(values, fmean)
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
