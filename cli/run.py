"""Run a graph of calls from a YAML file, see the texts as they come and what each call reused.

examples:
  pavane run debate.yaml --var problem="How much is 17 * 23?"
  pavane run debate.yaml --fidelity exact       the same as ordinary chat prompts
  pavane run debate.yaml --json - > out.json    everything, for programs
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.cli.board import Board, make_board
from pavane.cli.connect import add_server_arguments, connection, no_server
from pavane.cli.extras import UsageError
from pavane.cli.graph import Graph
from pavane.cli.graph_file import load_graph
from pavane.cli.json_output import STDOUT, add_json, check_json, write_json
from pavane.clients import CallCancelled, CallFailed, Client, Message, PavaneError, Receipt, Result, Unavailable
from pavane.clients.checks import duration, priority

EXAMPLES = Path(__file__).parent / "examples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane run`."""
    add_graph_arguments(parser)
    parser.add_argument("--priority", type=int, metavar="N", help="higher goes first within the namespace; default: 0")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="in which all calls must end; default: none")
    add_json(parser)


def add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    """Which graph, with which variables, on which server."""
    names = ", ".join(sorted(path.name for path in EXAMPLES.glob("*.yaml")))
    parser.add_argument("graph", type=Path, help=f"a YAML file, or one of the examples: {names}")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE", help="sets a variable of the file")
    parser.add_argument(
        "--fidelity", choices=("exact", "reuse"), help="of calls and edges that name none; default: reuse"
    )
    parser.add_argument("--seed", type=int, help="decodes without a seed get one derived from this and their id")
    add_server_arguments(parser)


def read_graph(args: argparse.Namespace) -> Graph:
    """The graph that the arguments name. Raises UsageError."""
    path: Path = args.graph
    if not path.exists() and path.parent == Path() and (EXAMPLES / path.name).exists():
        path = EXAMPLES / path.name
    return load_graph(path, _variables(args.var), fidelity=args.fidelity, seed=args.seed)


def run(args: argparse.Namespace) -> int:
    """Runs the graph. Returns 0, or 1 if a call failed."""
    _check_opening(args)
    check_json(args.json)
    graph = read_graph(args)
    console = Console(highlight=False, stderr=args.json == STDOUT)
    outcome = asyncio.run(_run(console, graph, args))
    show(console, graph, outcome)
    write_json(as_json(graph, outcome), args.json)
    return 1 if outcome.errors else 0


@dataclass(frozen=True)
class Outcome:
    """Messages by id (partial ones of failed calls too), errors by id, the summed receipt, seconds on the clock."""

    results: dict[str, Result]
    errors: dict[str, PavaneError]
    total: Receipt
    wall: float


async def _run(console: Console, graph: Graph, args: argparse.Namespace) -> Outcome:
    results: dict[str, Result] = {}
    errors: dict[str, PavaneError] = {}
    given_up = {member for group in graph.groups if group.cancel_rest for member in group.members}
    async with Client(**connection(args), namespace=args.namespace) as client:
        try:
            await client.server_info()
        except Unavailable as error:
            raise no_server(args.server, error) from error
        begin = time.perf_counter()
        async with client.workflow(priority=args.priority, deadline=args.deadline) as wf:
            handles = graph.submit(wf)
            with make_board(console, keep=False) as board:
                ends = await asyncio.gather(*(_follow(board, handle) for handle in handles), return_exceptions=True)
            wall = time.perf_counter() - begin
        for handle, end in zip(handles, ends, strict=True):
            if isinstance(end, Result):
                results[handle.id] = end
            elif isinstance(end, CallCancelled) and handle.id in given_up:  # as the graph wants it
                results[handle.id] = end.result
            elif isinstance(end, PavaneError):
                errors[handle.id] = end
                if isinstance(end, CallFailed):
                    results[handle.id] = end.result
            else:
                raise end
    return Outcome(results, errors, wf.total, wall)


async def _follow(board: Board, message: Message) -> Result:
    lane, attempt = message.id, 0
    try:
        async for delta in message:
            if delta.attempt != attempt:
                attempt = delta.attempt
                board.begin(lane, lane if attempt == 1 else f"{lane}, attempt {attempt}")
                board.write(lane, message.call.decode.header.turn.text)
            board.write(lane, delta.text)
        result = await message
    except PavaneError as error:
        if attempt:
            board.end(lane, error.reason)
        raise
    if attempt:
        board.end(lane, f"{result.receipt.generated} tokens")
    return result


def show(console: Console, graph: Graph, outcome: Outcome) -> None:
    """The texts, where the console is a terminal that has not kept them, then the receipts and the errors."""
    if console.is_terminal:
        for node in graph.nodes:
            if node.decode is not None and node.id in outcome.results:
                console.print(Text(node.id, style="bold cyan"))
                console.print(Text(outcome.results[node.id].text.strip()), end="\n\n")
    console.print(receipts(outcome))
    for message_id, error in outcome.errors.items():
        console.print(Text(f"{message_id}: {error}", style="red"))


def receipts(outcome: Outcome) -> Table:
    """One row per message and one for the whole."""
    table = Table(show_footer=True, caption=f"wall {outcome.wall:.2f} s", caption_justify="right")
    total = outcome.total
    table.add_column("message", "total")
    for name, count in (
        ("in place", total.reused_in_place),
        ("moved", total.repositioned),
        ("encoded", total.encoded),
        ("generated", total.generated),
    ):
        table.add_column(name, str(count), justify="right")
    table.add_column("first token", justify="right")
    table.add_column("end")
    for message_id, result in outcome.results.items():
        receipt = result.receipt
        table.add_row(
            Text(message_id),
            str(receipt.reused_in_place),
            str(receipt.repositioned),
            str(receipt.encoded),
            str(receipt.generated),
            f"{receipt.first_token:.2f} s" if receipt.generated else "",
            result.finish or result.state,
        )
    return table


def as_json(graph: Graph, outcome: Outcome) -> dict[str, object]:
    """Everything, as plain values."""
    messages = []
    for node in graph.nodes:
        entry: dict[str, object] = {"id": node.id}
        if (result := outcome.results.get(node.id)) is not None:
            entry |= asdict(result)
        if (error := outcome.errors.get(node.id)) is not None:
            entry["error"] = {"reason": error.reason, "text": error.text, "ids": error.ids}
        messages.append(entry)
    return {
        "description": graph.description,
        "messages": messages,
        "total": asdict(outcome.total),
        "wall_seconds": outcome.wall,
    }


def _check_opening(args: argparse.Namespace) -> None:
    try:
        if args.priority is not None:
            priority("--priority", args.priority)
        if args.deadline is not None:
            duration("--deadline", args.deadline)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _variables(pairs: list[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--var takes NAME=VALUE, not {pair!r}")
        variables[name] = value
    return variables
