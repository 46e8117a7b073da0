"""What `--batch-invariant` costs, and that it holds: a row's logits to the bit, alone, among others and in a chunk."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pavane.bench.gpu.decode import ms, private
from pavane.bench.gpu.engine import Engine, Model
from pavane.bench.gpu.models import batch_invariant
from pavane.bench.gpu.prefill import encoded
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject
from pavane.bench.report import at_most
from pavane.models.gpu_runner import GpuRunner
from pavane.models.gpu_warmup import step

BITS = Row("batch-invariant: rows whose logits differ with their company", at_most(0))
DECODE = Row("batch-invariant: decode step, 16 calls with 1k each / default")
PREFILL = Row("batch-invariant: prefill of 2k / default")
BEFORE, ROWS = 70, 24


def differing(model: Model) -> int:
    """Rows of a prefill and of steps of decodes, with a parent and without, that have other logits alone or in another
    chunk."""
    runner, positions = model.runner, model.config.max_position
    assert isinstance(runner, GpuRunner)
    store = runner.model.attention.store
    store.k[:, : 2 * BEFORE * ROWS].normal_()
    store.v[:, : 2 * BEFORE * ROWS].normal_()
    whole = runner.logits(step([ROWS], positions, before=BEFORE, samples=ROWS))
    pairs = [(whole, 0, runner.logits(step([1], positions, before=BEFORE)))]
    pairs += [
        (whole, first, runner.logits(step([ROWS - first], positions, before=BEFORE + first, samples=ROWS - first)))
        for first in (1, ROWS - 7, ROWS - 1)
    ]
    for parent in (0, BEFORE):
        decodes = [runner.logits(step([1] * n, positions, before=BEFORE, parent=parent)) for n in (ROWS, 5, 1)]
        pairs += [(decodes[0], 0, fewer) for fewer in decodes[1:]]
    differ = [(many[first : first + len(few)] != few).any(dim=1) for many, first, few in pairs]
    return int(torch.cat(differ).sum())


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, sizes = subject.engine(), subject.sizes
    own = batch_invariant(engine.model)
    yield Measured(BITS.what, differing(own), "prefill in chunks, decodes of 1, 5 and 24, with and without merge")
    other = Engine(own, budget=sizes.prompt)
    steps = [private(each, sizes.sharing, sizes.context, sizes.steps) for each in (other, engine)]
    notes.data["step_ms"] = [[one.run_s * 1e3 for one in found] for found in steps]
    ours, default = map(ms, steps)
    yield Measured(DECODE.what, ours / default, f"{ours:.2f} ms", f"{default:.2f} ms")
    ours, default = (encoded(each, [], sizes.new) * 1e3 for each in (other, engine))
    yield Measured(PREFILL.what, ours / default, f"{ours:.1f} ms", f"{default:.1f} ms")


SECTION = Section("invariant", (BITS, DECODE, PREFILL), 40, measure)
