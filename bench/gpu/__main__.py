"""One GPU, measured: steps, prefill, attention and whole workflows at the shape of Llama 3.1 8B, random weights.

  python -m pavane.bench.gpu --json gpu.json            one table and one file, in under 8 minutes on an H200
  python -m pavane.bench.gpu --only card,decode         some sections (most need the card's rates)
  python -m pavane.bench.gpu spike --json spike.json    what the plan's constants rest on, in under 5 minutes
  python -m pavane.bench.gpu --device cpu --small       that it works, anywhere; no figures to quote

No server and no gRPC: scheduler, cache and runner in one thread. A section that does not fit the time left, or whose
needs are not there, is shown as not run; one that fails takes no other with it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pavane.bench.arguments import positive
from pavane.bench.gpu.attention import SECTION as ATTENTION
from pavane.bench.gpu.card import SECTION as CARD
from pavane.bench.gpu.card import Card, require_gpu
from pavane.bench.gpu.carrying import SECTION as CARRYING
from pavane.bench.gpu.correctness import SECTION as CORRECTNESS
from pavane.bench.gpu.decode import SECTION as DECODE
from pavane.bench.gpu.decode import SHARING
from pavane.bench.gpu.float8 import SECTION as FLOAT8
from pavane.bench.gpu.host import SECTION as HOST
from pavane.bench.gpu.invariant import SECTION as INVARIANT
from pavane.bench.gpu.models import open_model
from pavane.bench.gpu.prefill import SECTION as PREFILL
from pavane.bench.gpu.rows import table
from pavane.bench.gpu.section import NotHere, Outcome, Section, run_sections
from pavane.bench.gpu.sizes import FULL, SMALL, Sizes
from pavane.bench.gpu.spike import SECTIONS as SPIKE
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import synchronise
from pavane.bench.gpu.workflows import long, section, short
from pavane.bench.report import emit, say, show

SECONDS = {"bench": 8 * 60, "spike": 5 * 60}


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 if a section failed; 2 if what was asked for cannot be."""
    args = _arguments(argv)
    began = time.monotonic()
    try:
        device = require_gpu(args.device)
        if device.type == "cpu" and not args.small:
            raise NotHere("the sizes are those of a GPU; --device cpu needs --small")
        sizes = SMALL if args.small else FULL
        sections = [CARD, *(SPIKE if args.command == "spike" else _bench(sizes))]
        only = _chosen(args.only, [each.name for each in sections])
    except NotHere as error:
        say(f"pavane.bench.gpu: {error}")
        return 2
    name = "gpu" if args.command == "bench" else "gpu spike"
    subject = Subject(Card(device, args.small), sizes, partial(open_model, eager=args.eager))

    def keep(so_far: Outcome) -> None:
        if args.json != "-":
            emit(_json(so_far, name, args), args.json)

    deadline = began + (args.seconds or SECONDS[args.command])
    outcome = run_sections(
        sections, subject, only=only, deadline=deadline, say=say, keep=keep, check=partial(synchronise, device)
    )
    emit(_json(outcome, name, args), args.json)
    for where, trace in outcome.errors.items():
        say(f"\n{where}:\n{trace}")
    head = [*(["--small: sizes too small for the figures to mean anything"] if args.small else [])]
    took = f"{time.monotonic() - began:.0f} s"
    show("\n".join(["", *head, table(outcome.lines), "", f"measured in {took}"]), args.json)
    return 1 if outcome.errors else 0


def _bench(sizes: Sizes) -> tuple[Section[Subject], ...]:
    """What matters most first: time may be short."""
    workflows, debates = section("workflows", short(sizes), each=10), section("debates", long(sizes), each=30)
    return CORRECTNESS, DECODE, SHARING, workflows, PREFILL, ATTENTION, HOST, FLOAT8, INVARIANT, CARRYING, debates


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pavane.bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=list(SECONDS), default="bench")
    parser.add_argument("--device", default="cuda", help="a torch device (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="small sizes that show that it works; no figures to quote")
    parser.add_argument("--eager", action="store_true", help="without captured graphs, should these fail")
    parser.add_argument("--only", metavar="SECTION,...", help="these sections alone")
    parser.add_argument("--seconds", type=positive, help="no section begins that would take longer than what is left")
    parser.add_argument("--json", metavar="FILE", help="also as JSON, after every section; - is stdout")
    return parser.parse_args(argv)


def _chosen(text: str | None, names: list[str]) -> list[str]:
    """Raises NotHere."""
    if text is None:
        return names
    chosen = [name.strip() for name in text.split(",")]
    if unknown := [name for name in chosen if name not in names]:
        raise NotHere(f"--only: there is no section {unknown[0]!r}; the sections are {', '.join(names)}")
    return [names[0], *chosen]  # the card's rates are what others are held against


def _json(outcome: Outcome, name: str, args: argparse.Namespace) -> dict[str, Any]:
    return {**outcome.as_json(name), "small": args.small}


if __name__ == "__main__":
    sys.exit(main())
