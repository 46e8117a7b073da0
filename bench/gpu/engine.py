"""The engine without a server: scheduler, cache and runner in this thread, step by step, by the real clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from pavane.bench.gpu.calls import Calls
from pavane.bench.simulation.system import NoText
from pavane.cache import GraphCache
from pavane.kernels.batch import Batch, Int32, Runner, Samples, StepResult
from pavane.kernels.contract import AttentionBackend
from pavane.models.config import ModelConfig
from pavane.scheduler.batches import Ahead
from pavane.scheduler.graph import Limits
from pavane.scheduler.pipeline import Pipeline
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import CallSpec, Ended, Event, Outcome, State

FOREVER = 1e9


class EngineFailed(RuntimeError):  # noqa: N818
    """A call failed, or nothing moves; the text says which."""


@dataclass(frozen=True)
class Model:
    """What is run: a runner on a device, its attention backend, and what it has."""

    config: ModelConfig
    runner: Runner
    attention: AttentionBackend[Any]
    slots: int
    itemsize: int  # of weights and KV, bytes
    stored: Callable[[int], tuple[torch.Tensor, torch.Tensor]]  # K, V of a layer, [slots, kv_heads, head_dim] each
    sample: Callable[[torch.Tensor, Samples], Int32] | None = None  # tokens from logits, on the device
    # Hidden states of a decode step, captured and launched one by one; None if it is not one to be captured.
    both: Callable[[Batch], tuple[torch.Tensor, torch.Tensor] | None] | None = None


@dataclass(frozen=True)
class Step:
    """Seconds of a step: of the scheduler before and after it, and of the runner from batch to tokens."""

    batch: Batch
    host_s: float
    run_s: float


class Engine:
    """One workflow at a time, in a namespace of its own, so that nothing that was encoded before is found."""

    def __init__(self, model: Model, *, running: int = 256, budget: int = 8192) -> None:
        self.model = model
        self.calls = Calls(model.config.vocab_size)
        limits = Limits(model.config.max_position, model.slots, model.config.vocab_size, max_unfinished=1 << 20)
        self._scheduler = Scheduler(
            GraphCache(model.slots), limits, NoText(), max_running=running, token_budget=budget, load_control=False
        )
        self._clock = time.perf_counter
        self._workflows = 0
        self._key = ("", "")
        self.ended: dict[str, Outcome] = {}

    @contextmanager
    def workflow(self) -> Iterator[None]:
        """What is submitted within it is cancelled at its end."""
        self._workflows += 1
        self._key = (f"n{self._workflows}", "w")
        self.ended = {}
        self._scheduler.open(*self._key, 0, FOREVER, self._clock())
        try:
            yield
        finally:
            self._scheduler.close(*self._key, self._clock())
            self._scheduler.take_events()

    def submit(self, calls: Sequence[CallSpec]) -> None:
        self._scheduler.submit(*self._key, calls, self._clock())

    def step(self) -> Step | None:
        """None if nothing is left to do. Raises EngineFailed."""
        began = self._clock()
        batch = self._scheduler.schedule(began)
        planned = self._clock()
        if batch is None:
            self._take(self._scheduler.take_events().get(self._key, []))
            return None
        result = self.model.runner.execute(batch)
        ran = self._clock()
        self._scheduler.commit(result, ran)
        events = self._scheduler.take_events().get(self._key, [])
        done = self._clock()
        self._take(events)
        return Step(batch, planned - began + done - ran, ran - planned)

    def run(self, until: Callable[[], bool] | None = None) -> list[Step]:
        """Until `until` is true after a step, or until all has ended. Raises EngineFailed."""
        steps: list[Step] = []
        while until is None or not steps or not until():
            step = self.step()
            if step is None:
                if until is not None or self._unfinished():
                    raise EngineFailed(f"nothing moves: {self._unfinished() or 'all calls have ended'}")
                break
            steps.append(step)
        return steps

    def decoding(self, calls: int, steps: int) -> list[Step]:
        """The next `steps` steps in which `calls` calls decode and nothing else happens. Raises EngineFailed."""
        found: list[Step] = []
        while len(found) < steps:
            step = self.step()
            if step is None:
                raise EngineFailed(f"{calls} calls never decoded together: {self._unfinished() or 'they have ended'}")
            if step.batch.n_rows == step.batch.samples.count == calls:
                found.append(step)
        return found

    def intervals(self, calls: int, count: int) -> list[float]:
        """Seconds from end to end of the next `count` steps in which `calls` calls decode and nothing else happens,
        each launched while the one before runs, as a server does. Raises EngineFailed."""
        scheduler = self._scheduler
        flying: tuple[Ahead, Future[StepResult]] | None = None
        ends: list[float] = []
        with closing(Pipeline(self.model.runner)) as pipeline:
            while len(ends) <= count or flying is not None:
                kept = None
                if flying is None:
                    batch = scheduler.schedule(self._clock())
                    if batch is None:
                        why = self._unfinished() or "they have ended"
                        raise EngineFailed(f"{calls} calls never decoded together: {why}")
                    running = pipeline.submit(batch)
                else:
                    ahead, running = flying
                    batch, kept = ahead.batch, scheduler.adopt(ahead, self._clock())
                following = scheduler.ahead(eager=True) if len(ends) <= count else None
                flying = (following, pipeline.submit(following.batch)) if following is not None else None
                result = running.result()
                ended = self._clock()
                if kept != []:
                    scheduler.commit(result if kept is None else result.only(kept), ended)
                self._take(scheduler.take_events().get(self._key, []))
                if batch.n_rows == batch.samples.count == calls:
                    ends.append(ended)
        return [b - a for a, b in pairwise(ends)][:count]

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Ended):
                outcome = event.outcome
                if outcome.state is State.FAILED:
                    raise EngineFailed(f"call {event.id} failed: {outcome.failure.text if outcome.failure else ''}")
                self.ended[event.id] = outcome

    def _unfinished(self) -> str:
        counts = self._scheduler.counts
        return ", ".join(f"{counts[s]} calls are {s.value}" for s in State if not s.ended and counts[s])
