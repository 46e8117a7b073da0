"""Traces of agent workflows for simulations: who sends which graph of calls when, in token counts, one JSON line each.

    {"at": seconds, "tenant": ..., "workflow": ..., "kind": ..., "calls": [...], "groups": [...]}

A call is {"id", "parents", "prefill": tokens} or {"id", "parents", "header": tokens, "decode": tokens the answer will
have, "max_tokens": what the server is told}; a group is {"id", "members", "need"} and stands for the first `need` of
its members. `python -m pavane.bench.trace > trace.jsonl` writes one; the same arguments give the same lines.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavane.bench.arguments import positive
from pavane.bench.trace_mix import KINDS, Graph, GroupRow


class TraceError(ValueError):
    """A trace cannot be read or made; the text names the line and the field, or the argument."""


@dataclass(frozen=True, slots=True)
class TraceCall:
    """A Prefill of `prefill` tokens, or, if that is 0, a Decode."""

    id: str
    parents: tuple[str, ...]
    prefill: int = 0
    header: int = 0
    decode: int = 0  # at most max_tokens
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TraceWorkflow:
    at: float  # seconds
    tenant: str
    id: str
    kind: str
    calls: tuple[TraceCall, ...]
    groups: tuple[GroupRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Flood:
    """`tenant` sends `factor` times as much as each of the others."""

    tenant: str
    factor: float


def make_trace(
    seed: int = 1, workflows: int = 2000, rate: float = 4.0, tenants: int = 4, flood: Flood | None = None
) -> list[TraceWorkflow]:
    """Poisson arrivals, `rate` per second over all tenants t0, t1, ...; the kinds are in trace_mix.py."""
    names = [f"t{i}" for i in range(tenants)]
    if flood is not None and flood.tenant not in names:
        raise TraceError(f"flood is of tenant {flood.tenant!r}; the tenants are {names[0]} to {names[-1]}")
    weights = [flood.factor if flood is not None and name == flood.tenant else 1.0 for name in names]
    rng = random.Random(seed)
    at = 0.0
    trace = []
    for n in range(workflows):
        at += rng.expovariate(rate)
        (kind,) = rng.choices(list(KINDS), [share for share, _ in KINDS.values()])
        graph = Graph(rng)
        KINDS[kind][1](graph)
        (tenant,) = rng.choices(names, weights)
        calls = tuple(TraceCall(**{**row, "parents": tuple(row["parents"])}) for row in graph.calls)
        trace.append(TraceWorkflow(round(at, 4), tenant, f"w{n}", kind, calls, tuple(graph.groups)))
    return trace


def trace_lines(trace: Iterable[TraceWorkflow]) -> Iterator[str]:
    """As `read_trace` reads them, without line ends."""
    for each in trace:
        row = {
            "at": each.at,
            "tenant": each.tenant,
            "workflow": each.id,
            "kind": each.kind,
            "calls": [_call_row(call) for call in each.calls],
            "groups": [{"id": g.id, "members": list(g.members), "need": g.need} for g in each.groups],
        }
        yield json.dumps(row, separators=(",", ":"))


def read_trace(path: Path) -> list[TraceWorkflow]:
    """Raises TraceError, which names the line; OSError where there is no such file."""
    trace: list[TraceWorkflow] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            trace.append(_workflow(json.loads(line)))
        except json.JSONDecodeError as error:
            raise TraceError(f"{path}, line {number}: {error}; each line is one JSON object") from None
        except KeyError as error:
            raise TraceError(f"{path}, line {number}: the field {error} is missing") from None
        except (TypeError, TraceError) as error:
            raise TraceError(f"{path}, line {number}: {error}") from None
        if len(trace) > 1 and trace[-1].at < trace[-2].at:
            raise TraceError(f"{path}, line {number}: at is {trace[-1].at}, before {trace[-2].at}; sort by at")
    if not trace:
        raise TraceError(f"{path} has no line; python -m pavane.bench.trace makes a trace")
    return trace


def _call_row(call: TraceCall) -> dict[str, Any]:
    row: dict[str, Any] = {"id": call.id, "parents": list(call.parents)}
    if call.prefill:
        return row | {"prefill": call.prefill}
    return row | {"header": call.header, "decode": call.decode, "max_tokens": call.max_tokens}


def _workflow(row: dict[str, Any]) -> TraceWorkflow:
    calls = tuple(map(_call, row["calls"]))
    groups = tuple(GroupRow(g["id"], tuple(g["members"]), g["need"]) for g in row.get("groups", ()))
    known: set[str] = set()
    for call in calls:
        unknown = set(call.parents) - known - {group.id for group in groups}
        if unknown:
            raise TraceError(f"call {call.id!r} has the parent {min(unknown)!r}, which no call before it is")
        known.add(call.id)
    for group in groups:
        if not 0 < group.need <= len(group.members) or set(group.members) - known:
            raise TraceError(f"group {group.id!r} needs {group.need} of {', '.join(group.members)}; name calls, enough")
    return TraceWorkflow(float(row["at"]), row["tenant"], row["workflow"], row["kind"], calls, groups)


def _call(row: dict[str, Any]) -> TraceCall:
    call = TraceCall(**{**row, "parents": tuple(row["parents"])})
    for name in ("prefill", "header", "decode", "max_tokens"):
        if not isinstance(getattr(call, name), int) or getattr(call, name) < 0:
            raise TraceError(f"call {call.id!r}: {name} is {getattr(call, name)!r}; use a number of tokens")
    if not call.prefill and not (call.header and 1 <= call.decode <= call.max_tokens):
        raise TraceError(
            f"call {call.id!r} has header {call.header}, decode {call.decode} of max_tokens {call.max_tokens}; give "
            "prefill, or a header and at least 1 and at most max_tokens tokens to decode"
        )
    return call


def _flood(text: str) -> Flood:
    tenant, colon, factor = text.partition(":")
    try:
        if not colon or float(factor) <= 0:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TENANT:FACTOR, as in t0:10") from None
    return Flood(tenant, float(factor))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workflows", type=positive, default=2000)
    parser.add_argument("--rate", type=float, default=4.0, help="workflows a second, over all tenants")
    parser.add_argument("--tenants", type=positive, default=4)
    parser.add_argument("--flood", type=_flood, help="TENANT:FACTOR: that tenant sends FACTOR times its even share")
    args = parser.parse_args()
    if args.rate <= 0:
        parser.error(f"--rate is {args.rate}; use more than 0")
    try:
        trace = make_trace(args.seed, args.workflows, args.rate, args.tenants, args.flood)
    except TraceError as error:
        parser.error(str(error))
    for line in trace_lines(trace):
        sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
