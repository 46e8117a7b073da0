"""The life of a server that listens: it drains on the first signal and stops at once on the second."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health

from pavane.kernels.batch import RunnerLostError
from pavane.kernels.moves import Mover
from pavane.scheduler.engine import Engine, StepHangsError
from pavane.server.config import ServerConfig
from pavane.server.http_port import BEAT_S, HttpPort, Life
from pavane.server.origins import Origins

log = logging.getLogger(__name__)

ENGINE_FAILED, RUNNER_HANGS, RUNNER_LOST = 70, 71, 72  # exit statuses; 70 is EX_SOFTWARE of sysexits.h


@dataclass(frozen=True)
class StopSignals:
    """SIGTERM and SIGINT: the first sets `stopping`, the next `at_once`."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self) -> None:
        """From now on, in the running loop of the main thread; before, they end the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        (self.at_once if self.stopping.is_set() else self.stopping).set()


@dataclass
class Server:
    """A server that is listening."""

    config: ServerConfig
    engine: Engine
    port: int
    metrics_port: int
    _grpc: grpc.aio.Server
    _health: health.aio.HealthServicer
    _engine_task: asyncio.Task[None]
    _life: Life
    _http: HttpPort | None
    _reloading: asyncio.Task[None]
    _origins: Origins
    _mover: Mover | None

    async def run_until(self, signals: StopSignals) -> int:
        """Until the first signal: then NOT_SERVING, no new calls, running ones get `drain_timeout`; a second signal
        stops at once. Returns the status to exit with: 0, or why the engine has ended by itself."""
        stop = asyncio.create_task(signals.stopping.wait())
        beating = asyncio.create_task(self._beat())
        await asyncio.wait([stop, self._engine_task], return_when=asyncio.FIRST_COMPLETED)
        status = 0
        if not stop.done():
            error = self._engine_task.exception()
            log.error("the engine has stopped (%s); shutting down", error)
            self._life.why_dead = f"the engine has stopped: {error}"
            status = _status_of(error)
            signals.at_once.set()
        await self.shutdown(signals.at_once)
        beating.cancel()
        return status

    async def _beat(self) -> None:
        while True:
            self._life.beat()
            await asyncio.sleep(BEAT_S)

    async def shutdown(self, at_once: asyncio.Event | None = None) -> None:
        """Drains and stops; when `at_once` is set, without waiting any longer."""
        at_once = at_once or asyncio.Event()
        self._life.why_not_ready = "draining: send calls to another server"
        await self._health.enter_graceful_shutdown()
        log.info("draining: %d unfinished calls", self.engine.scheduler.graph.unfinished)
        drain = asyncio.create_task(self.engine.drain(self.config.drain_timeout))
        skip = asyncio.create_task(at_once.wait())
        await asyncio.wait([drain, skip], return_when=asyncio.FIRST_COMPLETED)
        done = drain.done() and drain.result()
        for task in (drain, skip):
            task.cancel()
        await asyncio.gather(drain, skip, return_exceptions=True)
        await self.engine.stop()
        if self._mover is not None:
            self._mover.stop()
        self._reloading.cancel()
        await self._grpc.stop(1.0 if done else 0.2)
        await self._origins.close()
        if self._http is not None:
            self._http.close()
        log.info("stopped%s", "" if done else " with calls unfinished: their watchers were told")


def _status_of(error: BaseException | None) -> int:
    if isinstance(error, StepHangsError):
        return RUNNER_HANGS
    return RUNNER_LOST if isinstance(error, RunnerLostError) else ENGINE_FAILED
