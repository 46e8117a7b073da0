"""What eviction costs: tokens encoded again in a pool of half the need, by graph against least recently used."""

from __future__ import annotations

from dataclasses import replace

from pavane.bench.report import Figure, at_least
from pavane.bench.scheduling.part import Found, Options, Progress, mean
from pavane.bench.scheduling.play import Player
from pavane.bench.simulation.cost import fitted
from pavane.bench.simulation.system import Eviction, System
from pavane.bench.trace import make_trace, read_trace

RUNNING, LOAD = 16, 0.95
BASE: Eviction = "lru"
OTHER: Eviction = "graph"
BAR = at_least(2.0)
GRAIN = 2  # coarser tokens would make what a decode keeps in reserve count too much


def measure(options: Options, progress: Progress) -> Found:
    """Raises SimulationError."""
    ample = System(max_num_seqs=RUNNING)
    player = Player(fitted()[0], min(GRAIN, options.grain))
    if options.trace is not None:
        traces = [read_trace(options.trace)]
    else:
        full = Player(player.cost, options.grain).saturation(ample, options)
        seeds, count = (1, 30) if options.quick else (max(1, options.seeds // 2), options.workflows // 4)
        traces = [make_trace(seed, count, LOAD * full) for seed in range(seeds)]
    tokens: dict[Eviction, list[int]] = {BASE: [], OTHER: []}
    needs = []
    for number, trace in enumerate(traces):
        need = player.play(ample, trace).peak_need
        needs.append(need)
        for eviction, each in tokens.items():
            run = player.play(replace(ample, eviction=eviction, num_slots=need // 2), trace)
            each.append(run.total.reencoded * player.grain)
        again = ", ".join(f"{name} {each[-1]}" for name, each in tokens.items())
        progress(f"  eviction, trace {number}: {need} tokens needed at most; encoded again: {again}")
    ratios = [base / max(1, other) for base, other in zip(tokens[BASE], tokens[OTHER], strict=True)]
    figure = Figure.of(
        f"tokens encoded again, pool half of the need: {BASE} / {OTHER}",
        mean(ratios),
        BAR,
        str(sum(tokens[OTHER])),
        str(sum(tokens[BASE])),
    )
    return Found([figure], {"peak_need": needs, "reencoded": tokens, "grain": player.grain})
