"""Steps that encode: against the card's rate of products, and behind parents that stand elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from pavane.bench.gpu.bounds import prefill_flops
from pavane.bench.gpu.engine import Engine
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject
from pavane.bench.report import at_least, at_most

RATE = Row("prefill of 8k / rate of products", at_least(0.55))
REORDERED = Row("2k new tokens over 16 reordered parents of 1k / over one of 16k", at_most(1.2))
REUSED = Row("first token behind 16 cached parents of 1k in a new order, ms", at_most(12))
EXACT = Row("the same, EXACT, ms")
TIMES = 5


def encoded(engine: Engine, lengths: list[int], new: int) -> float:
    """Median seconds of the steps that encode `new` tokens behind parents of `lengths`, which have KV and which the new
    message has in reverse order."""
    times = []
    for _ in range(TIMES + 1):
        with engine.workflow():
            parents = [f"p{i}" for i in range(len(lengths))]
            engine.submit([engine.calls.text(name, n) for name, n in zip(parents, lengths, strict=True)])
            engine.run()
            engine.submit([engine.calls.text("new", new, tuple(reversed(parents)))])
            times.append(sum(step.run_s for step in engine.run()))
    return median(times[1:])


def first_token(engine: Engine, parents: int, length: int, *, exact: bool) -> float:
    """Median seconds from submission to the first token behind `parents` parents, read before in another order."""
    times = []
    for i in range(TIMES + 1):
        with engine.workflow():
            names = tuple(f"p{i}" for i in range(parents))
            engine.submit([engine.calls.text(name, length, exact=exact) for name in names])
            engine.submit([engine.calls.answer("before", 1, names, exact=exact)])
            engine.run()
            turn = 1 + i % (parents - 1)
            engine.submit([engine.calls.answer("new", 1, (*names[turn:], *names[:turn]), exact=exact)])
            engine.run()
            times.append(engine.ended["new"].receipt.first_token_s)
    return median(times[1:])


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    _, rate = subject.card.rates()
    engine, sizes = subject.engine(), subject.sizes
    took = encoded(engine, [], sizes.prompt)
    reached = prefill_flops(engine.model.config, sizes.prompt, 0) / took
    notes.data["prefill_s"] = took
    yield Measured(RATE.what, reached / rate, f"{reached / 1e12:.4g} TFLOP/s", f"{rate / 1e12:.4g} TFLOP/s")
    many = encoded(engine, [sizes.document] * sizes.documents, sizes.new)
    one = encoded(engine, [sizes.document * sizes.documents], sizes.new)
    notes.data |= {"reordered_s": many, "contiguous_s": one}
    yield Measured(REORDERED.what, many / one, f"{many * 1e3:.1f} ms", f"{one * 1e3:.1f} ms")
    for row, exact in ((REUSED, False), (EXACT, True)):
        took = first_token(engine, sizes.documents, sizes.document, exact=exact) * 1e3
        yield Measured(row.what, took, f"{took:.1f} ms")


SECTION = Section("prefill", (RATE, REORDERED, REUSED, EXACT), 60, measure)
