"""Benchmarks: figures with the command that makes them.

  pavane bench all                                        all of the first group, and one table
  pavane bench decode                                     tokens a second of 1, 4, 8 streams; transformers, llama.cpp
  pavane bench prefill                                    time to first token of long prompts; the same two
  pavane bench sharing                                    what it costs that parents are shared and moved
  pavane bench debate --peer llama.cpp                    reuse against a prefix cache, here and in llama.cpp
  pavane bench workflow rag-team --json out.jsonl         any workflow: exact, reuse, peers; goes on where it stopped
  pavane bench chat                                       a cold chat with reuse and without
  pavane bench overhead                                   what is not the forward pass, 8 streams

  pavane bench stream                                     tokens delivered, against a bare gRPC server
  pavane bench secure                                     tokens delivered with TLS and API keys, against without
  pavane bench bigprompt                                  pauses of streams beside prompts of 1 MB
  pavane bench memory                                     resident size, at start and after 1,000 calls
  pavane bench pressure                                   what a pool of a third of the need does to answers
  pavane bench sched                                      the scheduler without a model: its cost, and its policies

Each starts the servers it needs on free ports and stops them. Ratios within one run are what to look at. A bar that is
missed is printed as such and is no failure. The peers come with pip install 'pavane[server,cli,bench]'; --peer none
measures without them.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from types import ModuleType

from pavane.bench import runner
from pavane.bench.arguments import add_serve, positive
from pavane.bench.peers.http import PeerFailed
from pavane.bench.peers.peer import PACKAGES
from pavane.bench.server_process import ServerFailed
from pavane.bench.stats import NoMeasurement
from pavane.bench.workflows.cases import BadCase
from pavane.bench.workflows.journal import JournalFailed
from pavane.cli.extras import UsageError

ALL = "all"
# they start servers of their own, if any
ALONE = ("workflow", "stream", "secure", "bigprompt", "memory", "pressure", "sched")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    everything = commands.add_parser(ALL, help=f"{', '.join(runner.COMPARED)}, and one table")
    runner.add_arguments(everything, tuple(PACKAGES))
    everything.add_argument(
        "--repeat", type=positive, default=argparse.SUPPRESS, help="of each (default: each its own number)"
    )
    subs = [everything]
    for name in runner.COMPARED:
        bench = runner.bench(name)
        sub = commands.add_parser(name, help=bench.purpose, description=bench.purpose)
        bench.add_arguments(sub)
        runner.add_arguments(sub, bench.peers)
        subs.append(sub)
    for name in ALONE:
        module = import_module(f"pavane.bench.{name}")
        sub = commands.add_parser(name, help=_first_line(module), description=module.__doc__)
        module.add_arguments(sub)
        subs.append(sub)
    for sub in subs:
        sub.add_argument("--json", metavar="PATH", help="write the result as JSON; - for stdout")
        add_serve(sub)


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except BadCase as error:
        raise UsageError(f"{args.bench}: {error}") from error
    except (ServerFailed, PeerFailed, NoMeasurement, JournalFailed) as error:
        print(f"pavane bench {args.bench}: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.bench in ALONE:
        return int(import_module(f"pavane.bench.{args.bench}").run(args))
    if args.bench == ALL:
        return runner.run(runner.COMPARED, args, tuple(PACKAGES))
    return runner.run([args.bench], args, runner.bench(args.bench).peers)
