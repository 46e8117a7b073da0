"""KV on its way to host memory and back beside steps that decode: how fast it goes, and what it costs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np

from pavane.bench.gpu.decode import ms, private
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.subject import Subject
from pavane.kernels.batch import Batch, Int32, MoveIn, MoveOut, Moves, Runner, StepResult
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.host_mover import host_mover
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages

AT_ONCE = 3  # entries each way in a step: less than the staging holds, at the shape of Llama 3.1 8B
OUT = Row("KV to host memory beside 64 decodes, GB/s while it is copied")
BACK = Row("KV from host memory beside 64 decodes, GB/s while it is copied")
SLOWER = Row("decode step, 64 calls with 1k each, KV going both ways / nothing going")


class Carrying:
    """A runner that moves entries of `tokens` tokens beside each step: out of one place, and into another what has come
    from there before."""

    def __init__(self, runner: Runner, mover: Mover, tokens: int) -> None:
        self._runner = runner
        self._mover = mover
        self._places = [np.array([(n * tokens, tokens)], dtype=np.int32) for n in range(2 * AT_ONCE)]
        self._stored = [bytes([0, n]) for n in range(AT_ONCE)]
        self._going = deque(bytes([1, n]) for n in range(3 * AT_ONCE))
        self._tickets = count()
        self._coming: dict[int, Int32] = {}
        mover.begin(Moves(out=tuple(MoveOut(key, self._places[0]) for key in self._stored)))
        self.out_tokens, self.in_tokens, self.out_s, self.in_s = 0, 0, 0.0, 0.0

    def execute(self, batch: Batch) -> StepResult:
        going = tuple(self._going)[:AT_ONCE]
        self._going.rotate(-AT_ONCE)
        free = [place for place in self._places[AT_ONCE:] if all(place is not taken for taken in self._coming.values())]
        back = tuple(MoveIn(next(self._tickets), key, 0, place) for key, place in zip(self._stored, free, strict=False))
        self._coming |= {move.ticket: move.extents for move in back}
        out = tuple(MoveOut(key, place) for key, place in zip(going, self._places, strict=False))
        self._mover.begin(Moves(going, out, back))
        result = self._runner.execute(batch)
        self.report(wait=False)
        return result

    def report(self, *, wait: bool) -> None:
        report = self._mover.report(wait=wait)
        if report is None:
            return
        if report.failed or report.lost:
            raise RuntimeError("KV could not be carried, as the log says")
        for ticket in report.arrived:
            del self._coming[ticket]
        self.out_tokens += report.out_tokens
        self.in_tokens += report.in_tokens
        self.out_s += report.out_s
        self.in_s += report.in_s

    def end(self) -> None:
        while self._coming:
            self.report(wait=True)
        self._mover.stop()


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, sizes, model = subject.engine(), subject.sizes, subject.engine().model
    config, tokens = model.config, sizes.message
    calls = sizes.calls[-1]
    alone = ms(private(engine, calls, sizes.context, sizes.steps))
    dtype = model.stored(0)[0].dtype
    slots = 2 * AT_ONCE * tokens
    store = DeviceKV(config.num_layers, slots, config.num_kv_heads, config.head_dim, dtype, subject.card.device)
    for part in (store.k, store.v):
        part.zero_()
    layout = SlotPages(store.parts())
    carrying = Carrying(model.runner, host_mover(layout, 4 * AT_ONCE * -(-tokens // PAGE) * layout.page_bytes), tokens)
    engine.model = replace(model, runner=carrying)
    try:
        beside = ms(private(engine, calls, sizes.context, sizes.steps))
    finally:
        engine.model = model
        carrying.end()
    per_token = layout.page_bytes / PAGE / 1e9
    out, back = (n * per_token for n in (carrying.out_tokens, carrying.in_tokens))
    yield Measured(OUT.what, out / carrying.out_s, f"{out:.1f} GB", f"{carrying.out_s:.2f} s")
    yield Measured(BACK.what, back / carrying.in_s, f"{back:.1f} GB", f"{carrying.in_s:.2f} s")
    notes.data |= {"out_gb": out, "back_gb": back, "alone_ms": alone, "beside_ms": beside}
    yield Measured(SLOWER.what, beside / alone, f"{beside:.2f} ms", f"{alone:.2f} ms")


SECTION = Section("host tier", (OUT, BACK, SLOWER), 20, measure)
