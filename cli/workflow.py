"""Run a workflow by name, see its calls as they are written, and what each of them reused.

examples:
  pavane workflow --list
  pavane workflow tree-of-thoughts                          a small model and a server of its own
  pavane workflow debate --agents 4 --rounds 2 --fidelity exact
  pavane workflow branch-solve-merge --problem "cat, moon, ladder"
  pavane workflow rag-team --server localhost:50051 --problem @questions.jsonl --line 3
  pavane workflow debate --print-prompts > mine.toml        then --prompts mine.toml

Without --server it starts a server and uses sizes that suit a small model on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.bench.server_process import ServerFailed
from pavane.cli.board import make_board
from pavane.cli.connect import Connection, add_server_arguments, connection, no_server
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.cli.json_output import STDOUT, add_json, check_json, write_json
from pavane.cli.lanes import Lanes
from pavane.cli.own_server import own_server, stop_in_order
from pavane.cli.workflow_view import show
from pavane.clients import Client, Unavailable
from pavane.clients.edges import FIDELITIES, LAYOUTS
from pavane.clients.workflows import WORKFLOWS, Kind, Outcome, Setting
from pavane.clients.workflows.problem import Problem, load_problems
from pavane.clients.workflows.prompts import dump_prompts, load_prompts
from pavane.clients.workflows.sizes import Sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A subcommand for each workflow."""
    parser.add_argument("--list", action="store_true", help="the workflows, and what they do")
    names = parser.add_subparsers(dest="name", metavar="NAME", title="workflows")
    for kind in WORKFLOWS.values():
        sub = names.add_parser(
            kind.name,
            help=kind.about,
            description=kind.tutorial,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_kind(sub, kind)


def _add_kind(parser: argparse.ArgumentParser, kind: Kind[Any, Any]) -> None:
    example = kind.problem.example()
    parser.add_argument(
        "--problem",
        metavar="TEXT|@FILE",
        help=f"text, or JSON such as {example}, or @FILE with a line of JSON for each",
    )
    parser.add_argument("--line", type=int, default=1, metavar="N", help="which problem of the file; default: 1")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--small", action="store_true", help="the small defaults also with --server")
    full, small = kind.sizes(), kind.small()
    for one in fields(full):
        about = f"{one.metadata['about']}; default: {getattr(full, one.name)}, small {getattr(small, one.name)}"
        sizes.add_argument(
            f"--{one.name.replace('_', '-')}", type=int, metavar="N", help=about, dest=f"size_{one.name}"
        )
    how = parser.add_argument_group("how it runs")
    how.add_argument("--fidelity", choices=tuple(FIDELITIES), default="reuse", help="of all edges; default: reuse")
    how.add_argument("--layout", choices=tuple(LAYOUTS), default="packed", help="default: packed")
    how.add_argument("--temperature", type=float, default=0.7, metavar="X", help="default: 0.7")
    how.add_argument("--seed", type=int, default=1, help="default: 1")
    how.add_argument("--equal-lengths", action="store_true", help="ignore the end of turn: all answers at full length")
    how.add_argument("--prompts", type=Path, metavar="FILE", help="TOML with all prompts; see --print-prompts")
    how.add_argument("--print-prompts", action="store_true", help="print the workflow's own prompts as TOML and stop")
    parser.add_argument("--model", metavar="MODEL", help="for a server of its own; default: the small model")
    add_server_arguments(parser, own=True)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs one workflow, or lists them. Returns 0, or 1 if the server did not start."""
    if args.name is None:
        if not args.list:
            raise UsageError(f"which workflow? {', '.join(WORKFLOWS)} (--list says what they do)")
        PavaneConsole().print(catalogue())
        return 0
    kind = WORKFLOWS[args.name]
    if args.print_prompts:
        print(dump_prompts(kind.prompts), end="")
        return 0
    check_json(args.json)
    console = PavaneConsole(stderr=args.json == STDOUT)
    try:
        problem, sizes, setting = _problem(kind, args), _sizes(kind, args), _setting(kind, args)
        outcome = asyncio.run(_run(console, kind, problem, sizes, setting, args))
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    except ServerFailed as error:
        PavaneConsole(stderr=True).print(str(error), markup=False)
        return 1
    except asyncio.CancelledError:
        return 143  # told to end by a signal other than Ctrl-C
    show(console, outcome)
    write_json(as_json(outcome), args.json)
    return 0


async def _run(
    console: Console, kind: Kind[Any, Any], problem: Problem, sizes: Sizes, setting: Setting, args: argparse.Namespace
) -> Outcome:
    stop_in_order()
    how = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(sizes).items() if value)
    console.print(Text.assemble((kind.name, "bold"), f"  {setting.fidelity}, {setting.layout}; {how}"))
    console.print(Text(problem.text(), style="dim"), end="\n\n")
    async with AsyncExitStack() as stack:
        if args.server is None:
            reach = Connection(
                target=await stack.enter_async_context(own_server(console, args.model)), tls=None, api_key=""
            )
        else:
            reach = connection(args)
        client = await stack.enter_async_context(Client(**reach, namespace=args.namespace))
        try:
            await client.server_info()
        except Unavailable as error:
            raise no_server(reach["target"], error) from error
        with make_board(console, keep=True) as board:
            lanes = Lanes(board)
            outcome = await kind.run(client, problem, sizes, setting, lanes)
            await lanes.ended()
    console.print()
    return outcome


def _problem(kind: Kind[Any, Any], args: argparse.Namespace) -> Problem:
    problem: Problem
    if args.problem is None:
        problem = kind.sample_problems()[0]
    elif not args.problem.startswith("@"):
        problem = kind.problem.from_text(args.problem)
    else:
        path = Path(args.problem[1:])
        problems = load_problems(path, kind.problem)
        if not 1 <= args.line <= len(problems):
            raise ValueError(f"--line is {args.line}, but {path} has {len(problems)} problems")
        problem = problems[args.line - 1]
    return problem


def _sizes(kind: Kind[Any, Any], args: argparse.Namespace) -> Sizes:
    base = kind.small() if args.small or args.server is None else kind.sizes()
    given = {one.name: value for one in fields(base) if (value := getattr(args, f"size_{one.name}")) is not None}
    made: Sizes = kind.sizes(**{**asdict(base), **given})
    return made


def _setting(kind: Kind[Any, Any], args: argparse.Namespace) -> Setting:
    prompts = load_prompts(args.prompts, kind.prompts) if args.prompts is not None else {}
    return Setting(args.fidelity, args.layout, args.temperature, args.seed, args.equal_lengths, prompts=prompts)


def catalogue() -> Table:
    """The workflows, and what they do."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for kind in WORKFLOWS.values():
        table.add_row(Text(kind.name, style="bold cyan"), Text(kind.about))
    return table


def as_json(outcome: Outcome) -> dict[str, object]:
    """Everything, as plain values."""
    plain = asdict(outcome)
    for edges in plain["parents"].values():
        for edge in edges:
            del edge["owner"], edge["last_use"]
    return plain
