"""Whole workflows on the engine, all edges REUSE against all edges EXACT: the same graph, the same lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

from pavane.bench.gpu.calls import Calls
from pavane.bench.gpu.engine import Engine
from pavane.bench.gpu.graphs import debate, rag, tree
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.sizes import Sizes
from pavane.bench.gpu.subject import Subject
from pavane.bench.report import Bar, at_least
from pavane.scheduler.spec import CallSpec

Graph = Callable[..., list[CallSpec]]
Cases = dict[
    str, tuple[Graph, Bar | None]
]  # by name: the graph for (calls, sizes, exact), and the bar of its wall time
SOON_S = 6.0
FIRST, WALL = "mean time to first token, EXACT / REUSE", "wall, EXACT / REUSE"


@dataclass(frozen=True)
class Ran:
    """Seconds, of the whole workflow and of its calls' first tokens from when their parents were done, and rows."""

    wall: float
    first_token: float
    rows: int


def short(sizes: Sizes) -> Cases:
    """Seconds each."""
    name = f"RAG team {sizes.rag_agents} x {sizes.rag_documents} x {sizes.rag_document}"
    found: Cases = {name: (rag, at_least(3))}
    for branches, votes in sizes.trees:
        found[f"tree B={branches} V={votes}"] = (_tree(branches, votes), None)
    return found


def long(sizes: Sizes) -> Cases:
    """Half a minute each, the fewest and the most agents first."""
    first, *others = sizes.debate_agents
    named = {f"debate A={agents} R={sizes.debate_rounds} x {sizes.answer}": agents for agents in (first, *others[::-1])}
    return {name: (_debate(agents), None) for name, agents in named.items()}


def rows(cases: Cases) -> tuple[Row, ...]:
    found = []
    for name, (_, bar) in cases.items():
        found += [Row(f"{name}: {FIRST}", at_least(6.2)), Row(f"{name}: {WALL}", bar)]
    return tuple(found)


def play(engine: Engine, graph: Graph, sizes: Sizes, *, exact: bool) -> Ran:
    """All calls at once, to their end."""
    with engine.workflow():
        calls = graph(engine.calls, sizes=sizes, exact=exact)
        began = time.perf_counter()
        engine.submit(calls)
        steps = engine.run()
        wall = time.perf_counter() - began
        first = [outcome.receipt.first_token_s for outcome in engine.ended.values() if outcome.decode]
    return Ran(wall, fmean(first), sum(step.batch.n_rows for step in steps))


def section(name: str, cases: Cases, *, each: float) -> Section[Subject]:
    """Of as many as there is time for, `each` taking so many seconds."""

    def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
        engine, sizes = subject.engine(), subject.sizes
        for name, (graph, _) in cases.items():
            notes.check_time(each)
            exact, reuse = (_play_warm(engine, graph, sizes, exact=each) for each in (True, False))
            notes.data[name] = {"exact": vars(exact), "reuse": vars(reuse)}
            ms = f"{reuse.first_token * 1e3:.1f} ms", f"{exact.first_token * 1e3:.1f} ms"
            yield Measured(f"{name}: {FIRST}", exact.first_token / reuse.first_token, *ms)
            yield Measured(f"{name}: {WALL}", exact.wall / reuse.wall, f"{reuse.wall:.2f} s", f"{exact.wall:.2f} s")

    return Section(name, rows(cases), each, measure)


def _play_warm(engine: Engine, graph: Graph, sizes: Sizes, *, exact: bool) -> Ran:
    """Again, if it was soon over: then what it captured, of steps that nobody had met, would be much of its time."""
    first = play(engine, graph, sizes, exact=exact)
    return play(engine, graph, sizes, exact=exact) if first.wall < SOON_S else first


def _debate(agents: int) -> Graph:
    def graph(calls: Calls, sizes: Sizes, *, exact: bool) -> list[CallSpec]:
        return debate(calls, agents, sizes, exact=exact)

    return graph


def _tree(branches: int, votes: int) -> Graph:
    def graph(calls: Calls, sizes: Sizes, *, exact: bool) -> list[CallSpec]:
        return tree(calls, branches, votes, sizes, exact=exact)

    return graph
