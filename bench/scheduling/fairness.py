"""What a flood does to others: their time to first token while one tenant sends ten times its share, all urgent."""

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
    times: dict[str, list[float]] = {"share": [], "flood": []}
    for seed in range(seeds):
        flood, share = traces(seed, count, LOAD * full)
        times["share"].append(_tail(player.play(calm, share, OTHERS)))
        times["flood"].append(_tail(player.play(top, flood, OTHERS)))
        progress(f"  fairness, trace {seed}: {times['share'][-1]:.2f} s, with the flood {times['flood'][-1]:.2f} s")
    figure = Figure.of(
        f"99 of 100 first tokens of the others: {FLOODING} sends {FACTOR}x / its share",
        mean([b / a for a, b in zip(times["share"], times["flood"], strict=True)]),
        BAR,
        *(f"{sum(each) / len(each):.2f} s" for each in (times["flood"], times["share"])),
    )
    return Found([figure], {"first_token_p99_s": times, "load": LOAD, "grain": options.grain})


def traces(seed: int, count: int, rate: float) -> tuple[list[TraceWorkflow], list[TraceWorkflow]]:
    """One tenant sends `FACTOR` times its share, and the same without all but every `FACTOR`th of its workflows, which
    then come at `rate`, about `count` of them over all tenants."""
    more = (FACTOR + TENANTS - 1) / TENANTS
    flood = make_trace(seed, round(count * more), rate * more, TENANTS, Flood(FLOODING, FACTOR))
    its = [workflow for workflow in flood if workflow.tenant == FLOODING]
    kept = {workflow.id for workflow in its[::FACTOR]}
    return flood, [workflow for workflow in flood if workflow.tenant != FLOODING or workflow.id in kept]


def _tail(run: Run) -> float:
    return percentile(_first_tokens(run, OTHERS), 99)


def _first_tokens(run: Run, tenants: Sequence[str]) -> list[float]:
    return [seconds for workflow in run.workflows if workflow.tenant in tenants for seconds in workflow.first_tokens]
