"""Send a server the load of many agent workflows and see what it makes of it.

examples:
  pavane loadtest --rate 0.5                              a server of its own, half a workflow a second for a minute
  pavane loadtest --utilisation 0.8 -- --num-slots 65536  80 % of what that server can do, found first
  pavane loadtest --server host:50051 --rate 4 --duration 600 --json load.json
  pavane loadtest --trace trace.jsonl                     as python -m pavane.bench.trace writes it

Debates, trees with votes, teams that read documents, and chats arrive when they are due (Poisson), whatever has become
of those before, and every latency counts from then. What goes after -- are flags of pavane serve. Nothing is sent
twice: what the server refuses is counted. Tenants are namespaces t0, t1 ...; of one alone, that of the API key.
The server should have no other users meanwhile: its counts are compared with those of its clients.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from pavane.bench.arguments import positive
from pavane.bench.load.records import percentile
from pavane.bench.load.report import Load, as_json, table
from pavane.bench.load.run import Options, Progress
from pavane.bench.load.run import run as run_load
from pavane.bench.report import emit, say, show
from pavane.bench.server_process import ServerFailed, ServerProcess
from pavane.bench.stats import NoMeasurement
from pavane.bench.trace import TraceError, read_trace
from pavane.cli.connect import add_connection_arguments, connection, no_server
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.clients import TLS, Unavailable

LIVE_S = 1.0
LINE_S = 30.0  # without a terminal
RATE, UTILISATION = (1e-6, 1e5), (0.01, 10.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane loadtest`."""
    add_connection_arguments(parser, own=True)
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=float, metavar="N", help="workflows a second, over all tenants")
    load.add_argument("--utilisation", type=float, metavar="SHARE", help="of the capacity; default: 0.8")
    load.add_argument("--trace", type=Path, metavar="FILE", help="workflows and their times; - of the first --duration")
    parser.add_argument("--duration", type=float, default=60.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument(
        "--scale", type=float, default=0.25, help="lengths of texts and answers, times this; default: %(default)g"
    )
    parser.add_argument("--tenants", type=positive, help="default: 4, with an API key 1")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for the last ones to end; default: %(default)g",
    )
    parser.add_argument("--pid", type=positive, help="of the server, on this machine: its memory is watched")
    parser.add_argument("--json", metavar="PATH", help="write the result as JSON; - for stdout")
    parser.add_argument("flags", nargs="*", metavar="-- FLAG", help="of the command's own server")


def run(args: argparse.Namespace) -> int:
    """Returns 0; 1 if calls were lost, slots leaked, receipts do not add up or figures are void; 130 if interrupted."""
    options = _options(args)
    console = PavaneConsole(stderr=True)
    try:
        load = asyncio.run(_run(options, args, console))
    except Unavailable as error:
        raise no_server(args.server or "its own address", error) from error
    except (ServerFailed, NoMeasurement) as error:
        print(f"pavane loadtest: {error}", file=sys.stderr)
        return 1
    if load is None:
        return 130
    show(table(load), args.json)
    emit(as_json(load), args.json)
    if load.interrupted:
        return 130
    return 1 if load.defects or load.void else 0


def _options(args: argparse.Namespace) -> Options:
    """Raises UsageError."""
    utilisation = args.utilisation
    if args.rate is None and args.trace is None and utilisation is None:
        utilisation = 0.8
    for name, value, (low, high) in (
        ("rate", args.rate, RATE),
        ("utilisation", utilisation, UTILISATION),
        ("duration", args.duration, (0.1, 1e7)),
        ("scale", args.scale, (0.001, 100.0)),
        ("patience", args.patience, (0.0, 1e7)),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name} is {value:g}; use {low:g} to {high:g}")
    if args.server is not None and args.flags:
        raise UsageError(f"{' '.join(args.flags)} is for a server of the command's own: leave it out, or --server")
    try:
        trace = read_trace(args.trace) if args.trace is not None else ()
    except (TraceError, OSError) as error:
        raise UsageError(f"--trace: {error}") from None
    tls: TLS | bool | None = None
    if args.server is not None:
        tls = connection(args)["tls"]
    return Options(
        target=args.server or "",
        tls=tls,
        api_key=args.api_key if args.server is not None else "",
        rate=args.rate,
        utilisation=utilisation,
        trace=trace,
        duration=args.duration,
        scale=args.scale,
        tenants=args.tenants or (1 if args.api_key else 4),
        seed=args.seed,
        patience=args.patience,
        pid=args.pid,
    )


async def _run(options: Options, args: argparse.Namespace, console: Console) -> Load | None:
    """None if it was interrupted before anything was sent. The first signal ends the load in order, a second one at
    once."""
    stopping = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if stopping.is_set():
            task.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    progress = Progress(say)
    async with AsyncExitStack() as stack:
        if not options.target:
            server = await stack.enter_async_context(ServerProcess.serve(*args.flags))
            options = replace(options, target=server.target, pid=server.pid)
        showing = asyncio.create_task(_show(progress, console))
        try:
            return await run_load(options, stopping, progress)
        except NoMeasurement:
            if stopping.is_set():
                return None
            raise
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def _show(progress: Progress, console: Console) -> None:
    """A live line in a terminal, else a line now and then."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(LINE_S)
            if progress.records is not None:
                say(_line(progress))
    with Live("starting ...", console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(LIVE_S)
            if progress.records is not None:
                live.update(_line(progress), refresh=True)


def _line(progress: Progress) -> str:
    records = progress.records
    assert records is not None
    seconds = time.perf_counter() - progress.began
    first = percentile(records.merged("first_token"), 99)
    memory = progress.memory.samples[-1:] if progress.memory is not None else []
    return (
        f"{seconds:.0f} s · {records.begun} begun, {records.ended} ended, {records.open} open · "
        f"{records.tokens / seconds:.0f} tokens/s · first token p99 {first:.2f} s · {records.errors} errors"
        f"{f' · {memory[0][1]:.3f} GB' if memory else ''}"
    )
