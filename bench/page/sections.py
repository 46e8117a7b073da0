"""The parts of the page, from the records of a journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from pavane.bench.page.charts import Dot, Part, bars, dots
from pavane.bench.page.graph import graph
from pavane.bench.page.growth import growth
from pavane.bench.page.svg import element, legend, seconds, whole
from pavane.bench.page.timeline import PHASES, timeline
from pavane.bench.report import Figure, number
from pavane.bench.stats import spread
from pavane.bench.workflows.figures import Measure, first_token, first_token_from_start, label, wall
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import MODES, Recording, Run

CLASSES = (
    ("in-place", "read in place"),
    ("repositioned", "read repositioned"),
    ("encoded", "encoded"),
    ("generated", "generated"),
    ("trailer", "trailer"),
)
PEER_COLOURS = 3


class Sections:
    """Of one journal. Every method gives HTML, or "" where there is nothing to show."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        measured = [recording for recording in journal.recordings if journal.runs(recording.case)]
        workflows = [*dict.fromkeys(recording.workflow for recording in measured)]
        self._cases = sorted(measured, key=lambda one: (workflows.index(one.workflow), *one.sizes.values()))
        peers = {run.arm: None for r in self._cases for run in journal.runs(r.case) if run.arm not in MODES}
        self._css = {mode: mode for mode in MODES}
        self._css |= {name: f"peer{i % PEER_COLOURS}" for i, name in enumerate(peers)}

    def table(self, figures: Sequence[Figure]) -> str:
        """The figures that have bars; all of them where one asks for it."""
        held = [figure for figure in figures if figure.bar]
        everything = element("details", element("summary", "All figures") + self._table(figures))
        return (self._table(held) if held else "") + everything if figures else ""

    def _table(self, figures: Sequence[Figure]) -> str:
        head = "".join(element("th", escape(word)) for word in ("what", "reuse", "against", "ratio", "95 %", "bar"))
        rows = "".join(element("tr", _cells(figure)) for figure in figures)
        return element("div", element("table", element("tr", head) + rows), class_="scroll")

    def first_tokens(self) -> str:
        return self._dots(
            ("from when all parents were complete", first_token),
            ("from the start of the workflow", first_token_from_start),
        )

    def walls(self) -> str:
        return self._dots(("", wall))

    def tokens(self) -> str:
        """Tokens by class, of the modes of Pavane."""
        rows = []
        for recording in self._cases:
            each = [
                (arm, [Part(words, css, run.tokens.get(css.replace("-", "_"), 0)) for css, words in CLASSES])
                for arm, run in self._first_runs(recording)
                if arm in MODES
            ]
            if each:
                rows.append((self.label(recording), each))
        return bars(rows, whole) + legend(CLASSES) if rows else ""

    def timelines(self) -> str:
        """Of each case, the median run of each arm."""
        parts = []
        for i, recording in enumerate(self._cases):
            runs = [(arm, _median_run(self._journal.runs(recording.case, arm))) for arm in self._arms(recording)]
            inner = timeline(runs)
            parts.append(
                element(
                    "details", element("summary", escape(self.label(recording))) + inner, open="" if i == 0 else None
                )
            )
        return "".join(parts) + legend(PHASES) if parts else ""

    def growths(self) -> str:
        """Of workflows whose cases differ in one size alone: tokens encoded, and wall."""
        parts = []
        for workflow in dict.fromkeys(recording.workflow for recording in self._cases):
            cases = [recording for recording in self._cases if recording.workflow == workflow]
            differing = [n for n in cases[0].sizes if len({recording.sizes.get(n) for recording in cases}) > 1]
            if len(differing) != 1 or len(cases) < 3:
                continue
            size = differing[0]
            parts.append(element("h3", escape(f"{workflow}, by {size}")))
            encoded = self._lines(cases, size, lambda run: run.tokens.get("encoded", 0), only=MODES)
            parts.append(_captioned("tokens encoded", growth(encoded, size, whole)))
            parts.append(_captioned("wall", growth(self._lines(cases, size, wall), size, seconds)))
        return "".join(parts) + self._legend() if parts else ""

    def divergence(self, kl: Mapping[str, Mapping[tuple[str, str], float]]) -> str:
        """The graph of each workflow, from divergences by call and parent."""
        return "".join(element("h3", escape(workflow)) + graph(edges) for workflow, edges in kl.items())

    def label(self, recording: Recording) -> str:
        return label(recording, self._cases)

    def _dots(self, *measures: tuple[str, Measure]) -> str:
        parts = []
        for heading, measure in measures:
            rows = []
            for recording in self._cases:
                each = []
                for arm in self._arms(recording):
                    values = [measure(run) for run in self._journal.runs(recording.case, arm)]
                    each.append(Dot(arm, self._css[arm], spread(values)))
                rows.append((self.label(recording), each))
            parts.append((element("h3", escape(heading)) if heading else "") + dots(rows, seconds))
        return "".join(parts) + self._legend() if self._cases else ""

    def _legend(self) -> str:
        used = {run.arm for recording in self._cases for run in self._journal.runs(recording.case)}
        return legend([(css, arm) for arm, css in self._css.items() if arm in used])

    def _lines(
        self, cases: Sequence[Recording], size: str, measure: Measure, only: Sequence[str] = ()
    ) -> list[tuple[str, str, Mapping[int, float]]]:
        lines: list[tuple[str, str, Mapping[int, float]]] = []
        for arm in dict.fromkeys(arm for recording in cases for arm in self._arms(recording)):
            if only and arm not in only:
                continue
            values = {}
            for recording in cases:
                if runs := self._journal.runs(recording.case, arm):
                    values[recording.sizes[size]] = median(map(measure, runs))
            lines.append((arm, self._css[arm], values))
        return lines

    def _arms(self, recording: Recording) -> list[str]:
        found = {run.arm for run in self._journal.runs(recording.case)}
        return [arm for arm in self._css if arm in found]

    def _first_runs(self, recording: Recording) -> list[tuple[str, Run]]:
        return [(arm, self._journal.runs(recording.case, arm)[0]) for arm in self._arms(recording)]


def _cells(figure: Figure) -> str:
    interval = " to ".join(map(number, figure.interval or ()))
    met = {None: "", True: "met", False: "missed"}[figure.met]
    bar = f"{figure.bar} {met}" if figure.bar else ""
    numbers = (figure.ours, figure.theirs, number(figure.value), interval)
    cells = "".join(element("td", escape(cell), class_="number") for cell in numbers)
    return element("td", escape(figure.what)) + cells + element("td", escape(bar), class_=met or None)


def _captioned(words: str, drawn: str) -> str:
    return element("figure", element("figcaption", escape(words)) + drawn, style="margin:.5rem 0 1rem")


def _median_run(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=wall)[(len(runs) - 1) // 2]
