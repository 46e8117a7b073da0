"""What a step costs beside the model: schedule, cache, plan and commit, with many calls running and many waiting."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pavane.bench.report import Figure, at_most
from pavane.bench.scheduling.part import Found, Options, Progress, percentile
from pavane.bench.simulation.cost import CostModel
from pavane.bench.simulation.runner import SimulatedRunner
from pavane.bench.simulation.system import System
from pavane.bench.simulation.tokens import Speller
from pavane.bench.trace import TraceCall
from pavane.scheduler.spec import Ended, Event, State
from pavane.server import memory

RUNNING, PARENTS, WAITING = 256, 8, 10_000
FEW, MANY = 1_000, 100_000
TEXTS, READERS = 16, 8  # messages of a workflow, and calls at once that read them
TEXT_TOKENS = 64
LONG = 4_096  # tokens of an answer that does not end here
BESIDE = 2  # steps of a call beside those of its tokens: the end of its turn, and the trailer
WARM_UP = 8  # steps
APART = 32  # calls that do not end begin over so many steps, as they would: then few of them need new slots at once
# Of 256 calls, how many end in each step: 2 is answers of 126 tokens, more than in the default trace, whose answers of
# 204 are 1.25. 13 is answers of 17: what calls cost that begin and end, beside those that go on; told, without a bar.
ENDS = {"none end": 0, "1 % end": 2, "5 % end": 13}
STEP_BAR, GROWTH_BAR = at_most(4.0), at_most(2.0)
STRESS = "5 % end"
FREE = SimulatedRunner(CostModel(0.001, 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Sizes:
    running: int
    waiting: int
    known: int  # messages
    ending: int  # calls that end in each step


def measure(options: Options, progress: Progress) -> Found:
    running, waiting, many = (32, 100, 1_500) if options.quick else (RUNNING, WAITING, MANY)
    few = min(FEW, many)
    steps = 20 if options.quick else 150
    times: dict[str, list[float]] = {}
    for name, ends in ENDS.items():
        ending = -(-ends * running // RUNNING)
        for known in (few, many):
            sizes = Sizes(running, waiting if known == many else max(0, few - 3 * running), known, ending)
            each = times[f"{name}, {known} messages"] = _steps(sizes, steps)
            progress(
                f"  step, {name}, {known} messages known: {median(each):.2f} ms, 95 of 100 {percentile(each, 95):.2f}"
            )
    figures = []
    for name in ENDS:
        small, large = (times[f"{name}, {known} messages"] for known in (few, many))
        what = f"step of {running} calls x {PARENTS} parents, {waiting} waiting, {name}"
        bar = None if name == STRESS else STEP_BAR
        figures.append(Figure(f"{what}: ms", median(large), bar, f"{median(large):.2f} ms"))
        figures.append(
            Figure(
                f"step, {name}: {many} messages known / {few}",
                median(large) / median(small),
                GROWTH_BAR,
                f"{median(large):.2f} ms",
                f"{median(small):.2f} ms",
            )
        )
    return Found(figures, {"step_ms": times})


def _steps(sizes: Sizes, count: int) -> list[float]:
    """Milliseconds of each of `count` steps."""
    load = _Load(sizes)
    scheduler = load.scheduler
    times = []
    memory.settle()  # as a server does once it has loaded
    for step in range(WARM_UP + count):
        began = time.perf_counter()
        batch = scheduler.schedule(float(step))
        planned = time.perf_counter()
        assert batch is not None
        running = scheduler.counts[State.RUNNING]
        assert running == sizes.running, f"{running} calls ran, not {sizes.running}"
        result = FREE.execute(batch)
        committing = time.perf_counter()
        scheduler.commit(result, float(step))
        events = scheduler.take_events()
        if step >= WARM_UP:
            times.append((time.perf_counter() - committing + planned - began) * 1000)
        load.replace(events)
    gc.unfreeze()
    return times


class _Load:
    """A scheduler with all its calls submitted. Where calls are to end, the first ones end evenly over the steps, and
    each later one after as many steps as keep the rate; for each a new one comes, so that the numbers stay."""

    def __init__(self, sizes: Sizes) -> None:
        self.scheduler = System(max_num_seqs=sizes.running, max_num_batched_tokens=1 << 16).scheduler()
        self._sizes = sizes
        self._speller, self._rng = Speller(), random.Random(0)
        self._workflows = max(1, -(-sizes.running // READERS))
        self._calls = 0
        for w in range(self._workflows):
            self.scheduler.open("", f"w{w}", 0, 1e9, 0.0)
            texts = [TraceCall(f"t{i}", (), prefill=TEXT_TOKENS) for i in range(TEXTS)]
            self.scheduler.submit("", f"w{w}", [self._speller.spec(text) for text in texts], 0.0)
        self._drain()
        for n in range(sizes.known - self._workflows * TEXTS - sizes.running - sizes.waiting):
            spec = self._speller.spec(TraceCall(f"d{n}", (), prefill=4))
            self.scheduler.submit("", f"w{n % self._workflows}", [spec], 0.0)
            if n % 1000 == 999:
                self._drain()
        self._drain()
        for n in range(sizes.running):
            ends = 1 + (self._period + BESIDE) * n // sizes.running
            self._submit(f"w{n % self._workflows}", ends if self._period else LONG)
            if not self._period and n % max(1, sizes.running // APART) == 0:
                self._step()
        self._step()  # they run before there are others to choose from
        for n in range(sizes.waiting):
            self._submit(f"w{n % self._workflows}", self._period or LONG)
        self.scheduler.take_events()

    @property
    def _period(self) -> int:
        """How many tokens a call has where some end; 0 where none does."""
        return self._sizes.running // self._sizes.ending - BESIDE if self._sizes.ending else 0

    def replace(self, events: Mapping[tuple[str, str], Sequence[Event]]) -> None:
        """A new call for each that has ended, which is forgotten."""
        for (_, workflow), happened in events.items():
            for event in happened:
                if isinstance(event, Ended):
                    self.scheduler.release("", workflow, [event.id], 0.0)
                    self._submit(workflow, self._period)
        self.scheduler.take_events()

    def _submit(self, workflow: str, tokens: int) -> None:
        self._calls += 1
        parents = tuple(f"t{i}" for i in self._rng.sample(range(TEXTS), PARENTS))
        call = TraceCall(f"c{self._calls}", parents, header=8, decode=max(1, tokens), max_tokens=LONG)
        self.scheduler.submit("", workflow, [self._speller.spec(call)], 0.0)

    def _drain(self) -> None:
        while self._step():
            pass
        self.scheduler.take_events()

    def _step(self) -> bool:
        batch = self.scheduler.schedule(0.0)
        if batch is not None:
            self.scheduler.commit(FREE.execute(batch), 0.0)
        return batch is not None
