"""Files that are read again when they change, while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

POLL_S = 0.5
Stamp = tuple[tuple[int, ...] | None, ...]


class Reloaded:
    """Calls `load` when one of `paths` has changed and then rested for one look, so that files which are written one
    after the other, or in pieces, are read when they are whole. Links are followed: that is how mounted secrets change.

    A `load` that raises ValueError or OSError is logged once for each state of the files, and what was loaded before
    stays in force. Looking at them is cheap and portable; kernels tell of changes by as many interfaces as there are.
    """

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], str]) -> None:
        """`load` returns what to log: the new state in some words. It is called in a thread."""
        self._what = what
        self._paths = tuple(paths)
        self._load = load
        self._loaded = stamp(self._paths)

    async def run(self) -> None:
        """Until it is cancelled."""
        before = self._loaded
        while True:
            await asyncio.sleep(POLL_S)
            now = await asyncio.to_thread(stamp, self._paths)
            if now != self._loaded and now == before:
                self._loaded = now
                await self._reload()
            before = now

    async def _reload(self) -> None:
        try:
            said = await asyncio.to_thread(self._load)
        except (ValueError, OSError) as error:
            log.error("%s: kept as before, since the new state cannot be used: %s", self._what, error)
        else:
            log.info("%s: loaded again, %s", self._what, said)


def stamp(paths: Sequence[Path]) -> Stamp:
    """Differs when a file differs: inode, size and time of the last change; None of one that is not there."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


async def run_all(reloaded: Sequence[Reloaded]) -> None:
    """All of them, until cancelled."""
    works: list[Awaitable[None]] = [one.run() for one in reloaded]
    await asyncio.gather(*works)
