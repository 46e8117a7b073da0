"""What a command found, as JSON: to a file, or to standard output for other programs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from pavane.cli.extras import UsageError

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser) -> None:
    """The flag --json."""
    parser.add_argument("--json", metavar="PATH", help="write everything as JSON; - is standard output")


def check_json(destination: str | None) -> None:
    """Before anything is computed for it. UsageError if nothing can be written there."""
    if destination in (None, STDOUT):
        return
    path = Path(destination)
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder; name a file in it")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"--json {path} cannot be written; name a file in a folder that you may write to")


def write_json(value: object, destination: str | None) -> None:
    """Nothing for None. UsageError if the file cannot be written after all."""
    if destination is None:
        return
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if destination == STDOUT:
        print(text)
        return
    try:
        Path(destination).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {destination} cannot be written: {error.strerror}") from error
