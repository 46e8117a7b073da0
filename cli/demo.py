"""Watch a debate twice, on a small model and a server that this command starts and stops.

Three agents solve a problem, read each other and solve it again. First as with any chat API and its prefix cache, then
with every message encoded once and read where it lies; the receipts tell the difference.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import AsyncExitStack
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pavane.bench.server_process import ServerFailed, ServerProcess
from pavane.cli.board import Board, make_board
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.clients import Client, Fidelity, Message
from pavane.clients.workflows.debate import Debate, Outcome, run_debate

PROBLEM = (
    "A bakery fills 14 trays with 12 rolls each. It sells 95 rolls before noon and gives a quarter of "
    "the full trays it still has afterwards to a school. How many rolls are left?"
)
ARMS: tuple[tuple[Fidelity, str, str], ...] = (
    ("exact", "chat", "As a chat API does it: what a prefix cache does not hold is encoded again"),
    ("reuse", "reuse", "With reuse: every message encoded once, read by all agents where it lies"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane demo`."""
    parser.add_argument(
        "--model", metavar="MODEL", help="as in pavane serve; default: the small model that `make demo` installs"
    )
    parser.add_argument("--problem", metavar="TEXT", default=PROBLEM, help="what the agents should solve")
    parser.add_argument("--agents", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="after the first one; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=96, help="limit of one answer; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Runs both arms and prints what they took. Returns 0, or 1 if the server did not start."""
    if args.agents < 2 or args.rounds < 1 or args.tokens < 1:
        raise UsageError("a debate needs --agents of at least 2, and --rounds and --tokens of at least 1")
    console = PavaneConsole()
    debate = Debate(args.problem, agents=args.agents, rounds=args.rounds, max_tokens=args.tokens)
    try:
        asyncio.run(_demo(console, debate, args.model))
    except ServerFailed as error:
        PavaneConsole(stderr=True).print(str(error), markup=False)
        return 1
    except asyncio.CancelledError:
        return 143  # told to end by a signal other than Ctrl-C
    return 0


async def _demo(console: Console, debate: Debate, model: str | None) -> None:
    _stop_in_order()
    console.print(Text.assemble(("Problem  ", "bold"), debate.problem), end="\n\n")
    outcomes: dict[str, Outcome] = {}
    async with AsyncExitStack() as stack:
        with console.status("starting a server ..."):
            server = await stack.enter_async_context(ServerProcess.serve(*(["--model", model] if model else [])))
        async with Client(server.target) as client:
            await _warm_up(client)
        for fidelity, label, headline in ARMS:
            console.print(f"[bold]{headline}[/bold]")
            async with Client(server.target, namespace=f"demo-{label}") as client:
                with make_board(console, keep=True) as board:
                    follow = partial(_follow, board, debate)
                    outcomes[label] = await run_debate(client, debate, fidelity, follow)
            console.print()
    console.print(comparison(outcomes["chat"], outcomes["reuse"]))
    console.print(verdict(outcomes["chat"], outcomes["reuse"]))


def _stop_in_order() -> None:
    # Ctrl-C does this by itself; the other ways to end a program must not leave the server behind either.
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _warm_up(client: Client) -> None:
    # The first forward pass of a process allocates and is slower; neither arm should pay for that.
    async with client.workflow() as wf:
        await wf.decode(wf.prefill(user="Count to three."), max_tokens=4)


async def _follow(board: Board, debate: Debate, r: int, agent: int, message: Message) -> None:
    lane, first = f"agent {agent + 1}", True
    async for delta in message:
        if first:
            board.begin(lane, f"round {r}/{debate.rounds}")
            first = False
        board.write(lane, delta.text)
    receipt = (await message).receipt
    if not first:
        board.end(lane, f"{receipt.generated} tok · TTFT {receipt.first_token:.2f} s")


def comparison(chat: Outcome, reuse: Outcome) -> Table:
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


def verdict(chat: Outcome, reuse: Outcome) -> str:
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
