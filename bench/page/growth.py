"""How a figure grows with one of the sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from pavane.bench.page.svg import Scale, drawing, element, percent, text, title

HEIGHT = 200
TOP, BOTTOM = 18, 22  # pixels above the highest line and below 0
LEFT, WIDTH = 0.08, 0.84  # shares of the width


def growth(lines: Sequence[tuple[str, str, Mapping[int, float]]], size: str, words: Callable[[float], str]) -> str:
    """(name, CSS class, value by size) as lines over the values of `size`."""
    across = sorted({x for _, _, values in lines for x in values})
    scale = Scale([value for _, _, values in lines for value in values.values()])
    low, high = across[0], across[-1]

    def at_x(x: int) -> str:
        return percent(LEFT + WIDTH * (x - low) / max(1, high - low))

    def at_y(value: float) -> float:
        return TOP + (1 - scale(value)) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in scale.ticks:
        y = at_y(tick)
        parts.append(element("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(text(words(tick), x=0, y=y - 3))
    parts += [text(str(x), x=at_x(x), y=HEIGHT - 6, text_anchor="middle") for x in across]
    for name, css, values in lines:
        points = sorted(values.items())
        drawn = [
            element("line", x1=at_x(a), y1=at_y(u), x2=at_x(b), y2=at_y(v), class_="curve")
            for (a, u), (b, v) in pairwise(points)
        ]
        drawn += [
            element("circle", title(f"{name}, {size} {x}: {words(value)}"), cx=at_x(x), cy=at_y(value), r=4)
            for x, value in points
        ]
        parts.append(element("g", "".join(drawn), class_=css))
    ends = "; ".join(
        f"{name} {words(values[min(values)])} to {words(values[max(values)])}" for name, _, values in lines
    )
    return drawing(HEIGHT, parts, f"by {size}: {ends}")
