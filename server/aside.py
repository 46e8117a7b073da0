"""Work on long requests, in threads that give way to those of the model."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

NICE = 10  # a ninth of the processor's time where the model wants all of it
THREADS = 2

R = TypeVar("R")
A = TypeVar("A")


class Aside:
    """Few threads of low priority. They may hold the interpreter's lock while they are put aside, so that what is done
    there should hold it in short pieces only."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "aside", _give_way)

    async def run(self, work: Callable[[A], R], what: A) -> R:
        """`work(what)`, there, in the caller's context."""
        within = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, within, work, what)


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
