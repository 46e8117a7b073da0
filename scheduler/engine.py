"""The loop: one asyncio task owns the scheduler, and hands the steps to the runner's threads (pipeline.py).

Verbs come in as method calls with frozen values and take effect at once, between two steps as well as during one; what
they and the steps bring about goes out through `publish`. A forward pass never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic

from pavane.kernels.batch import Batch, Runner, RunnerLostError, StepResult
from pavane.scheduler.batches import Ahead
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.pipeline import Pipeline, StepBeforeFailedError
from pavane.scheduler.preview import Plan
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.scoring import Score, ScoreSpec
from pavane.scheduler.spec import CallSpec, Event, GroupSpec, Outcome, Receipt

log = logging.getLogger(__name__)

Publish = Callable[[dict[tuple[str, str], list[Event]]], None]


@dataclass(frozen=True, slots=True)
class StepParts:
    """Seconds of a step: on the loop before the runner is waited for, waiting for it, after it; and of the forward
    pass, which may have begun before this step did."""

    plan: float
    wait: float
    commit: float
    forward: float

    @property
    def whole(self) -> float:
        return self.plan + self.wait + self.commit


Observe = Callable[[Batch, StepParts], None]

IDLE_CHECK_S = 1.0  # an idle engine looks for expired workflows this often


class StepHangsError(RuntimeError):
    """A step did not come back in time; its thread cannot be stopped, only the process."""


class Engine:
    """`step_timeout`: seconds after which a step is taken to hang, and the engine ends with StepHangsError."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, publish: Publish, observe: Observe, step_timeout: float = 600.0
    ) -> None:
        self.scheduler = scheduler
        self._pipeline = Pipeline(runner)
        self._publish = publish
        self._observe = observe
        self._step_timeout = step_timeout
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._flying: tuple[Ahead, Future[StepResult]] | None = None  # begun before the last is committed

    # ---- verbs

    def open(
        self,
        namespace: str,
        workflow_id: str,
        budget: int,
        ttl: float | None,
        default_ttl: float,
        *,
        priority: int | None = None,
        deadline: float | None = None,
    ) -> bool:
        """True if it was open already; then a budget, ttl, priority or deadline that is given replaces the old one."""
        existed = self.scheduler.open(
            namespace,
            workflow_id,
            budget,
            ttl,
            monotonic(),
            default_ttl=default_ttl,
            priority=priority,
            deadline=deadline,
        )
        self._changed()  # a deadline may come before the one that the loop sleeps until
        return existed

    def check_open(self, namespace: str, workflow_id: str) -> None:
        """Raises RequestError if there is no such workflow."""
        self.scheduler.graph.workflow(namespace, workflow_id)

    def submit(
        self, namespace: str, workflow_id: str, specs: Sequence[CallSpec], groups: Sequence[GroupSpec] = ()
    ) -> list[str]:
        """The ids of the calls that are new."""
        self._refuse_if_draining()
        fresh = self.scheduler.submit(namespace, workflow_id, specs, monotonic(), groups)
        self._changed()
        return fresh

    def plan(
        self,
        namespace: str,
        workflow_id: str,
        specs: Sequence[CallSpec],
        groups: Sequence[GroupSpec],
        assumed: int | None,
    ) -> Plan:
        """What the calls would cost; see `Scheduler.plan`."""
        self._refuse_if_draining()
        return self.scheduler.plan(namespace, workflow_id, specs, monotonic(), groups, assumed=assumed)

    async def score(self, namespace: str, workflow_id: str, spec: ScoreSpec) -> Score:
        """See `Scheduler.score`; cancelling the task cancels the score."""
        self._refuse_if_draining()
        result: asyncio.Future[Score] = asyncio.get_running_loop().create_future()

        def done(score: Score) -> None:
            if not result.done():
                result.set_result(score)

        scoring = self.scheduler.score(namespace, workflow_id, spec, monotonic(), done)
        self._changed()
        try:
            return await result
        finally:
            if not result.done() or result.cancelled():
                self.scheduler.cancel_score(scoring, monotonic())
                self._changed()

    def cancel(self, namespace: str, workflow_id: str, ids: Sequence[str], descendants: bool) -> list[str]:
        cancelled = self.scheduler.cancel(namespace, workflow_id, ids, descendants, monotonic())
        self._changed()
        return cancelled

    def finish(self, namespace: str, workflow_id: str, ids: Sequence[str]) -> list[str]:
        """The ids of the decodes that will end with their next token."""
        return self.scheduler.finish(namespace, workflow_id, ids, monotonic())

    def release(self, namespace: str, workflow_id: str, ids: Sequence[str]) -> None:
        self.scheduler.release(namespace, workflow_id, ids, monotonic())

    def close(self, namespace: str, workflow_id: str) -> Receipt:
        total = self.scheduler.close(namespace, workflow_id, monotonic())
        self._changed()
        return total

    def outcome(self, namespace: str, workflow_id: str, message_id: str) -> Outcome:
        return self.scheduler.outcome(namespace, workflow_id, message_id, monotonic())

    def outcomes(self, namespace: str, workflow_id: str, after: int, count: int) -> list[tuple[int, Outcome]]:
        return self.scheduler.outcomes(namespace, workflow_id, after, count, monotonic())

    # ---- life

    def start(self) -> asyncio.Task[None]:
        """The task of the loop: it ends with `stop`, or with the defect that killed it."""
        self._task = asyncio.create_task(self._run(), name="engine")
        return self._task

    async def drain(self, patience: float) -> bool:
        """Takes no more calls and waits for those it has. False if some were not done in time."""
        self._draining = True
        try:
            async with asyncio.timeout(patience):
                while self.scheduler.graph.unfinished:
                    self._idle.clear()
                    self._wake.set()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Ends every unfinished call with DRAINING, then the loop and, when its steps are done, the threads."""
        self._draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.scheduler.fail_all(Reason.DRAINING, "the server was stopped before the call was done", monotonic())
        self._publish(self.scheduler.take_events())
        self._pipeline.close()

    # ---- the loop

    async def _run(self) -> None:
        try:
            await self._loop()
        except Exception as error:  # the end of the engine: nobody may be left waiting for it
            log.exception("the engine stops: no call can run any more")
            self._draining = True
            self._idle.set()
            self.scheduler.fail_all(Reason.RUNNER_FAILED, f"the server has failed: {error}", monotonic())
            self._publish(self.scheduler.take_events())
            raise
        finally:
            if self._flying is not None:
                self._flying[1].cancel()  # nobody asks what came of it

    async def _loop(self) -> None:
        scheduler, late = self.scheduler, False
        while True:
            began = monotonic()
            kept = None
            if self._flying is None:
                batch = scheduler.schedule(began)
                running = self._pipeline.submit(batch) if batch is not None else None
            else:
                ahead, running = self._flying
                batch, kept = ahead.batch, scheduler.adopt(ahead, began)
            following = scheduler.ahead(eager=self._pipeline.overlaps)
            self._flying = (following, self._pipeline.submit(following.batch)) if following is not None else None
            late = self._pipeline.overlaps and running is not None and running.done() and not late
            if not late:  # else with what this step brings: streams then have one frame for both
                self._publish(scheduler.take_events())  # while the step runs
            if batch is None or running is None:
                await self._sleep()
                continue
            planned = monotonic()
            try:
                result = await self._result(running)
            except (StepHangsError, RunnerLostError):
                raise
            except Exception as error:  # whatever the runner raises fails the calls of this step, not the server
                if not isinstance(error, StepBeforeFailedError):
                    log.exception("a step of %d rows failed", batch.n_rows)
                if kept != []:
                    scheduler.fail_step(f"the model runner failed: {error}", monotonic())
            else:
                computed = monotonic()
                if result.moved is not None:
                    scheduler.moved(result.moved)
                if kept != []:
                    scheduler.commit(result if kept is None else result.only(kept), monotonic())
                if batch.n_rows:
                    committed = monotonic() - computed
                    self._observe(batch, StepParts(planned - began, computed - planned, committed, result.forward_s))
            if self._draining and not scheduler.graph.unfinished:
                self._idle.set()

    async def _result(self, running: Future[StepResult]) -> StepResult:
        try:
            async with asyncio.timeout(self._step_timeout) as patience:
                return await asyncio.wrap_future(running)
        except TimeoutError:
            if not patience.expired():
                raise
            raise StepHangsError(
                f"a step has taken more than {self._step_timeout:g} s; the model runner hangs"
            ) from None

    async def _sleep(self) -> None:
        if not self.scheduler.graph.unfinished:
            self._idle.set()
        timer = self.scheduler.next_timer
        wait = IDLE_CHECK_S if timer is None else min(IDLE_CHECK_S, max(0.0, timer - monotonic()))
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise RequestError(Reason.DRAINING, "the server is shutting down; send the calls to another one")

    def _changed(self) -> None:
        self._publish(self.scheduler.take_events())
        self._wake.set()
