"""A workflow's graph, its edges coloured by what reading the parent as it is does to the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise

from pavane.bench.page.svg import drawing, element, percent, text, title

ROW = 34
COLUMN = 150  # pixels at least; on a narrow page the drawing scrolls
SHADES = 5


def graph(kl: Mapping[tuple[str, str], float]) -> str:
    """`kl` in nats a token by (call, parent)."""
    levels = _levels(kl)
    columns: list[list[str]] = [[] for _ in range(max(levels.values(), default=0) + 1)]
    for call, level in levels.items():
        columns[level].append(call)
    height = ROW * max(map(len, columns)) + 12
    place = {
        call: ((level + 0.5) / len(columns), (i + 0.5) * (height - 12) / len(column) + 12)
        for level, column in enumerate(columns)
        for i, call in enumerate(column)
    }
    most = max(kl.values(), default=0.0)
    ranked = sorted(kl.items(), key=lambda item: item[1])  # what matters lies on top
    edges = [
        _edge(place[parent], place[call], f"{call} reads {parent}", value, most) for (call, parent), value in ranked
    ]
    nodes = [
        element("circle", title(call), cx=percent(x), cy=y, r=4, class_="node")
        + text(call, x=percent(x), y=y - 8, text_anchor="middle", class_="node-name")
        for call, (x, y) in place.items()
    ]
    shown = drawing(height, [*edges, *nodes], "graph of the workflow")
    inner = element("div", shown, style=f"min-width:{COLUMN * len(columns)}px")
    return element("div", inner, class_="scroll") + _legend(most)


def shade(value: float, most: float) -> int:
    """0 to SHADES - 1, by the root: small differences stay visible beside a large one."""
    return 0 if most <= 0 or value <= 0 else min(SHADES - 1, int((value / most) ** 0.5 * SHADES))


def _edge(begin: tuple[float, float], end: tuple[float, float], words: str, kl: float, most: float) -> str:
    said = title(f"{words}: {kl:.4f} nats a token")
    css = f"edge shade{shade(kl, most)}"
    return element("line", said, x1=percent(begin[0]), y1=begin[1], x2=percent(end[0]), y2=end[1], class_=css)


def _levels(edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Of each message one more than of the highest that it reads. Raises ValueError for a circle."""
    read: dict[str, list[str]] = {}
    for call, parent in edges:
        read.setdefault(parent, [])
        read.setdefault(call, []).append(parent)
    levels: dict[str, int] = {}
    while len(levels) < len(read):
        ready = [call for call in read if call not in levels and all(parent in levels for parent in read[call])]
        if not ready:
            raise ValueError(f"these read each other: {', '.join(call for call in read if call not in levels)}")
        for call in ready:
            levels[call] = max((levels[parent] + 1 for parent in read[call]), default=0)
    return levels


def _legend(most: float) -> str:
    limits = [most * (i / SHADES) ** 2 for i in range(SHADES + 1)]
    keys = (
        element("span", element("i", class_=f"key line shade{i}") + escape(f"{low:.3f} to {high:.3f}"), class_="entry")
        for i, (low, high) in enumerate(pairwise(limits))
    )
    return element("p", "".join(keys) + escape("nats a token"), class_="legend")
