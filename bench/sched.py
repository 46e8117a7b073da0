"""The scheduler and the cache without a model: what a step costs, and what order, eviction and shares are worth.

  step      schedule, cache, plan and commit of a step: 256 calls x 8 parents running, 10,000 waiting
  cache     a prompt of 4k tokens matched and inserted, 1,000 spans evicted; growth with what is stored
  order     mean time of a workflow, graph against first come, first served, at 80 % and 95 % load   (simulated)
  eviction  tokens encoded again in a pool of half the need, by graph against least recently used   (simulated)
  fairness  first tokens of the others while one tenant sends ten times its share                   (simulated)
  server    1,000 workflows of 20 calls at once on a server process whose runner computes nothing
  device    64 streams on a server process whose device takes 4 ms a step, beside the host

Simulated parts run traces of agent workflows on the scheduler as it is, with a clock that goes on by what a model of
the cost of a step says; --fit measures that model on this machine, with the default model.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from pavane.bench.arguments import positive
from pavane.bench.report import Figure, cores, cpu, emit, say, show, table
from pavane.bench.scheduling.part import Options
from pavane.bench.simulation.cost import as_json, fitted
from pavane.bench.simulation.simulator import SimulationError
from pavane.bench.trace import TraceError

PARTS = ("step", "cache", "order", "eviction", "fairness", "server", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes that show that it works; no figures to quote")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="for order and eviction, instead of traces made here"
    )
    parser.add_argument("--seeds", type=positive, default=5, help="traces per simulated figure (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="of the traces (default: 0)")
    parser.add_argument("--workflows", type=positive, default=600, help="of each trace (default: 600)")
    parser.add_argument("--grain", type=positive, default=8, help="tokens that are simulated as one (default: 8)")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="measure the cost model, write it there, and stop")
    parser.add_argument("--threads", type=positive, default=1, help="of the model, for --fit (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints one table, writes JSON. Returns 1 if the work itself went wrong; a bar missed is a result."""
    if args.fit is not None:
        return _fit(args.fit, args.threads, 20 if args.quick else 60)
    options = Options(
        args.quick, args.seeds, args.workflows, args.grain, args.trace, tuple(args.serve), args.first_seed
    )
    began = time.monotonic()
    figures: list[Figure] = []
    data: dict[str, Any] = {}
    wrong = []
    for name in args.only:
        try:
            found = import_module(f"pavane.bench.scheduling.{name}").measure(options, say)
        except (SimulationError, TraceError, OSError) as error:
            print(f"pavane bench sched: {name}: {error}", file=sys.stderr)
            return 1
        figures += found.figures
        data[name] = {"figures": [figure_json(figure) for figure in found.figures], **found.data}
        wrong += [f"{name}: {found.defect}"] if found.defect else []
    lines = "\n".join(["", *_about(args), "", table(figures), "", f"measured in {time.monotonic() - began:.0f} s"])
    show(lines, args.json)
    emit({"bench": "sched", "parts": data}, args.json)
    for text in wrong:
        say(text)
    return 1 if wrong else 0


def figure_json(figure: Figure) -> dict[str, Any]:
    return {"what": figure.what, "value": figure.value, "interval": figure.interval, "met": figure.met}


def _about(args: argparse.Namespace) -> list[str]:
    measured = fitted()[1]
    lines = [
        f"{cores()} cores ({cpu()}), one used",
        f"simulated steps as on {measured.cpu} with {measured.threads} thread{'s'[: measured.threads > 1]}, "
        f"{measured.model}: the sum of a run that was not fitted within {abs(measured.total_error):.0%}, its steps "
        f"within {measured.p90_error:.0%} (9 of 10)",
    ]
    return [*lines, "--quick: sizes too small for the figures to mean anything"] if args.quick else lines


def _fit(path: Path, threads: int, steps: int) -> int:
    found = import_module("pavane.bench.simulation.fit").fit_default_model(threads, steps)
    path.write_text(as_json(found.cost, found.measured))
    print("\n".join(["", *found.lines, "", as_json(found.cost, found.measured)]))
    return 0


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    return names
