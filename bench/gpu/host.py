"""What the processor does for a step while the card could be waiting."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from pavane.bench.gpu.decode import readers, shared
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import host_seconds
from pavane.bench.report import at_most

TOTAL = Row("host time of a step, 64 calls x 8 parents, ms", at_most(2))
AHEAD = Row("steps launched ahead, the same / one by one", at_most(0.85))


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, sizes = subject.engine(), subject.sizes
    steps = shared(engine, sizes.busy, sizes.busy_parents, sizes.message, sizes.steps, apart=False)
    scheduler = median(step.host_s for step in steps) * 1e3
    batch = steps[-1].batch
    plan = host_seconds(subject.card.device, lambda: engine.model.attention.plan(batch)) * 1e3
    notes.data |= {"scheduler_ms": [step.host_s * 1e3 for step in steps], "plan_ms": plan, "segments": batch.n_segments}
    yield Measured(TOTAL.what, scheduler + plan, f"scheduler {scheduler:.2f}, plan {plan:.2f} ms")
    alone = median(step.host_s + step.run_s for step in steps) * 1e3
    with readers(engine, sizes.busy, sizes.busy_parents, sizes.message, 8 * sizes.steps):
        intervals = [each * 1e3 for each in engine.intervals(sizes.busy, sizes.steps)]
    notes.data["ahead_ms"] = intervals
    hidden = median(intervals)
    yield Measured(AHEAD.what, hidden / alone, f"{hidden:.2f} ms", f"{alone:.2f} ms")


SECTION = Section("host", (TOTAL, AHEAD), 20, measure)
