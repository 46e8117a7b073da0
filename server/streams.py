"""How many requests are being answered at once: those that last, like Watch, hold memory for as long as they do."""

from __future__ import annotations

import asyncio
from collections import Counter

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.tenants import TenantLimits, Tenants

MAX_HEALTH = 256  # health may be asked, and watched, without a key
_RETRY_S = 1.0


class Streams:
    """Counts the tasks of RPCs, of every tenant and together. `limit` is the server's; tenants have `max_streams`."""

    def __init__(self, tenants: Tenants, limit: int) -> None:
        self._tenants = tenants
        self._limit = limit
        self._open: Counter[str] = Counter()
        self._health = 0

    @property
    def open(self) -> int:
        return self._open.total()

    def enter(self, namespace: str) -> None:
        """The current task answers a request of this namespace, and is counted until it ends, however it ends.
        RequestError if there are too many."""
        limits: TenantLimits = self._tenants.named.get(namespace, self._tenants.default)
        if self._open[namespace] >= limits.max_streams:
            raise self._full(f"tenant {namespace!r} has {self._open[namespace]} requests open, its bound")
        if self.open >= self._limit:
            raise self._full(f"{self.open} requests are open, as many as --max-streams allows")
        self._open[namespace] += 1
        current_task().add_done_callback(lambda _: self._leave(namespace))

    def enter_health(self) -> bool:
        """The same for the health service; False if there are too many."""
        if self._health >= MAX_HEALTH:
            return False
        self._health += 1
        current_task().add_done_callback(self._leave_health)
        return True

    def _leave(self, namespace: str) -> None:
        self._open[namespace] -= 1
        if not self._open[namespace]:
            del self._open[namespace]

    def _leave_health(self, _: object) -> None:
        self._health -= 1

    def _full(self, what: str) -> RequestError:
        return RequestError(
            Reason.TOO_MANY_STREAMS, f"{what}; end some, or watch several calls with one", retry_after=_RETRY_S
        )


def current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
