"""The console that all commands print with."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console


class PavaneConsole(Console):
    """No guessing at what to highlight, and a reader that goes away ends the program in order."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(highlight=False, stderr=stderr)

    def on_broken_pipe(self) -> NoReturn:
        """Rich would leave with SystemExit, in the middle of whatever task prints."""
        raise BrokenPipeError
