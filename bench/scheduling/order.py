"""What the order of calls is worth: the mean time of workflows by graph against first come, first served, by call."""

from __future__ import annotations

from statistics import fmean

from pavane.bench.report import Figure, at_most
from pavane.bench.scheduling.part import Found, Options, Progress, mean, percentile
from pavane.bench.scheduling.play import Player
from pavane.bench.simulation.cost import fitted
from pavane.bench.simulation.simulator import Run
from pavane.bench.simulation.system import System
from pavane.bench.trace import TraceWorkflow, make_trace, read_trace

RUNNING = 16
BASE, OTHER = "fcfs", "graph"
# Share of the rate that fills the server, and the bar of the mean time: graph / fcfs.
LOADS = {0.80: at_most(0.90), 0.95: at_most(0.80)}
TAIL_BAR = at_most(1.0)


def measure(options: Options, progress: Progress) -> Found:
    """Raises SimulationError."""
    systems = {policy: System(max_num_seqs=RUNNING, policy=policy) for policy in (BASE, OTHER)}
    player = Player(fitted()[0], options.grain)
    figures: list[Figure] = []
    data: dict[str, object] = {"grain": options.grain}
    if options.trace is not None:
        runs = {policy: [player.play(system, read_trace(options.trace))] for policy, system in systems.items()}
        return Found(_figures("the trace", runs, data), data)
    full = player.saturation(systems[BASE], options)
    data["saturation_per_s"] = full
    progress(f"  order: {RUNNING} calls at once are full at {full:.3f} workflows a second")
    seeds, count = (2, 60) if options.quick else (options.seeds, options.workflows)
    for load in LOADS:
        traces = [make_trace(seed, count, load * full) for seed in options.numbers(seeds)]
        runs = {policy: _runs(player, system, traces) for policy, system in systems.items()}
        times = ", ".join(f"{p} {fmean(_times(r)):.0f} s" for p, each in runs.items() for r in each[:1])
        progress(f"  order, load {load:.0%}: {seeds} traces of {count} workflows; of the first the mean is {times}")
        figures += _figures(f"load {load:.0%}", runs, data, load)
    return Found(figures, data)


def _runs(player: Player, system: System, traces: list[list[TraceWorkflow]]) -> list[Run]:
    return [player.play(system, trace) for trace in traces]


def _figures(what: str, runs: dict[str, list[Run]], data: dict[str, object], load: float | None = None) -> list[Figure]:
    base, other = ([_times(run) for run in runs[policy]] for policy in (BASE, OTHER))
    data[what] = {
        policy: {"mean_s": [fmean(t) for t in times], "p99_s": [percentile(t, 99) for t in times]}
        for policy, times in ((BASE, base), (OTHER, other))
    }
    means = [fmean(b) / fmean(a) for a, b in zip(base, other, strict=True)]
    tails = [percentile(b, 99) / percentile(a, 99) for a, b in zip(base, other, strict=True)]
    return [
        Figure.of(
            f"{what}, mean time of a workflow: {OTHER} / {BASE}",
            mean(means),
            LOADS.get(load) if load is not None else None,
            f"{fmean(map(fmean, other)):.0f} s",
            f"{fmean(map(fmean, base)):.0f} s",
        ),
        Figure.of(
            f"{what}, 99 of 100 workflows: {OTHER} / {BASE}",
            mean(tails),
            TAIL_BAR,
            f"{fmean(percentile(t, 99) for t in other):.0f} s",
            f"{fmean(percentile(t, 99) for t in base):.0f} s",
        ),
    ]


def _times(run: Run) -> list[float]:
    return [workflow.seconds for workflow in run.workflows]
