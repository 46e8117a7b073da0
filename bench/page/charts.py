"""Rows of a chart: a label, and a track that is as wide as there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from pavane.bench.page.svg import Scale, axis, drawing, element, grid, percent, title
from pavane.bench.stats import Interval

LANE = 20  # pixels


@dataclass(frozen=True)
class Dot:
    """A figure with its interval, drawn in the colour of a CSS class."""

    name: str
    css: str
    interval: Interval


@dataclass(frozen=True)
class Part:
    """A piece of a bar."""

    name: str
    css: str
    value: float


def dots(rows: Sequence[tuple[str, Sequence[Dot]]], words: Callable[[float], str]) -> str:
    """Medians with their intervals on a logarithmic scale: equal distances are equal ratios."""
    bounds = [bound for _, each in rows for dot in each for bound in (dot.interval.low, dot.interval.high)]
    scale = Scale(bounds, log=True)
    return _rows([(label, _dots(each, scale, words)) for label, each in rows], scale, words)


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, Sequence[Part]]]]], words: Callable[[float], str]) -> str:
    """Stacked bars from 0, for each label any number with a name."""
    scale = Scale([sum(part.value for part in bar) for _, each in rows for _, bar in each])
    return _rows([(label, "".join(_bar(*bar, scale, words) for bar in each)) for label, each in rows], scale, words)


def _rows(rows: Sequence[tuple[str, str]], scale: Scale, words: Callable[[float], str]) -> str:
    drawn = (
        element(
            "div", element("div", escape(label), class_="label") + element("div", track, class_="track"), class_="row"
        )
        for label, track in rows
    )
    foot = element("div", axis(scale, [words(tick) for tick in scale.ticks]), class_="track")
    return element("div", "".join(drawn) + element("div", element("div") + foot, class_="row"), class_="chart")


def _dots(each: Sequence[Dot], scale: Scale, words: Callable[[float], str]) -> str:
    parts = grid(scale, LANE * len(each))
    for i, dot in enumerate(each):
        y = LANE * (i + 0.5)
        value, low, high = dot.interval.value, dot.interval.low, dot.interval.high
        said = f"{dot.name}: {words(value)} ({words(low)} to {words(high)})"
        line = element("line", x1=percent(scale(low)), x2=percent(scale(high)), y1=y, y2=y, class_="whisker")
        circle = element("circle", title(said), cx=percent(scale(value)), cy=y, r=5)
        right = scale(value) < 0.6
        shown = element(
            "text", escape(words(value)), x=percent(scale(high if right else low)), dx=10 if right else -10, y=y + 4,
            text_anchor="start" if right else "end", class_="value",
        )  # fmt: skip
        parts.append(element("g", line + circle + shown, class_=dot.css))
    return drawing(LANE * len(each), parts, "; ".join(f"{dot.name} {words(dot.interval.value)}" for dot in each))


def _bar(name: str, parts: Sequence[Part], scale: Scale, words: Callable[[float], str]) -> str:
    x, drawn = 0.0, grid(scale, LANE)
    for part in parts:
        width = scale(part.value)
        drawn.append(
            element(
                "rect", title(f"{name}, {part.name}: {words(part.value)}"), x=percent(x), y=3, height=LANE - 6,
                width=percent(width), class_=part.css,
            )
        )  # fmt: skip
        x += width
    label = ", ".join(f"{part.name} {words(part.value)}" for part in parts)
    return element("div", escape(name), class_="bar-name") + drawing(LANE, drawn, f"{name}: {label}")
