"""A runner whose steps are launched and waited for apart, as a GPU's are."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pavane.kernels.batch import Batch, StepResult
from support.harness import FakeRunner

PATIENCE_S = 10.0


class LaunchingRunner(FakeRunner):
    """Steps are computed when they are launched; their results come when `ended` is set. `log` has ("launch", n) and
    ("end", n) of the steps in their order; an error in `at_launch` or `at_end` is raised there by step n, and a step in
    `hanging` waits there for `ended` as well."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.ended = threading.Event()
        self.ended.set()
        self.log: list[tuple[str, int]] = []
        self.batches: list[Batch] = []
        self.at_launch: dict[int, Exception] = {}
        self.at_end: dict[int, Exception] = {}
        self.hanging: set[int] = set()
        self.launched = threading.Semaphore(0)

    def launch(self, batch: Batch) -> Callable[[], StepResult]:
        number = len(self.batches)
        self.batches.append(batch)
        self.log.append(("launch", number))
        self.launched.release()
        if number in self.hanging:
            self.ended.wait()
        if number in self.at_launch:
            raise self.at_launch[number]
        result = self.execute(batch)

        def end() -> StepResult:
            self.ended.wait()
            self.log.append(("end", number))
            if number in self.at_end:
                raise self.at_end[number]
            return result

        return end

    def wait_for_launches(self, count: int) -> None:
        for _ in range(count):
            assert self.launched.acquire(timeout=PATIENCE_S), f"no more than {len(self.batches)} steps were launched"
