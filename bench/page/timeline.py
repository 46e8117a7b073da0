"""A run as lanes, one for each call: what it waited for, and when it worked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pavane.bench.page.svg import Scale, axis, drawing, element, grid, percent, seconds, title
from pavane.bench.workflows.records import Run, TimedCall

LANE = 14
PHASES = (
    ("blocked", "waits for parents"),
    ("queued", "waits for room"),
    ("prefill", "prefill, up to the first token"),
    ("decode", "decode"),
)


def timeline(runs: Sequence[tuple[str, Run]]) -> str:
    """Runs of one case below each other, on one scale from the start of each."""
    scale = Scale([max(run.wall, *(call.ready + call.total for call in run.calls)) for _, run in runs])
    parts = []
    for name, run in runs:
        heading = f"{name}: {seconds(run.wall)}"
        parts.append(element("div", element("div", escape(heading), class_="label strong"), class_="row lane"))
        parts += [_lane(call, scale) for call in run.calls]
    foot = element("div", axis(scale, [*map(seconds, scale.ticks)]), class_="track")
    parts.append(element("div", element("div") + foot, class_="row lane"))
    return element("div", "".join(parts), class_="chart lanes")


def _lane(call: TimedCall, scale: Scale) -> str:
    """A prefill has no first token: all that follows its wait is prefill."""
    first = call.ready + (call.first_token if call.decode else call.total)
    ends = (call.ready, min(call.ready + call.queued, first), first, call.ready + call.total)
    parts, begin = grid(scale, LANE), 0.0
    said = []
    for (css, words), end in zip(PHASES, ends, strict=True):
        length = max(0.0, end - begin)
        height, y = (2, LANE / 2 - 1) if css == "blocked" else (LANE - 4, 2)
        if length > 0:
            said.append(f"{words} {seconds(length)}")
            parts.append(
                element(
                    "rect", title(f"{call.id}: {said[-1]}"), x=percent(scale(begin)), width=percent(scale(length)),
                    y=y, height=height, class_=css,
                )
            )  # fmt: skip
        begin = max(begin, end)
    track = drawing(LANE, parts, f"{call.id}: {', '.join(said)}")
    return element(
        "div",
        element("div", escape(call.id), class_="label") + element("div", track, class_="track"),
        class_="row lane",
    )
