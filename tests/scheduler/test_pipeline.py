"""Steps launched while others run: their order, and what the failure of one does to the next."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from support.harness import FakeRunner, NoText, decode
from support.launching import PATIENCE_S, LaunchingRunner

from pavane.cache import GraphCache
from pavane.kernels.batch import Batch, Launcher, Runner, RunnerLostError, StepResult
from pavane.scheduler import engine
from pavane.scheduler.engine import Engine, StepHangsError
from pavane.scheduler.errors import Reason
from pavane.scheduler.graph import Limits
from pavane.scheduler.pipeline import Pipeline, StepBeforeFailedError
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import Ended, Event, Outcome, State, TokensAdded
from tests.models.test_runner import step

SLOTS = 500
ALONE = step(0, -1)
FOLLOWING = step(1, 0)


@pytest.fixture
def runner() -> LaunchingRunner:
    return LaunchingRunner(SLOTS)


def test_a_step_is_launched_while_the_one_before_runs(runner: LaunchingRunner) -> None:
    pipeline = Pipeline(runner)
    runner.ended.clear()
    futures = [pipeline.submit(batch) for batch in (ALONE, FOLLOWING)]
    runner.wait_for_launches(2)
    assert not any(future.done() for future in futures)
    runner.ended.set()
    assert [len(future.result(PATIENCE_S).tokens) for future in futures] == [1, 1]
    assert runner.log == [("launch", 0), ("launch", 1), ("end", 0), ("end", 1)]
    pipeline.close()


def test_a_step_on_top_of_a_failed_launch_is_not_launched(runner: LaunchingRunner) -> None:
    pipeline = Pipeline(runner)
    runner.at_launch[0] = RuntimeError("no room")
    first, second, third = (pipeline.submit(batch) for batch in (ALONE, FOLLOWING, ALONE))
    with pytest.raises(RuntimeError, match="no room"):
        first.result(PATIENCE_S)
    with pytest.raises(StepBeforeFailedError):
        second.result(PATIENCE_S)
    assert len(third.result(PATIENCE_S).tokens) == 1
    assert runner.log == [("launch", 0), ("launch", 1), ("end", 1)]
    pipeline.close()


def test_a_runner_without_a_device_runs_its_steps_in_one_thread() -> None:
    names: list[str] = []

    class Named(FakeRunner):
        def execute(self, batch: Batch) -> StepResult:
            names.append(threading.current_thread().name)
            return super().execute(batch)

    plain = Named(SLOTS)
    assert not isinstance(plain, Launcher)
    pipeline = Pipeline(plain)
    for batch in (ALONE, FOLLOWING):
        pipeline.submit(batch).result(PATIENCE_S)
    plain.fail_next = True
    failing, following = pipeline.submit(ALONE), pipeline.submit(FOLLOWING)
    with pytest.raises(RuntimeError, match="told to fail"):
        failing.result(PATIENCE_S)
    with pytest.raises(StepBeforeFailedError):
        following.result(PATIENCE_S)
    assert names == ["runner_0"] * 3
    pipeline.close()


def test_what_has_not_begun_is_dropped_at_the_end(runner: LaunchingRunner) -> None:
    pipeline = Pipeline(runner)
    runner.hanging.add(0)
    runner.ended.clear()
    futures = [pipeline.submit(ALONE) for _ in range(3)]
    runner.wait_for_launches(1)
    pipeline.close()
    runner.ended.set()
    assert len(futures[0].result(PATIENCE_S).tokens) == 1
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert len(runner.batches) == 1


def test_steps_that_follow_say_so() -> None:
    assert FOLLOWING.follows
    assert not ALONE.follows
    assert not replace(FOLLOWING, n_rows=0).follows, "padding"
    assert not replace(FOLLOWING, previous=np.array([-1, 0], dtype=np.int32)).follows


class Loop:
    """An engine and what became of its calls."""

    def __init__(self, runner: Runner, step_timeout: float) -> None:
        self.ended: dict[str, Outcome] = {}
        self.added: list[int] = []  # tokens that were told of at once
        self.changed = asyncio.Event()
        scheduler = Scheduler(GraphCache(SLOTS), Limits(200, SLOTS, 97), NoText())
        self.engine = Engine(scheduler, runner, self._publish, lambda batch, parts: None, step_timeout)
        self.engine.open("", "w", 0, None, 1e9)
        self.task = self.engine.start()

    def _publish(self, events: dict[tuple[str, str], list[Event]]) -> None:
        for happened in events.values():
            self.added += (
                [n] if (n := sum(len(event.tokens) for event in happened if isinstance(event, TokensAdded))) else []
            )
            self.ended |= {event.id: event.outcome for event in happened if isinstance(event, Ended)}
        self.changed.set()

    async def outcome(self, name: str) -> Outcome:
        async with asyncio.timeout(PATIENCE_S):
            while name not in self.ended:
                self.changed.clear()
                await self.changed.wait()
        return self.ended[name]


@asynccontextmanager
async def looping(runner: Runner, step_timeout: float = 60.0) -> AsyncIterator[Loop]:
    loop = Loop(runner, step_timeout)
    try:
        yield loop
    finally:
        await loop.engine.stop()


async def test_decodes_go_ahead_and_end_as_they_would(runner: LaunchingRunner) -> None:
    async with looping(runner) as ahead, looping(FakeRunner(SLOTS)) as plain:
        for loop in (ahead, plain):
            loop.engine.submit("", "w", [decode("a", [5, 6], max_tokens=12, seed=4)])
        found, expected = await ahead.outcome("a"), await plain.outcome("a")
    assert found.tokens == expected.tokens
    assert found.state is State.DONE
    assert sum(batch.follows for batch in runner.batches) >= 8


class AtOnce:
    """A pipeline whose steps are done before anybody asks."""

    overlaps = True

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def submit(self, batch: Batch) -> Future[StepResult]:
        future: Future[StepResult] = Future()
        future.set_result(self._runner.execute(batch))
        return future

    def close(self) -> None:
        """There are no threads."""


async def test_an_engine_that_is_late_tells_of_two_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "Pipeline", AtOnce)
    async with looping(FakeRunner(SLOTS)) as loop:
        loop.engine.submit("", "w", [decode("a", [5, 6], max_tokens=12, seed=4)])
        outcome = await loop.outcome("a")
    assert outcome.state is State.DONE
    assert sum(loop.added) == 12
    assert max(loop.added) == 2
    assert len(loop.added) <= 7


@pytest.mark.parametrize("where", ["launch", "end"])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_step_that_fails_takes_its_own_calls_only(
    runner: LaunchingRunner, where: str, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was launched on top of it is dropped, and is told as no failure of its own."""
    caplog.set_level(logging.ERROR)
    runner.ended.clear()
    (runner.at_launch if where == "launch" else runner.at_end)[3] = RuntimeError("the card is hot")
    async with looping(runner) as loop:
        spec = decode("a", [5, 6], max_tokens=12, seed=4)
        loop.engine.submit("", "w", [replace(spec, max_attempts=attempts)])
        runner.ended.set()
        found = await loop.outcome("a")
        loop.engine.submit("", "w", [decode("b", [7], max_tokens=3)])
        assert (await loop.outcome("b")).state is State.DONE
    if attempts == 2:
        assert found.state is State.DONE
        assert len(found.tokens) > 11
    else:
        assert found.failure is not None
        assert found.failure.reason is Reason.RUNNER_FAILED
        assert "the card is hot" in found.failure.text
    assert [record.getMessage() for record in caplog.records] == ["a step of 1 rows failed"]


