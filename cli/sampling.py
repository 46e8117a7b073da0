"""Options of the commands that sample answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from pavane.cli.extras import UsageError
from pavane.clients import DecodeOptions
from pavane.clients.sampling import sampling

_NUMBERS = {
    "temperature": "0 is greedy; default: 1",
    "top-p": "keeps the likeliest tokens that have this probability together; default: 1, off",
    "min-p": "keeps tokens at least so likely, relative to the likeliest; default: 0, off",
    "repetition-penalty": "of all tokens in sight; default: 1, off",
    "presence-penalty": "of tokens said already; default: 0, off",
    "frequency-penalty": "... as many times as they were said; default: 0, off",
}


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How answers are sampled, and what they must be."""
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, metavar="X", help=text)
    constraint = parser.add_mutually_exclusive_group()
    constraint.add_argument("--json-schema", type=Path, metavar="FILE", help="answers are JSON that this schema allows")
    constraint.add_argument("--regex", help="answers match this, from beginning to end")
    constraint.add_argument("--grammar", type=Path, metavar="FILE", help="answers follow this Lark grammar")


def sampling_options(args: argparse.Namespace) -> DecodeOptions:
    """What was given of them. Raises UsageError."""
    options = {name: value for name in map(_key, _NUMBERS) if (value := getattr(args, name)) is not None}
    try:
        for name in ("json_schema", "grammar"):
            if (path := getattr(args, name)) is not None:
                options[name] = path.read_text(encoding="utf-8")
        if args.regex is not None:
            options["regex"] = args.regex
        chosen = cast("DecodeOptions", options)
        sampling(chosen)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    return chosen


def _key(name: str) -> str:
    return name.replace("-", "_")
