"""Argument types that benchmarks share."""

from __future__ import annotations

import argparse
import shlex


def positive(text: str) -> int:
    """A whole number of at least 1. Raises what argparse prints."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; use 1 or more")
    return value


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The flag --serve; `args.serve` is a list of words."""
    parser.add_argument(
        "--serve",
        type=_words,
        default=[],
        metavar="FLAGS",
        help='flags for the server, after all others, in quotes: --serve="--num-slots 4096 --dtype float32"',
    )


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; quote it like a line of a shell") from None
