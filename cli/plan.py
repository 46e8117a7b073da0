"""Ask a server what a graph of calls from a YAML file would cost. Nothing runs.

examples:
  pavane plan debate.yaml
  pavane plan debate.yaml --fidelity exact      what ordinary chat prompts would cost
  pavane plan debate.yaml --assume 60           answers of 60 tokens
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.cli.connect import connection, no_server
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.cli.graph import Graph, Node
from pavane.cli.run import add_graph_arguments, read_graph
from pavane.clients import Client, Plan, Result, ServerInfo, Unavailable
from pavane.clients.checks import UINT32, integer

WIDE, MEDIUM = 72, 56  # columns, from which on there is room for the parents, and for the kind
KIND, GAP = 7, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane plan`."""
    add_graph_arguments(parser)
    parser.add_argument(
        "--assume", type=int, metavar="TOKENS", help="length of answers; default: max_tokens, 256 where there is none"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the plan. Returns 0, or 1 if a call would fail."""
    try:
        if args.assume is not None:
            integer("--assume", args.assume, UINT32, least=1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    graph = read_graph(args)
    plan, info = asyncio.run(_plan(graph, args))
    if args.json:
        print(json.dumps({"description": graph.description, **asdict(plan)}, indent=2, ensure_ascii=False))
    else:
        show(PavaneConsole(), graph, plan, info)
    return 1 if any(call.error for call in plan.calls) else 0


async def _plan(graph: Graph, args: argparse.Namespace) -> tuple[Plan, ServerInfo]:
    async with Client(**connection(args), namespace=args.namespace) as client:
        try:
            info = await client.server_info()
        except Unavailable as error:
            raise no_server(args.server, error) from error
        async with client.workflow() as wf:
            draft = wf.draft()
            graph.submit(draft)
            return await draft.plan(assumed_tokens=args.assume), info


def show(console: Console, graph: Graph, plan: Plan, info: ServerInfo) -> None:
    """The tree of calls with what each costs, then the sums, the longest chain and the errors."""
    console.print(_table(graph, plan, console.width))
    size = plan.kv_bytes_read / 1e6
    console.print(Text(f"peak {plan.peak_slots:,} of {info.token_slots:,} slots · {size:,.0f} MB of KV read"))
    console.print(Text(f"* longest chain: {' → '.join(plan.critical_path)}"))
    if any(call.finish == "length" for call in plan.calls):
        console.print(Text("~ assumed: a sampled answer may end earlier", style="dim"))
    for group, winners in plan.assumed_winners.items():
        console.print(Text(f"~ assumed: the first of {group} are {', '.join(winners)}", style="dim"))
    for call in plan.calls:
        if call.error:
            console.print(Text(f"{call.id}: {call.error}", style="red"))


def _table(graph: Graph, plan: Plan, width: int) -> Table:
    total = plan.total
    numbers = {
        "in place": total.reused_in_place,
        "moved": total.repositioned,
        "encoded" if width >= MEDIUM else "new": total.encoded + total.reencoded,
        "generated" if width >= MEDIUM else "made": total.generated,
    }
    widths = [max(len(str(count)) + 1, *map(len, name.split())) for name, count in numbers.items()]
    # Numbers are never cut, names are.
    text = max(1, width - sum(widths) - GAP * len(widths) - (KIND + GAP if width >= MEDIUM else 0))
    labels = max(len(guides) + len(node.id) + 2 for guides, node in tree(graph))
    first = min(labels, text * 3 // 5 if width >= WIDE else text)
    table = Table(box=None, show_footer=True, padding=(0, GAP, 0, 0), pad_edge=False, footer_style="bold")
    table.add_column("message", "total", no_wrap=True, overflow="ellipsis", width=first)
    if width >= MEDIUM:
        table.add_column("kind", width=KIND)
    if width >= WIDE:
        table.add_column("parents", no_wrap=True, overflow="ellipsis", max_width=text - first - GAP)
    for (name, count), size in zip(numbers.items(), widths, strict=True):
        table.add_column(name, str(count), justify="right", width=size)
    calls = {call.id: call for call in plan.calls}
    for guides, node in tree(graph):
        call = calls[node.id]
        chosen = node.id in plan.critical_path
        style = "red" if call.error else "bold" if chosen else ""
        label = Text(guides, style="dim").append(("* " if chosen else "") + node.id, style=style)
        kind = Text("prefill" if node.prefill is not None else "decode")
        parents = Text(", ".join(edge.id for edge in node.parents))
        table.add_row(label, *[kind][: width >= MEDIUM], *[parents][: width >= WIDE], *_counts(call))
    return table


def _counts(call: Result) -> list[str]:
    if call.error:
        return ["", "", "", "fails"]
    receipt = call.receipt
    generated = f"{'~' if call.finish == 'length' else ''}{receipt.generated}" if receipt.generated else ""
    encoded = receipt.encoded + receipt.reencoded
    return [str(receipt.reused_in_place), str(receipt.repositioned), str(encoded), generated]


def tree(graph: Graph) -> list[tuple[str, Node]]:
    """The calls, each below the parent that it waits for longest (the one with the most calls above it), with the lines
    that lead to it."""
    depth: dict[str, int] = {}
    below: dict[str | None, list[Node]] = {}
    for node in graph.nodes:
        names = [edge.id for edge in node.parents]
        above = max(names, key=lambda name: depth[name], default=None)
        depth[node.id] = 0 if above is None else depth[above] + 1
        below.setdefault(above, []).append(node)
    lines: list[tuple[str, Node]] = []
    _walk(below, None, "", lines)
    return lines


def _walk(below: Mapping[str | None, list[Node]], name: str | None, guides: str, lines: list[tuple[str, Node]]) -> None:
    nodes = below.get(name, [])
    for i, node in enumerate(nodes):
        last = i == len(nodes) - 1
        own = "" if name is None else "└─ " if last else "├─ "
        lines.append((guides + own, node))
        _walk(below, node.id, guides + ("" if name is None else "   " if last else "│  "), lines)