@pytest.mark.parametrize("where", ["launch", "end"])
async def test_a_lost_device_ends_the_engine(runner: LaunchingRunner, where: str) -> None:
    (runner.at_launch if where == "launch" else runner.at_end)[2] = RunnerLostError("gone")
    async with looping(runner) as loop:
        loop.engine.submit("", "w", [decode("a", [5], max_tokens=12)])
        assert (await loop.outcome("a")).state is State.FAILED
        with pytest.raises(RunnerLostError):
            await loop.task


@pytest.mark.parametrize("where", ["launch", "end"])
async def test_a_step_that_hangs_ends_the_engine(runner: LaunchingRunner, where: str) -> None:
    runner.ended.clear()
    if where == "launch":
        runner.hanging.add(0)
    async with looping(runner, step_timeout=0.05) as loop:
        loop.engine.submit("", "w", [decode("a", [5], max_tokens=12)])
        with pytest.raises(StepHangsError, match=r"more than 0\.05 s"):
            await loop.task
        assert (await loop.outcome("a")).state is State.FAILED
    runner.ended.set()


async def test_an_engine_stops_while_two_steps_are_under_way(runner: LaunchingRunner) -> None:
    async with looping(runner) as loop:
        runner.ended.clear()
        loop.engine.submit("", "w", [decode("a", [5], max_tokens=12)])
        await asyncio.to_thread(runner.wait_for_launches, 2)
        await loop.engine.stop()
        assert (await loop.outcome("a")).failure is not None
        runner.ended.set()
