"""Benchmarks: figures with the command that makes them.

  pavane bench debate --agents 4 --rounds 2 --tokens 96   reuse against a prefix cache, on the same engine
  pavane bench overhead                                   what is not the forward pass, 8 streams
  pavane bench stream                                     tokens delivered, against a bare gRPC server
  pavane bench memory                                     resident size, at start and after 1,000 calls

Each starts the servers it needs on free ports and stops them. Ratios within one run are what to look at.
"""

from __future__ import annotations

import argparse
from importlib import import_module

NAMES = ("debate", "overhead", "stream", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name in NAMES:
        module = import_module(f"pavane.bench.{name}")
        sub = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(sub)
        sub.add_argument("--json", metavar="PATH", help="write the result as JSON; - for stdout")
        sub.add_argument(
            "--serve", nargs="*", default=[], metavar="FLAG", help="flags for the server, after all others"
        )


def run(args: argparse.Namespace) -> int:
    return int(import_module(f"pavane.bench.{args.bench}").run(args))
