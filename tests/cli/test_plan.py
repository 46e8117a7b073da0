"""`pavane plan` as it is used, against the fake server, and its tree."""

import io
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from pavane.cli.graph_file import load_graph
from pavane.cli.plan import show, tree
from pavane.cli.run import EXAMPLES
from pavane.clients import Plan, Receipt, Result, ServerInfo


def pavane(*words):
    return subprocess.run([sys.executable, "-m", "pavane.cli.main", *words], capture_output=True, text=True, timeout=30)


def test_the_tree_with_what_each_call_costs(target):
    done = pavane("plan", "debate.yaml", "--server", target)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"\* start +prefill +0 +0 +1 *$", lines[2])
    assert re.match(r"├─ ann-0 +decode +start +10 +0 +1 +~96$", lines[3])
    assert "peak 1,234 of " in done.stdout
    assert "* longest chain: start → verdict" in lines
    assert "~ assumed" in lines[-1]


def test_assumed_lengths_and_json(target):
    done = pavane("plan", "debate.yaml", "--server", target, "--assume", "7", "--json")
    plan = json.loads(done.stdout)
    assert [call["receipt"]["generated"] for call in plan["calls"] if call["finish"]] == [7] * 5
    assert plan["total"]["generated"] == 35
    assert plan["critical_path"] == ["start", "verdict"]


def test_lengths_that_cannot_be_are_refused(target):
    done = pavane("plan", "debate.yaml", "--server", target, "--assume", "-1")
    assert (done.returncode, done.stderr) == (2, "pavane plan: --assume must be from 1 to 4294967295, not -1\n")


def test_calls_that_would_fail_are_told(target, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("messages: [{id: task, prefill: {user: hi}}, {id: bad, parents: [task], decode: }]")
    done = pavane("plan", str(path), "--server", target)
    assert done.returncode == 1
    assert "bad: it needs more slots than there are" in done.stdout
    assert re.search(r"bad +decode +task +fails", done.stdout)


def test_a_call_stands_below_the_parent_that_it_waits_for_longest():
    graph = load_graph(EXAMPLES / "debate.yaml", {})
    assert [guides + node.id for guides, node in tree(graph)] == [
        "start",
        "├─ ann-0",
        "│  └─ ann-1",
        "│     └─ verdict",
        "└─ ben-0",
        "   └─ ben-1",
        "debate",
        "judge",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits_the_terminal(width):
    graph = load_graph(EXAMPLES / "debate.yaml", {})
    costs = Receipt(12_345, 678, 90, 96, 2, 0, 0.0, 0.0, 0.0, 0.0, (), 0, False)
    calls = tuple(
        Result(node.id, "done", "", (), (), (), 0, "length" if node.decode is not None else "", 0, costs, "")
        for node in graph.nodes
    )
    plan = Plan(calls, costs, 1, 2, ("start", "ann-0", "ann-1", "verdict"))
    info = ServerInfo("m", "0", 1, 1, 4096, None, (), (), "", "")
    console = Console(width=width, record=True, file=io.StringIO())
    show(console, graph, plan, info)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("12345" in line for line in lines) == len(calls) + 1
    assert sum("~96" in line for line in lines) == 5
