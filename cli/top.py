"""Watch a server work: calls, token slots, what was reused, the busiest workflows.

Reads AdminService, which a server on a loopback address serves by default and any other with `pavane serve --admin on`;
a server with API keys serves it to those of role admin.
In a terminal it refreshes until q or Ctrl-C; anywhere else it prints once. With --json it goes on until it is stopped,
unless --once.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal

from rich.console import Console

from pavane.cli.connect import add_connection_arguments, connection, no_server
from pavane.cli.console import PavaneConsole
from pavane.cli.extras import UsageError
from pavane.cli.screen import Screen
from pavane.cli.top_view import Frame, render
from pavane.clients import Admin, FailedPrecondition, PavaneError, RetryPolicy, ServerInfo, Unavailable

BUSY = 200  # workflows with unfinished calls that are looked at
OTHERS = 50  # workflows without, if there is room


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane top`."""
    add_connection_arguments(parser)
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--once", action="store_true", help="print once and leave")
    parser.add_argument("--json", action="store_true", help="a line of JSON each time, with all numbers")


def run(args: argparse.Namespace) -> int:
    """Watches until told to stop. Returns 0, or 143 if a signal ended it."""
    if not 0.1 <= args.interval <= 3600:
        raise UsageError(f"--interval is {args.interval:g}; use 0.1 to 3600 seconds")
    try:
        asyncio.run(_top(args, PavaneConsole()))
    except Unavailable as error:
        raise no_server(args.server, error) from error
    except FailedPrecondition as error:
        raise UsageError(f"{args.server}: {error.text}") from error
    except asyncio.CancelledError:
        return 143  # told to end by a signal other than Ctrl-C
    return 0


async def _top(args: argparse.Namespace, console: Console) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Admin(**connection(args), timeout=5.0, retry=RetryPolicy(give_up_after=0.0)) as admin:
        frame = await look(admin, await admin.server_info(), None)
        if args.json:
            print(as_json(frame), flush=True)
            while not args.once:
                await asyncio.sleep(args.interval)
                frame = await look(admin, frame.info, frame)
                print(as_json(frame), flush=True)
        elif args.once or not console.is_terminal:
            console.print(render(frame, console, None))
        else:
            with Screen(console) as screen:
                following = asyncio.create_task(_follow(admin, frame, screen, args.interval))
                quitting = asyncio.create_task(screen.quit())
                try:
                    await asyncio.wait([following, quitting], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    quitting.cancel()
                    following.cancel()
                if following.done():
                    await following


async def _follow(admin: Admin, frame: Frame, screen: Screen, interval: float) -> None:
    """A server that does not answer is told, and asked again."""
    while True:
        screen.show(lambda console, now=frame: render(now, console, console.height))  # type: ignore[misc]
        await asyncio.sleep(interval)
        try:
            frame = await look(admin, frame.info, frame)
        except PavaneError as error:
            frame = dataclasses.replace(frame, trouble=str(error))


async def look(admin: Admin, info: ServerInfo, before: Frame | None) -> Frame:
    """What the server says now. Workflows with unfinished calls come first, the busiest at the top, then those without,
    the last used at the top."""
    stats = await admin.stats()
    workflows = [w async for w in admin.workflows(unfinished_only=True, limit=BUSY)]
    workflows.sort(key=lambda w: (w.calls.running, w.calls.queued, w.calls.blocked, w.tokens), reverse=True)
    if len(workflows) < OTHERS and stats.workflows > len(workflows):
        others = [w async for w in admin.workflows(limit=OTHERS) if not w.calls.unfinished]
        workflows += sorted(others, key=lambda w: w.idle)
    earlier = before.stats if before is not None and before.stats.uptime < stats.uptime else None
    return Frame(admin.target, info, stats, tuple(workflows), earlier)


def as_json(frame: Frame) -> str:
    """One line: the server, its numbers, its workflows."""
    return json.dumps(
        {
            "server": {"target": frame.target, "model": frame.info.model, "version": frame.info.version},
            "stats": dataclasses.asdict(frame.stats),
            "workflows": [dataclasses.asdict(workflow) for workflow in frame.workflows],
        }
    )
