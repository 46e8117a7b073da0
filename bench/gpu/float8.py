"""Steps that decode with KV in fp8, and with the layers' weights in fp8 as well: the same shape, models of their own.

What is said of speed are aims: nobody has measured it. The formats lose precision, which random weights do not show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pavane.bench.gpu.bounds import distinct_keys, float8_weight_bytes, key_bytes, weight_bytes
from pavane.bench.gpu.correctness import attention_error
from pavane.bench.gpu.decode import ms, private
from pavane.bench.gpu.engine import Engine
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject, attention_seconds
from pavane.bench.report import at_most

ERROR = Row("attention over KV in fp8, moved and shared: relative error", at_most(0.01))
KV = Row("decode step, 64 calls with 1k each, KV in fp8 / floor (aim 1.5)")
ATTENTION = Row("attention of that step, KV in bfloat16 / in fp8 (aim 1.6)")
ALONE = Row("decode step, 1 call with 1k, KV and weights in fp8 / floor (aim 1.5)")
BOTH = Row("decode step, 64 calls with 1k each, KV and weights in fp8 / floor (aim 1.6)")


def floor_ms(engine: Engine, keys: int, bandwidth: float, *, weights: bool) -> float:
    """Of a decode step over `keys` distinct ones in fp8: weights and KV read once."""
    config = engine.model.config
    size = float8_weight_bytes(config) if weights else weight_bytes(config, 2)
    return (size + keys * key_bytes(config, 1)) / bandwidth * 1e3


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    bandwidth, _ = subject.card.rates()
    sizes, device = subject.sizes, subject.card.device
    calls = sizes.calls[-1]
    wide = private(subject.engine(), calls, sizes.context, 2)
    bfloat16 = attention_seconds(subject.engine().model, wide[-1].batch, device) * 1e3

    def step(row: Row, engine: Engine, calls: int, *, weights: bool) -> Measured:
        steps = private(engine, calls, sizes.context, sizes.steps)
        floor = floor_ms(engine, distinct_keys(steps[-1].batch), bandwidth, weights=weights)
        notes.data[row.what] = {"step_ms": [step.run_s * 1e3 for step in steps]}
        if row is KV:
            notes.data["attention_ms"] = attention_seconds(engine.model, steps[-1].batch, device) * 1e3
        return Measured(row.what, ms(steps) / floor, f"{ms(steps):.2f} ms", f"{floor:.2f} ms")

    engine = subject.another(replace(sizes, float8_kv=True))
    yield Measured(ERROR.what, attention_error(engine, sizes, device, notes), "", "float64")
    yield step(KV, engine, calls, weights=False)
    float8 = notes.data["attention_ms"]
    yield Measured(ATTENTION.what, bfloat16 / float8, f"{float8:.2f} ms", f"{bfloat16:.2f} ms")
    del engine
    engine = subject.another(replace(sizes, float8_kv=True, float8_weights=True))
    yield step(ALONE, engine, 1, weights=True)
    yield step(BOTH, engine, calls, weights=True)


SECTION = Section("float8", (ERROR, KV, ATTENTION, ALONE, BOTH), 60, measure)
