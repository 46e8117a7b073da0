"""Shows several texts as they are written: side by side in a terminal, as prefixed lines anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

MIN_WIDTH = 26  # of one panel, in columns
LINES = 9  # of text in one panel


class Board(Protocol):
    """Lanes of text. Used as `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, lane: str, title: str) -> None:
        """A new text starts in `lane`; `title` says which, if that is not clear."""

    def write(self, lane: str, text: str) -> None:
        """More of the text in `lane`."""

    def end(self, lane: str, note: str) -> None:
        """The text in `lane` is complete."""


def make_board(console: Console, *, keep: bool) -> Board:
    """The board that suits the console. `keep`: what a terminal shows last stays there."""
    return LiveBoard(console, keep=keep) if console.is_terminal else LineBoard(console)


class LineBoard:
    """One line of output per line of text, each with its lane in front."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in tuple(self._rest):
            self._say(lane, self._rest.pop(lane))

    def begin(self, lane: str, title: str) -> None:
        self._say(lane, f"-- {title}" if title else "")
        self._rest[lane] = ""

    def write(self, lane: str, text: str) -> None:
        *lines, self._rest[lane] = (self._rest[lane] + text).split("\n")
        for line in lines:
            self._say(lane, line)

    def end(self, lane: str, note: str) -> None:
        self._say(lane, self._rest.pop(lane, ""))
        self._say(lane, f"-- {note}")

    def _say(self, lane: str, line: str) -> None:
        if line.strip():
            self._console.print(f"{lane} | {line}", markup=False, highlight=False, soft_wrap=True)


class LiveBoard:
    """A panel per lane, in as many columns as fit; each shows the end of its text."""

    def __init__(self, console: Console, *, keep: bool) -> None:
        self._console = console
        self._lanes: dict[str, _Lane] = {}
        self._live = Live(console=console, refresh_per_second=12, get_renderable=self.render, transient=not keep)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, lane: str, title: str) -> None:
        self._lanes[lane] = _Lane(f"{lane} · {title}" if title else lane)

    def write(self, lane: str, text: str) -> None:
        self._lanes[lane].text += text

    def end(self, lane: str, note: str) -> None:
        self._lanes[lane].note = note

    def render(self) -> RenderableType:
        """The panels in rows. Where not all fit, the ones that are being written go before the ones that have ended."""
        most = max(1, self._console.width // MIN_WIDTH)
        room = most * max(1, (self._console.height - 1) // (LINES + 2))
        lanes = list(self._lanes.values())
        if len(lanes) > room:
            lanes = sorted(lanes, key=lambda lane: lane.note != "")[:room]
        rows = -(-len(lanes) // most)
        columns = -(-len(lanes) // max(1, rows))
        grids = []
        for at in range(0, len(lanes), max(1, columns)):
            grid = Table.grid(expand=True)
            for _ in range(columns):
                grid.add_column(ratio=1)
            grid.add_row(*(lane.render(self._console, columns) for lane in lanes[at : at + columns]))
            grids.append(grid)
        return Group(*grids)


class _Lane:
    def __init__(self, title: str) -> None:
        self.title = title
        self.text = ""
        self.note = ""

    def render(self, console: Console, columns: int) -> Panel:
        border_and_padding = 4
        lines = Text(self.text.strip()).wrap(console, max(1, console.width // columns - border_and_padding))
        return Panel(
            Text("\n").join(lines[-LINES:]),
            title=Text(self.title),
            title_align="left",
            subtitle=Text(self.note) if self.note else None,
            subtitle_align="right",
            height=LINES + 2,
            border_style="dim" if self.note else "cyan",
        )
