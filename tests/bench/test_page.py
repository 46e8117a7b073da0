"""The page, from made-up records."""

import re
import xml.dom.minidom

import pytest
from support.measured import SETUP, measured, recording, run

from pavane.bench.page.graph import graph, shade
from pavane.bench.page.page import page
from pavane.bench.page.svg import Scale
from pavane.bench.workflows.figures import all_figures
from pavane.bench.workflows.journal import Journal
from pavane.bench.workflows.records import Trouble


def made(journal, divergence=None):
    html = page(journal, all_figures(journal), divergence or {})
    body = re.search("<body>.*</body>", html, re.DOTALL)
    return html, xml.dom.minidom.parseString(body[0])


def headings(document):
    return [node.firstChild.data for node in document.getElementsByTagName("h2")]


def test_it_is_whole_and_asks_for_nothing_from_outside():
    html, document = made(Journal.of(measured(2, 3, 4)), {"team": {("reader-1", "document-1"): 0.25}})
    assert headings(document) == ["First token", "Wall", "Tokens", "Timeline", "Growth", "Divergence"]
    assert not re.search(r"https?:|src=|@import|<link|<script", html)
    assert "a &lt;processor&gt; &amp; more" in html


def test_without_growth_and_divergence_there_is_nothing_of_them():
    assert headings(made(Journal.of(measured(2)))[1]) == ["First token", "Wall", "Tokens", "Timeline"]


def test_every_call_has_its_lane_and_every_mode_its_bar():
    _, document = made(Journal.of(measured(2)))
    labels = [node.getAttribute("aria-label") for node in document.getElementsByTagName("svg")]
    lanes = [label for label in labels if re.match("(document|reader|judge|final)", label)]
    assert len(lanes) == 6 * 2 + 3, "six calls of each mode; of a peer the answers"
    assert sum(label.startswith(("exact: read in place 40", "reuse: read in place 40")) for label in labels) == 2


def test_wrong_counts_and_peers_that_failed_are_told_at_the_top():
    one = recording()
    trouble = Trouble(one.case, "vllm", "no answer")
    journal = Journal.of([SETUP, one, run(one, "exact", 0, 3.0), run(one, "reuse", 0, wrong=True), trouble])
    html, _ = made(journal)
    assert "in 1 runs the tokens are not those of the formula" in html
    assert "team, vllm: no answer" in html


def test_places_are_within_the_page():
    html, _ = made(Journal.of(measured(2, 3, 4)))
    assert all(0 <= float(place) <= 100.001 for place in re.findall(r'(?:x|cx|x1|x2|width)="([\d.]+)%"', html))


@pytest.mark.parametrize(("values", "ticks"), [([3.0, 7.2], [0, 2, 4, 6, 8]), ([900.0], [0, 250, 500, 750, 1000])])
def test_scales_have_round_ticks(values, ticks):
    assert Scale(values).ticks == ticks


def test_a_logarithmic_scale_spans_whole_decades():
    scale = Scale([0.03, 7.0], log=True)
    assert [round(tick, 2) for tick in scale.ticks] == [0.01, 0.1, 1, 10]
    assert scale(1.0) == pytest.approx(2 / 3)
    assert scale(0.0) == 0


def test_edges_are_coloured_by_what_they_cost():
    html = graph({("c", "a"): 0.5, ("c", "b"): 0.0, ("d", "c"): -0.1})
    assert "c reads a: 0.5000 nats a token" in html
    assert html.index("d reads c") < html.index("c reads b") < html.index("c reads a")
    assert 'class="edge shade4"' in html
    assert [html.count(f'cx="{x}%"') for x in ("16.667", "50.000", "83.333")] == [2, 1, 1]
    assert [shade(value, 0.5) for value in (0.0, 0.01, 0.05, 0.2, 0.5)] == [0, 0, 1, 3, 4]
    with pytest.raises(ValueError, match="these read each other: b, a"):
        graph({("a", "b"): 0.1, ("b", "a"): 0.1})
