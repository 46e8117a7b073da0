"""Runners: one that computes nothing and says what the step would have taken, and one that measures a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pavane.bench.simulation.cost import CostModel, Work
from pavane.bench.simulation.tokens import answer
from pavane.kernels.batch import Batch, Runner, StepResult


class SimulatedRunner:
    """Tokens as the trace has them; `forward_s` is what the cost model says.

    `grain` and `budget`: as CostModel.seconds has them, for coarse tokens.
    """

    def __init__(self, cost: CostModel, grain: int = 1, budget: int = 1) -> None:
        self._cost = cost
        self._grain = grain
        self._budget = budget

    def execute(self, batch: Batch) -> StepResult:
        return _result(batch, self._cost.seconds(Work.of(batch), self._grain, self._budget))


class MeasuringRunner:
    """Runs every step on `runner`, but with the trace's tokens, and keeps what it did and took by `clock`."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self.steps: list[tuple[Work, float]] = []
        self._runner = runner
        self._clock = clock

    def execute(self, batch: Batch) -> StepResult:
        began = self._clock()
        self._runner.execute(batch)
        took = self._clock() - began
        self.steps.append((Work.of(batch), took))
        return _result(batch, took)


def _result(batch: Batch, took: float) -> StepResult:
    return StepResult(answer(batch.samples), np.zeros(batch.samples.count, dtype=np.float32), took)
