"""How good a workflow's answers are in each mode, how often the modes agree, and which reuse moves the answers.

examples:
  pavane eval debate                                          our own problems, exact and reuse
  pavane eval debate --problems math.jsonl --count 50 --json scores.jsonl
  pavane eval branch-solve-merge --sizes story_tokens=200,final_tokens=300
  pavane report debate.jsonl --eval scores.jsonl -o page      the divergence on the graph

Each problem is a line of JSON: what the workflow needs, and what its answer is compared with: `answer`, or `solution`
with \\boxed{...} (math); `concepts` (the share that the story has); `answers` (the share that is named; "8|eight" are
two ways to say one). Intervals are bootstraps over problems. The file of --json goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from pavane.bench.arguments import add_serve, positive
from pavane.bench.evals.evaluation import Evaluation, Question, evaluate, questions
from pavane.bench.evals.summary import summary
from pavane.bench.evals.tasks import TASKS, BadLine
from pavane.bench.lab import open_lab, stopped_in_order
from pavane.bench.report import cores
from pavane.bench.server_process import ServerFailed
from pavane.bench.workflow import make_setup
from pavane.bench.workflows.cases import BadCase, sizes_of
from pavane.bench.workflows.journal import Journal, JournalFailed
from pavane.bench.workflows.records import MODES
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.clients.workflows import WORKFLOWS
from pavane.models.default import default_model_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane eval`."""
    parser.add_argument("workflow", metavar="NAME", choices=[*TASKS], help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="a problem in each line; default: our own")
    parser.add_argument("--count", type=positive, metavar="N", help="the first N problems; default: all")
    parser.add_argument("--modes", default="exact,reuse", help=f"of {', '.join(MODES)}; default: %(default)s")
    parser.add_argument("--sizes", default="", metavar="NAME=N,...", help="default: those for small models")
    parser.add_argument("--temperature", type=float, default=0.7, help="default: %(default)s")
    parser.add_argument("--seed", type=positive, default=1, help="default: %(default)s")
    parser.add_argument(
        "--no-score", action="store_true", help="leave the divergence from exact edges out: it is faster"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line for each run and each answer")
    parser.add_argument("--threads", type=positive, default=cores(), help="default: one per core")
    parser.add_argument("--model", type=Path, help="GGUF file; default: as pavane serve")
    add_serve(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates what the file lacks, and prints a table of all of it."""
    modes = [mode for mode in args.modes.split(",") if mode]
    if wrong := [mode for mode in modes if mode not in MODES]:
        raise UsageError(f"--modes: {wrong[0]!r} is none of {', '.join(MODES)}")
    kind = WORKFLOWS[args.workflow]
    try:
        sizes = sizes_of(kind, kind.small(), args.sizes)
        problems = questions(kind, args.problems, args.count)
        wanted = Evaluation(kind, TASKS[kind.name], sizes, args.temperature, args.seed)
        journal = Journal(args.json)
        model = args.model or default_model_path()
        journal.begin(make_setup(model, args))
    except (BadCase, BadLine, JournalFailed) as error:
        raise UsageError(str(error)) from error
    console = PavaneConsole(stderr=True)
    try:
        with stopped_in_order():
            asyncio.run(_run(journal, wanted, problems, modes, model, args))
    except BadLine as error:
        raise UsageError(str(error)) from error
    except ServerFailed as error:
        console.print(str(error), markup=False)
        return 1
    print(summary(journal, [wanted.case]))
    return 0


async def _run(
    journal: Journal,
    wanted: Evaluation,
    problems: Sequence[Question],
    modes: Sequence[str],
    model: Path,
    args: argparse.Namespace,
) -> None:
    async with open_lab(model=model, threads=args.threads, peers=(), slots=0, serve=args.serve) as lab:
        await evaluate(lab, journal, wanted, problems, modes, score=not args.no_score)
