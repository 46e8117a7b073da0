"""What a small cache costs: tokens encoded again in a pool of half the need, by graph against least recently used.

The graph says what goes first, and with load control also what begins: both together are compared with neither, and
each alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pavane.bench.report import Figure, at_most
from pavane.bench.scheduling.part import Found, Options, Progress, mean, percentile
from pavane.bench.scheduling.play import Player
from pavane.bench.simulation.cost import fitted
from pavane.bench.simulation.simulator import Run
from pavane.bench.simulation.system import System
from pavane.bench.trace import make_trace, read_trace

RUNNING, LOAD = 16, 0.95
BASE, OTHER = "lru", "graph, load control"
ARMS = {
    BASE: System(max_num_seqs=RUNNING, eviction="lru", load_control=False),
    "graph": System(max_num_seqs=RUNNING, load_control=False),
    "lru, load control": System(max_num_seqs=RUNNING, eviction="lru"),
    OTHER: System(max_num_seqs=RUNNING),
}
BAR, TIME_BAR = at_most(0.5), at_most(1.0)
GRAIN = 2  # coarser tokens would make what a decode keeps in reserve count too much


def measure(options: Options, progress: Progress) -> Found:
    """Raises SimulationError."""
    ample = ARMS[OTHER]
    player = Player(fitted()[0], min(GRAIN, options.grain))
    if options.trace is not None:
        traces = [read_trace(options.trace)]
    else:
        full = Player(player.cost, options.grain).saturation(ample, options)
        seeds, count = (1, 30) if options.quick else (max(1, options.seeds // 2), options.workflows // 4)
        traces = [make_trace(seed, count, LOAD * full) for seed in options.numbers(seeds)]
    runs: dict[str, list[Run]] = {name: [] for name in ARMS}
    needs = []
    for number, trace in enumerate(traces):
        need = player.play(ample, trace).peak_need
        needs.append(need)
        for name, system in ARMS.items():
            runs[name].append(player.play(replace(system, num_slots=need // 2), trace))
        again = "; ".join(f"{name} {_again(each[-1:], player)[0]}" for name, each in runs.items())
        progress(f"  eviction, trace {number}: {need} tokens needed at most; encoded again: {again}")
    tokens = {name: _again(each, player) for name, each in runs.items()}
    data = {
        "peak_need": needs,
        "reencoded": tokens,
        "mean_s": {name: [fmean(_times(run)) for run in each] for name, each in runs.items()},
        "p99_s": {name: [percentile(_times(run), 99) for run in each] for name, each in runs.items()},
        "grain": player.grain,
    }
    figures = [
        Figure(
            f"tokens encoded again, pool half of the need: {name} / {BASE}",
            sum(tokens[name]) / max(1, sum(tokens[BASE])),
            BAR if name == OTHER else None,
            str(sum(tokens[name])),
            str(sum(tokens[BASE])),
        )
        for name in list(ARMS)[1:]
    ]
    return Found([*figures, *_slower(runs)], data)


def _slower(runs: dict[str, list[Run]]) -> list[Figure]:
    """What load control does to the times of workflows."""
    base, other = ([_times(run) for run in runs[name]] for name in ("graph", OTHER))
    return [
        Figure.of(
            f"{what} of a workflow, same pool: {OTHER} / graph",
            mean([of(b) / of(a) for a, b in zip(base, other, strict=True)]),
            TIME_BAR,
            *(f"{fmean(map(of, each)):.0f} s" for each in (other, base)),
        )
        for what, of in (("mean time", fmean), ("99th percentile of the time", lambda times: percentile(times, 99)))
    ]


def _again(runs: Sequence[Run], player: Player) -> list[int]:
    return [run.total.reencoded * player.grain for run in runs]


def _times(run: Run) -> list[float]:
    return [workflow.seconds for workflow in run.workflows]
