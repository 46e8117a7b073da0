"""The page as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pavane.bench.page.sections import Sections
from pavane.bench.page.style import STYLE
from pavane.bench.page.svg import element
from pavane.bench.report import Figure
from pavane.bench.workflows.journal import Journal

READING = {
    "First token": "Median over the repetitions of the mean over those answers that read several parents; whiskers are "
    "95 % bootstrap intervals. The scale is logarithmic.",
    "Wall": "From the start of the workflow until its last message is complete.",
    "Tokens": "What the calls of one run saw at their first token, by where it came from, and what they generated.",
    "Timeline": "A lane for each call of the run with the median wall, all on one scale.",
    "Growth": "The same workflow with one of its sizes changed.",
    "Divergence": "How far an answer's next-token distributions move because a parent is read as it was encoded, not "
    "encoded for this answer: KL divergence, mean over the answer's tokens.",
}


def page(journal: Journal, figures: Sequence[Figure], divergence: Mapping[str, Mapping[tuple[str, str], float]]) -> str:
    """One HTML file with all that the records show."""
    sections = Sections(journal)
    body = [_head(journal), _warnings(journal), sections.table(figures)]
    for heading, drawn in (
        ("First token", sections.first_tokens()),
        ("Wall", sections.walls()),
        ("Tokens", sections.tokens()),
        ("Timeline", sections.timelines()),
        ("Growth", sections.growths()),
        ("Divergence", sections.divergence(divergence)),
    ):
        if drawn:
            words = element("p", escape(READING[heading]), class_="about")
            body.append(element("section", element("h2", heading) + words + drawn))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Pavane: workflows measured</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _head(journal: Journal) -> str:
    setup = journal.setup
    about = "no runs"
    if setup is not None:
        flags = " ".join(setup.serve) or "default flags"
        about = (
            f"{setup.model}, {setup.cores} cores ({setup.cpu}), {setup.threads} threads for every system; Pavane "
            f"{setup.pavane} with {flags}. Every arm repeats the same recorded tokens; arms take turns."
        )
    return element("h1", "Workflows measured") + element("p", escape(about), class_="about")


def _warnings(journal: Journal) -> str:
    found = []
    for recording in journal.recordings:
        wrong = sum(not run.counted for run in journal.runs(recording.case))
        if wrong:
            found.append(
                f"{recording.case}: in {wrong} runs the tokens are not those of the formula; no figure counts."
            )
        found += [
            f"{recording.workflow}, {trouble.arm}: {trouble.text}"
            for trouble in journal.troubles(recording.case)
            if not journal.runs(recording.case, trouble.arm)
        ]
    return "".join(element("p", escape(words), class_="warning") for words in dict.fromkeys(found))
