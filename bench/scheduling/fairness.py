"""What a flood does to others: their times to first token while one tenant sends ten times its share, all urgent.

Graphs begin with prompts, and a call's time to first token does not count what its parents waited: therefore also the
times of whole workflows, in which some slowing is due to the server being full.
"""

from __future__ import annotations

from collections.abc import Sequence

from pavane.bench.report import Figure, at_most
from pavane.bench.scheduling.part import Found, Options, Progress, mean, percentile
from pavane.bench.scheduling.play import Player
from pavane.bench.simulation.cost import fitted
from pavane.bench.simulation.simulator import Run
from pavane.bench.simulation.system import System
from pavane.bench.trace import Flood, TraceWorkflow, make_trace

RUNNING, TENANTS, LOAD, FACTOR = 16, 4, 0.80, 10
FLOODING = "t0"
OTHERS = tuple(f"t{i}" for i in range(1, TENANTS))
TOP = 100  # priority of the flood
BAR = at_most(1.25)


def measure(options: Options, progress: Progress) -> Found:
    """Raises SimulationError."""
    calm = System(max_num_seqs=RUNNING)
    top = System(max_num_seqs=RUNNING, priorities={FLOODING: TOP})
    player = Player(fitted()[0], options.grain)
    full = player.saturation(calm, options)
    seeds, count = (1, 40) if options.quick else (options.seeds, options.workflows)
    first: dict[str, list[float]] = {"share": [], "flood": []}
    whole: dict[str, list[float]] = {"share": [], "flood": []}
    for seed in options.numbers(seeds):
        flood, share = traces(seed, count, LOAD * full)
        for name, run in (("share", player.play(calm, share, OTHERS)), ("flood", player.play(top, flood, OTHERS))):
            first[name].append(percentile(_first_tokens(run, OTHERS), 99))
            whole[name].append(percentile([w.seconds for w in run.workflows if w.tenant in OTHERS], 99))
        progress(f"  fairness, trace {seed}: {first['share'][-1]:.2f} s, with the flood {first['flood'][-1]:.2f} s")
    figures = [
        Figure.of(
            f"99 of 100 {what} of the others: {FLOODING} sends {FACTOR}x / its share",
            mean([b / a for a, b in zip(times["share"], times["flood"], strict=True)]),
            bar,
            *(f"{sum(each) / len(each):.2f} s" for each in (times["flood"], times["share"])),
        )
        for what, times, bar in (("first tokens", first, BAR), ("workflows", whole, None))
    ]
    data = {"first_token_p99_s": first, "workflow_p99_s": whole, "load": LOAD, "grain": options.grain}
    return Found(figures, data)


def traces(seed: int, count: int, rate: float) -> tuple[list[TraceWorkflow], list[TraceWorkflow]]:
    """One tenant sends `FACTOR` times its share, and the same without all but every `FACTOR`th of its workflows, which
    then come at `rate`, about `count` of them over all tenants."""
    more = (FACTOR + TENANTS - 1) / TENANTS
    flood = make_trace(seed, round(count * more), rate * more, TENANTS, Flood(FLOODING, FACTOR))
    its = [workflow for workflow in flood if workflow.tenant == FLOODING]
    kept = {workflow.id for workflow in its[::FACTOR]}
    return flood, [workflow for workflow in flood if workflow.tenant != FLOODING or workflow.id in kept]


def _first_tokens(run: Run, tenants: Sequence[str]) -> list[float]:
    return [seconds for workflow in run.workflows if workflow.tenant in tenants for seconds in workflow.first_tokens]
