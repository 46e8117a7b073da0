"""Runs one benchmark, or all that compare, on servers that it starts and stops."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, open_lab, stopped_in_order
from pavane.bench.peers.peer import PACKAGES
from pavane.bench.report import Figure, Report, cores, cpu, emit, say, show, table
from pavane.models.default import default_model_path

COMPARED = ("decode", "prefill", "sharing", "debate", "chat", "overhead")
NO_PEERS = "none"
PEER_SLOTS = 8  # at least


@dataclass(frozen=True)
class Bench:
    """A benchmark's module, as far as it is needed here. `peers`: those it compares with if none is named, or never."""

    name: str
    purpose: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[Lab, argparse.Namespace], Coroutine[Any, Any, Report]]
    peers: Sequence[str] | None
    quick: Mapping[str, object]


def bench(name: str) -> Bench:
    module = import_module(f"pavane.bench.{name}")
    return Bench(name, cast(str, module.__doc__), module.add_arguments, module.measure, module.PEERS, module.QUICK)


def add_arguments(parser: argparse.ArgumentParser, default_peers: Sequence[str] | None) -> None:
    """What all of them have in common."""
    parser.add_argument("--quick", action="store_true", help="small sizes that show that it works; no figures to quote")
    parser.add_argument("--threads", type=positive, default=cores(), help="of every system; default: one per core")
    parser.add_argument("--model", type=Path, help="GGUF file for all systems; default: as pavane serve")
    if default_peers is None:
        return
    parser.add_argument(
        "--peer",
        action="append",
        choices=[*PACKAGES, NO_PEERS],
        help=f"compare with it; may be repeated (default: {', '.join(default_peers) or NO_PEERS})",
    )


def run(names: Sequence[str], args: argparse.Namespace, default_peers: Sequence[str] | None) -> int:
    """Measures, prints one table, writes JSON. Returns 1 if a count was wrong; a bar that is missed is a result."""
    benches = [bench(name) for name in names]
    named = getattr(args, "peer", None) or default_peers or ()
    peers = [peer for peer in dict.fromkeys(named) if peer != NO_PEERS]
    began = time.monotonic()
    with stopped_in_order():
        about, reports = asyncio.run(_measure(benches, args, peers))
    figures = [figure for report in reports for figure in report.figures]
    lines = "\n".join(["", *about, "", table(figures), "", _summary(figures, time.monotonic() - began)])
    show(lines, args.json)
    if len(reports) == 1:
        emit({**reports[0].as_json(), "about": about}, args.json)
    else:
        emit({"benches": [report.as_json() for report in reports], "about": about}, args.json)
    defects = [report.defect for report in reports if report.defect]
    for defect in defects:
        say(defect)
    return 1 if defects else 0


async def _measure(
    benches: Sequence[Bench], args: argparse.Namespace, peers: Sequence[str]
) -> tuple[list[str], list[Report]]:
    model = args.model or default_model_path()
    arguments = [_arguments(each, args) for each in benches]
    slots = max(map(_sequences, arguments))
    async with open_lab(model=model, threads=args.threads, peers=peers, slots=slots, serve=args.serve) as lab:
        reports = [await each.measure(lab, own) for each, own in zip(benches, arguments, strict=True)]
        return _about(lab, model, args), reports


def _arguments(each: Bench, args: argparse.Namespace) -> argparse.Namespace:
    """The bench's own arguments: as given, else its defaults; the small sizes with --quick."""
    parser = argparse.ArgumentParser()
    each.add_arguments(parser)
    own = vars(parser.parse_args([]))
    given = {name: value for name, value in vars(args).items() if name in own}
    return argparse.Namespace(**{**own, **given, **(each.quick if args.quick else {})})


def _summary(figures: Sequence[Figure], seconds: float) -> str:
    met = [figure.met for figure in figures if figure.met is not None]
    return f"{sum(met)} of {len(met)} bars met; measured in {seconds:.0f} s"


def _sequences(args: argparse.Namespace) -> int:
    """How many a peer must have room for at once."""
    streams = getattr(args, "streams", 0)
    return max(PEER_SLOTS, getattr(args, "agents", 0), *(streams if isinstance(streams, list) else [streams]))


def _about(lab: Lab, model: Path, args: argparse.Namespace) -> list[str]:
    lines = [f"{cores()} cores ({cpu()}), {lab.threads} thread{'s'[: lab.threads > 1]} each, model {model.name}"]
    lines.append(f"pavane: {' '.join(args.serve) or 'default flags'}, over gRPC")
    lines += [f"{peer.name}: {peer.about}" for peer in lab.peers]
    if args.quick:
        lines.append("--quick: sizes too small for the figures to mean anything")
    return lines
