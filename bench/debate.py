"""The parallel debate, all-EXACT and REUSE and on peers, interleaved, each repetition afresh, equal lengths."""

from __future__ import annotations

import argparse

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab
from pavane.bench.report import Report
from pavane.bench.workflows.cases import Case
from pavane.bench.workflows.figures import all_figures
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.session import measure as measure_case
from pavane.bench.workflows.session import recorded
from pavane.clients.workflows.debate import KIND, DebateSizes
from pavane.clients.workflows.problem import TextProblem

PEERS: tuple[str, ...] = ()
QUICK = {"agents": 2, "rounds": 2, "tokens": 4, "repeat": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=2, help="after the first one")
    parser.add_argument("--tokens", type=positive, default=96, help="of each answer, exactly")
    parser.add_argument("--repeat", type=positive, default=3, help="of all arms, interleaved")
    parser.add_argument("--problem", default=KIND.sample_problems()[0].problem)


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    sizes = DebateSizes(args.agents, args.rounds, answer_tokens=args.tokens, last_tokens=args.tokens)
    case = Case(KIND, sizes, TextProblem(args.problem), "given")
    journal = Journal(None)
    recording = await recorded(lab, journal, case, 1)
    async with lab.pavane.client() as client:
        bos = (await client.server_info()).bos_token_id
    await measure_case(lab, journal, case, recording, ["exact", "reuse", *lab.peers], args.repeat, bos=bos)
    runs = journal.runs(case.name)
    modes = {
        arm: {
            "tokens": next(run.tokens for run in runs if run.arm == arm),
            "predicted": next(run.predicted for run in runs if run.arm == arm),
            "walls_s": [run.wall for run in runs if run.arm == arm],
        }
        for arm in dict.fromkeys(run.arm for run in runs)
    }
    defect = "" if all(run.counted for run in runs) else f"the debate's tokens are not as predicted: {modes}"
    return Report("debate", all_figures(journal), {**case.all_sizes, "modes": modes}, defect)
