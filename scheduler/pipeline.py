"""The threads of the model runner: steps go in one after the other, and their results come out in that order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pavane.kernels.batch import Batch, Launcher, Runner, StepResult

T = TypeVar("T")


class StepBeforeFailedError(RuntimeError):
    """A step was not run, because the one whose samples it was to go on from has failed."""


class Pipeline:
    """One thread runs the steps. If the runner is a Launcher it only launches them, and a second thread waits for what
    was launched: so the next step can be launched while one runs."""

    def __init__(self, runner: Runner) -> None:
        self._execute = runner.execute
        self._launch = runner.launch if isinstance(runner, Launcher) else None
        self._steps = ThreadPoolExecutor(max_workers=1, thread_name_prefix="runner")
        self._ends = ThreadPoolExecutor(max_workers=1, thread_name_prefix="results")
        self._failed = False  # the step that was begun last

    @property
    def overlaps(self) -> bool:
        """Whether a step that is submitted early spares the runner more than a hop between threads."""
        return self._launch is not None

    def submit(self, batch: Batch) -> Future[StepResult]:
        """Behind all that were submitted. The future raises what the runner raised, or StepBeforeFailedError."""
        if self._launch is None:
            return self._steps.submit(self._begin, self._execute, batch)
        launched = self._steps.submit(self._begin, self._launch, batch)
        return self._ends.submit(lambda: launched.result()())

    def close(self) -> None:
        """Drops the steps that have not begun; those that have go on until they are done."""
        for thread in (self._ends, self._steps):
            thread.shutdown(wait=False, cancel_futures=True)

    def _begin(self, begin: Callable[[Batch], T], batch: Batch) -> T:
        if self._failed and batch.follows:
            raise StepBeforeFailedError("the step before this one has failed")
        self._failed = True
        begun = begin(batch)
        self._failed = False
        return begun
