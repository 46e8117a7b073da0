"""The whole terminal for one picture that changes: drawn again when the window changes, left as it was found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live

Draw = Callable[[Console], RenderableType]


class Screen:
    """Used as `with`, inside a running loop. Keys are read one by one, and not shown, if they come from a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._draw: Draw = lambda _: ""
        self._quit = asyncio.Event()
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._settings: list[Any] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._keyboard >= 0:
            self._settings = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard)
            loop.add_reader(self._keyboard, self._on_key)
        loop.add_signal_handler(signal.SIGWINCH, self._refresh)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGWINCH)
        self._live.stop()
        if self._keyboard >= 0:
            loop.remove_reader(self._keyboard)
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._settings)

    def show(self, draw: Draw) -> None:
        """Draws, now and whenever the window changes."""
        self._draw = draw
        self._refresh()

    async def quit(self) -> None:
        """Returns when q is pressed."""
        await self._quit.wait()

    def _refresh(self) -> None:
        self._live.update(self._draw(self._console), refresh=True)

    def _on_key(self) -> None:
        keys = os.read(self._keyboard, 64)
        if not keys or keys[:1] in b"qQ":  # the terminal is gone, or q
            self._quit.set()
