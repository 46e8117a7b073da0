"""Steps that decode: against the bytes they must read, and against steps that share nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from pavane.bench.gpu.bounds import decode_seconds, distinct_keys
from pavane.bench.gpu.engine import Engine, Step
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject, attention_seconds
from pavane.bench.report import at_least, at_most

FLOORS = (
    Row("decode step, 1 call with 1k of its own / floor", at_most(1.35)),
    Row("decode step, 16 calls with 1k each / floor", at_most(1.4)),
    Row("decode step, 64 calls with 1k each / floor", at_most(1.5)),
)
ONCE = Row("attention, 16 calls, 8k shared in 16 orders: read per call / once", at_least(4))
STEP = Row("decode step, the same / with 0.5k private each", at_most(1.2))


def private(engine: Engine, calls: int, context: int, steps: int) -> list[Step]:
    """Steps of `calls` calls, each with `context` tokens that only it sees."""
    with engine.workflow():
        length = 4 * steps + context  # more than they come to
        engine.submit([engine.calls.answer(f"c{i}", length, header=context) for i in range(calls)])
        return engine.decoding(calls, steps)


def shared(engine: Engine, calls: int, messages: int, message: int, steps: int, *, apart: bool) -> list[Step]:
    """Steps of `calls` calls that read `messages` messages in orders of their own; with `apart` each has its own ones,
    as long."""
    with readers(engine, calls, messages, message, 8 * steps, apart=apart):
        return engine.decoding(calls, steps)


@contextmanager
def readers(
    engine: Engine, calls: int, messages: int, message: int, tokens: int, *, apart: bool = False
) -> Iterator[None]:
    """Calls as `shared` has them, which have been submitted; `tokens` of each answer."""
    with engine.workflow():
        of = [[f"m{i if apart else 0}.{j}" for j in range(messages)] for i in range(calls)]
        engine.submit([engine.calls.text(name, message) for name in dict.fromkeys(itertools.chain(*of))])
        engine.run()
        turned = [(*names[i % messages :], *names[: i % messages]) for i, names in enumerate(of)]
        engine.submit([engine.calls.answer(f"c{i}", tokens, names) for i, names in enumerate(turned)])
        yield


def ms(steps: Sequence[Step]) -> float:
    return median(step.run_s for step in steps) * 1e3


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    bandwidth, _ = subject.card.rates()
    engine, sizes = subject.engine(), subject.sizes
    model = engine.model
    for row, calls in zip(FLOORS, sizes.calls, strict=True):
        steps = private(engine, calls, sizes.context, sizes.steps)
        keys = distinct_keys(steps[-1].batch)
        floor = decode_seconds(model.config, keys, model.itemsize, bandwidth) * 1e3
        notes.data[f"{calls} calls"] = {"step_ms": [step.run_s * 1e3 for step in steps], "distinct_keys": keys}
        yield Measured(row.what, ms(steps) / floor, f"{ms(steps):.2f} ms", f"{floor:.2f} ms")


def measure_sharing(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, sizes, device = subject.engine(), subject.sizes, subject.card.device
    once = shared(engine, sizes.sharing, sizes.messages, sizes.message, sizes.steps, apart=False)
    attention = attention_seconds(engine.model, once[-1].batch, device) * 1e3
    notes.data["shared"] = {"step_ms": [step.run_s * 1e3 for step in once], "attention_ms": attention}
    short = private(engine, sizes.sharing, sizes.short, sizes.steps)
    yield Measured(STEP.what, ms(once) / ms(short), f"{ms(once):.2f} ms", f"{ms(short):.2f} ms")
    apart = shared(engine, sizes.sharing, sizes.messages, sizes.message, sizes.steps, apart=True)
    each = attention_seconds(engine.model, apart[-1].batch, device) * 1e3
    notes.data["apart"] = {"step_ms": [step.run_s * 1e3 for step in apart], "attention_ms": each}
    yield Measured(ONCE.what, each / attention, f"{attention:.2f} ms", f"{each:.2f} ms")


SECTION = Section("decode", FLOORS, 40, measure)
SHARING = Section("sharing", (ONCE, STEP), 45, measure_sharing)
