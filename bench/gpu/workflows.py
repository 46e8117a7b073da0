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
SOON_S = 6.0
FIRST, WALL = "mean time to first token, EXACT / REUSE", "wall, EXACT / REUSE"


@dataclass(frozen=True)
class Ran:
    """Seconds, of the whole workflow and of its calls' first tokens from when their parents were done, and rows."""

    wall: float
    first_token: float
    rows: int


def cases(sizes: Sizes) -> dict[str, tuple[Graph, Bar | None]]:
    """By name: the graph for (calls, sizes, exact), and the bar of the wall time."""
    name = f"RAG team {sizes.rag_agents} x {sizes.rag_documents} x {sizes.rag_document}"
    found: dict[str, tuple[Graph, Bar | None]] = {name: (rag, at_least(3))}
    for branches, votes in sizes.trees:
        found[f"tree B={branches} V={votes}"] = (_tree(branches, votes), None)
    for agents in sizes.debate_agents:
        name = f"debate A={agents} R={sizes.debate_rounds} x {sizes.answer}"
        found[name] = (_debate(agents), None)
    return found


def rows(sizes: Sizes) -> tuple[Row, ...]:
    found = []
    for name, (_, bar) in cases(sizes).items():
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


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, sizes = subject.engine(), subject.sizes
    for name, (graph, _) in cases(sizes).items():
        notes.check_time()
        exact, reuse = (_play_warm(engine, graph, sizes, exact=each) for each in (True, False))
        notes.data[name] = {"exact": vars(exact), "reuse": vars(reuse)}
        first = (exact.first_token, reuse.first_token)
        yield Measured(f"{name}: {FIRST}", first[0] / first[1], f"{first[1] * 1e3:.1f} ms", f"{first[0] * 1e3:.1f} ms")
        yield Measured(f"{name}: {WALL}", exact.wall / reuse.wall, f"{reuse.wall:.2f} s", f"{exact.wall:.2f} s")


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


def section(sizes: Sizes) -> Section[Subject]:
    return Section("workflows", rows(sizes), 30, measure)
