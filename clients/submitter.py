"""Sends calls: one Submit per event-loop tick, in order, each until it is accepted or refused.

A batch is gathered, queued, in flight (again and again while the server is away or full), then accepted or refused.
One batch is in flight at a time, so a child never overtakes its parent. Being sent twice is harmless: the same id
with the same bytes is the same call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from pavane.clients.errors import InternalError, PavaneError
from pavane.clients.group import Group
from pavane.clients.message import Message

Send = Callable[[Sequence[Message | Group]], Awaitable[None]]


class Submitter:
    """`send` sends one batch, with its retries; it raises PavaneError if the batch is refused. `lost` hears of a fault
    of this client, after which nothing that waits can be relied on.

    `linger` is in seconds: how long to gather; 0 means what is created before the event loop turns.
    """

    def __init__(self, send: Send, linger: float, lost: Callable[[PavaneError], None]) -> None:
        self._send = send
        self._lost = lost
        self._linger = linger
        self._gathering: list[Message | Group] = []
        self._queue: deque[list[Message | Group]] = deque()
        self._timer: asyncio.Handle | None = None
        self._worker: asyncio.Task[None] | None = None

    def add(self, one: Message | Group) -> None:
        """To be sent with everything else of this tick."""
        self._gathering.append(one)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._linger, self._flush) if self._linger else loop.call_soon(self._flush)

    async def drain(self) -> None:
        """Returns when all that was added so far has been accepted or refused."""
        if self._gathering:
            self._flush()
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def stop(self) -> None:
        """Sends nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._gathering.clear()
        self._queue.clear()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.append(self._gathering)
        self._gathering = []
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = self._queue.popleft()
                try:
                    await self._send(batch)
                except PavaneError as error:
                    for one in batch:
                        one.fail(error)
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            self._lost(InternalError("CLIENT_FAULT", f"submitting calls failed: {fault!r}"))
            raise
        finally:
            self._worker = None
