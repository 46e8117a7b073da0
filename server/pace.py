"""How often streams are told of tokens alone: one timer for all of them (`--stream-interval`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pace:
    """Keeps releases back until an interval has passed since the last ones, and then makes all of them together, so
    that nothing waits for longer. The timer runs while something is kept back."""

    def __init__(self, interval: float) -> None:
        """`interval` in seconds, more than 0."""
        self._interval = interval
        self._kept: list[Callable[[], None]] = []
        self._next = 0.0  # on the loop's clock, when releases may be made again

    def keep(self, release: Callable[[], None]) -> None:
        """Called back once, at the next turn of the loop at the earliest."""
        self._kept.append(release)
        if len(self._kept) == 1:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._next), self._release)

    def _release(self) -> None:
        kept, self._kept = self._kept, []
        self._next = asyncio.get_running_loop().time() + self._interval
        for release in kept:
            release()
