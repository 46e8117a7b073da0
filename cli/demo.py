"""Watch a debate twice, on a small model and a server that this command starts and stops.

Three agents solve a problem, read each other and solve it again. First as with any chat API and its prefix cache, then
with every message encoded once and read where it lies; the receipts tell the difference.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.bench.server_process import ServerFailed
from pavane.cli.board import make_board
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.cli.lanes import Lanes
from pavane.cli.own_server import own_server, stop_in_order
from pavane.clients import Client, Fidelity
from pavane.clients.workflows import Setting
from pavane.clients.workflows.debate import Debate, DebateSizes
from pavane.clients.workflows.debate import run as run_debate
from pavane.clients.workflows.problem import TextProblem
from pavane.clients.workflows.samples import WORD_PROBLEMS

ARMS: tuple[tuple[Fidelity, str, str], ...] = (
    ("exact", "chat", "As a chat API does it: what a prefix cache does not hold is encoded again"),
    ("reuse", "reuse", "With reuse: every message encoded once, read by all agents where it lies"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane demo`."""
    parser.add_argument(
        "--model", metavar="MODEL", help="as in pavane serve; default: the small model that `make demo` installs"
    )
    parser.add_argument(
        "--problem", metavar="TEXT", default=WORD_PROBLEMS[0].problem, help="what the agents should solve"
    )
    parser.add_argument("--agents", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="after the first one; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=96, help="limit of one answer; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Runs both arms and prints what they took. Returns 0, or 1 if the server did not start."""
    console = PavaneConsole()
    try:
        problem = TextProblem(args.problem)
        sizes = DebateSizes(agents=args.agents, rounds=args.rounds, answer_tokens=args.tokens, last_tokens=args.tokens)
    except ValueError as error:
        raise UsageError(f"{error} (answer_tokens are --tokens)") from None
    try:
        asyncio.run(_demo(console, problem, sizes, args.model))
    except ServerFailed as error:
        PavaneConsole(stderr=True).print(str(error), markup=False)
        return 1
    except asyncio.CancelledError:
        return 143  # told to end by a signal other than Ctrl-C
    return 0


async def _demo(console: Console, problem: TextProblem, sizes: DebateSizes, model: str | None) -> None:
    stop_in_order()
    console.print(Text.assemble(("Problem  ", "bold"), problem.problem), end="\n\n")
    outcomes: dict[str, Debate] = {}
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(own_server(console, model))
        for fidelity, label, headline in ARMS:
            console.print(f"[bold]{headline}[/bold]")
            async with Client(target, namespace=f"demo-{label}") as client:
                with make_board(console, keep=True) as board:
                    lanes = Lanes(board)
                    outcomes[label] = await run_debate(client, problem, sizes, Setting(fidelity), lanes)
                    await lanes.ended()
            console.print()
    console.print(comparison(outcomes["chat"], outcomes["reuse"]))
    console.print(verdict(outcomes["chat"], outcomes["reuse"]))


def comparison(chat: Debate, reuse: Debate) -> Table:
    """Both receipts side by side."""
    table = Table(title="What the two debates took", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("chat API", justify="right")
    table.add_column("reuse", justify="right")
    rows = [
        ("tokens read in place", "reused_in_place"),
        ("tokens repositioned", "repositioned"),
        ("tokens encoded", "encoded"),
        ("tokens generated", "generated"),
    ]
    for name, field in rows:
        table.add_row(name, f"{getattr(chat.total, field):,}", f"{getattr(reuse.total, field):,}")
    table.add_row("first token after round 0 (mean)", f"{chat.first_token:.2f} s", f"{reuse.first_token:.2f} s")
    table.add_row("wall", f"{chat.wall:.1f} s", f"{reuse.wall:.1f} s")
    return table


def verdict(chat: Debate, reuse: Debate) -> str:
    """One sentence on what reuse saved, or did not."""
    saved = chat.total.encoded - reuse.total.encoded
    share = abs(saved) / max(1, chat.total.encoded)
    ratio = chat.first_token / max(reuse.first_token, 1e-9)
    counts = f"{reuse.total.encoded:,} instead of {chat.total.encoded:,}"
    encoded = f"{share:.0%} {'fewer' if saved >= 0 else 'more'} tokens ({counts})"
    sooner = f"{ratio:.1f} times sooner" if ratio >= 1 else f"{1 / max(ratio, 1e-9):.1f} times later"
    if 0.95 < ratio < 1.05:
        sooner = "about as soon as without"
    return f"Reuse encoded {encoded}, and after round 0 the first token came {sooner}."
