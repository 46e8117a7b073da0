"""One stream of events per workflow, taken up again where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pavane.clients.errors import InternalError, PavaneError, WorkflowClosed
from pavane.clients.retry import Backoff, RetryPolicy
from pavane.protos.v1 import pavane_pb2 as pb

# Events after a cursor; raises PavaneError when the stream breaks and ends when the workflow is closed.
Stream = Callable[[int], AsyncIterator[pb.WatchResponse]]


class Watcher:
    """Delivers every event after `cursor`; `begin` is told before each (re)start, `lost` once if it ends for good."""

    def __init__(
        self,
        stream: Stream,
        cursor: int,
        retry: RetryPolicy,
        *,
        begin: Callable[[], None],
        deliver: Callable[[pb.Event], None],
        lost: Callable[[PavaneError], None],
    ) -> None:
        self._stream = stream
        self._cursor = cursor
        self._covered_from = cursor
        self._retry = retry
        self._begin = begin
        self._deliver = deliver
        self._lost = lost
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watches, if it does not already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def cover(self, cursor: int) -> None:
        """Makes sure that events after `cursor` are, or were, delivered.

        Calls that an earlier connection submitted may have events from before this watch began; then it goes back.
        """
        if cursor < self._covered_from:
            await self.stop()
            self._covered_from = self._cursor = cursor
            self.start()

    async def stop(self) -> None:
        """Ends quietly."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def ended(self, within: float) -> None:
        """Waits, at most `within` seconds, for the server to end the stream."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=within)

    async def _watch(self) -> None:
        backoff = Backoff(self._retry)
        while True:
            self._begin()
            try:
                async for response in self._stream(self._cursor):
                    backoff.reset()
                    for event in response.events:
                        self._cursor = max(self._cursor, event.cursor)
                        self._deliver(event)
            except PavaneError as error:
                delay = backoff.wait(error)
                if delay is None:
                    self._lost(error)
                    return
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                raise
            except BaseException as fault:
                self._lost(InternalError("CLIENT_FAULT", f"reading events failed: {fault!r}"))
                raise
            else:
                self._lost(WorkflowClosed("WORKFLOW_CLOSED", "the workflow was closed before the call had ended"))
                return
