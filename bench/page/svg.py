"""Pieces of SVG. Horizontal places are percentages, so that a drawing follows the width of the page and its text does
not; vertical ones are pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape


def element(name: str, content: str = "", **attributes: object) -> str:
    """An element; `_` in a name stands for `-`, one at its end is left out, and None leaves the attribute out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{content}</{name}>"


def text(words: str, **attributes: object) -> str:
    return element("text", escape(words), **attributes)


def title(words: str) -> str:
    """What is shown when the pointer rests on the element around it, and read out."""
    return element("title", escape(words))


def percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def drawing(height: float, parts: Iterable[str], label: str) -> str:
    """A drawing as wide as the page allows."""
    return element("svg", "".join(parts), width="100%", height=height, role="img", aria_label=label)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(CSS class, words) in a row."""
    keys = (
        element("span", element("i", class_=f"key {name}") + escape(words), class_="entry") for name, words in entries
    )
    return element("p", "".join(keys), class_="legend")


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


class Scale:
    """From values to shares of the width, linear from 0 or logarithmic; `ticks` are round values on it."""

    def __init__(self, values: Iterable[float], *, log: bool = False) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self.log = log
        if log:
            self.low = 10.0 ** math.floor(math.log10(min(positive)))
            self.high = max(10.0 ** math.ceil(math.log10(max(positive))), self.low * 10)
            decades = round(math.log10(self.high / self.low))
            self.ticks = [self.low * 10**i for i in range(decades + 1)]
        else:
            self.low = 0.0
            step = _round(max(positive) / 4)
            self.high = step * math.ceil(max(positive) / step)
            self.ticks = [step * i for i in range(round(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        if not self.log:
            return value / self.high
        return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)


def _round(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= value * 0.999)


def seconds(value: float) -> str:
    """As a person says it."""
    if value == 0:
        return "0"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def whole(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,.0f}"


def axis(scale: Scale, words: list[str]) -> str:
    """Names of the ticks, below tracks."""
    last = len(words) - 1
    parts = [
        text(word, x=percent(scale(tick)), y=12, text_anchor="start" if i == 0 else "end" if i == last else "middle")
        for i, (tick, word) in enumerate(zip(scale.ticks, words, strict=True))
    ]
    return drawing(18, parts, "scale")


def grid(scale: Scale, height: float) -> list[str]:
    return [
        element("line", x1=percent(scale(t)), x2=percent(scale(t)), y1=0, y2=height, class_="grid") for t in scale.ticks
    ]
