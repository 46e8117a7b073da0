"""What a cancellation must not break off: a request that would leave a workflow open that nobody is going to close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from pavane.clients.errors import PavaneError

T = TypeVar("T")

# How long what was cancelled may still take. A server that is away for longer finds out by the workflow's TTL.
PARTING_S = 5.0


async def completed(work: Coroutine[Any, Any, T], undo: Callable[[], Awaitable[object]] | None = None) -> T:
    """The result of `work`. Cancelled, it first lets `work` come to its end, and then `undo`, for PARTING_S at most; a
    second cancellation breaks that off."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        try:
            async with asyncio.timeout(PARTING_S):
                await task
                if undo is not None:
                    await undo()
        except (PavaneError, TimeoutError) as failure:
            cancelled.add_note(f"the server may not have heard of it: {failure!r}")
        raise
