"""Make a page of what `pavane bench workflow --json` and `pavane eval --json` have measured.

examples:
  pavane report rag.jsonl -o page                       page/index.html, one file without anything from outside
  pavane report rag.jsonl debate.jsonl -o page          several files
  pavane report debate.jsonl --eval scores.jsonl -o page
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pavane.bench.evals.summary import divergence
from pavane.bench.page.page import page
from pavane.bench.workflows.figures import all_figures
from pavane.bench.workflows.journal import Journal, JournalFailed, read
from pavane.cli.extras import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pavane report`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of pavane bench workflow --json")
    parser.add_argument("--eval", type=Path, metavar="FILE", help="of pavane eval --json: divergence by edge")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where index.html goes")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    try:
        journal = Journal.of([record for path in args.files for record in read(path)])
    except JournalFailed as error:
        raise UsageError(str(error)) from error
    if not journal.recordings:
        raise UsageError(f"{args.files[0]} has no runs; it must be a file of pavane bench workflow --json")
    try:
        moved = divergence(Journal.of(read(args.eval))) if args.eval else {}
    except JournalFailed as error:
        raise UsageError(str(error)) from error
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        target = args.output / "index.html"
        target.write_text(page(journal, all_figures(journal), moved), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {args.output}: {error}") from error
    print(target)
    return 0
