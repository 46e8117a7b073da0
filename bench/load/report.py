"""What a load has shown: one table, and everything as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pavane.bench.load.account import Held, Memory
from pavane.bench.load.capacity import Capacity
from pavane.bench.load.records import CLASSES, PERCENTILES, Records, percentile
from pavane.bench.report import columns

LATENCIES = {"first_token": "first token", "gap": "next token", "workflow": "workflow"}
LEAST_LAG_BAR_S = 0.01
LAG_SHARE = 0.1  # of the median first token


@dataclass(frozen=True)
class Load:
    """A run: what was asked for, and all that was seen."""

    records: Records
    rate: float | None  # workflows a second that were asked for; None: a trace's own times
    due: int
    left_out: int
    sent_s: float  # in which they were due
    seconds: float  # until the last had ended
    own_cpu_s: float
    interrupted: bool
    before: Held | None
    after: Held | None
    memory: Memory | None
    capacity: Capacity | None
    wrong: Sequence[str]

    @property
    def void(self) -> str:
        """Why the latencies are the generator's own, if they are."""
        records = self.records
        first = percentile(records.merged("first_token"), 50)
        bar = max(LEAST_LAG_BAR_S, LAG_SHARE * first if math.isfinite(first) else 0.0)
        for name, values in (("sent workflows", records.lag), ("woke up", records.stalls)):
            late = percentile(values, 99)
            if late > bar:
                return (
                    f"the generator {name} up to {late * 1000:.0f} ms late (99 of 100), more than {bar * 1000:.0f} ms: "
                    "give it a core of its own, or send less"
                )
        return ""

    @property
    def defects(self) -> list[str]:
        more = self.records.more_defects
        return [*self.wrong, *self.records.defects, *([f"and {more} more like these"] if more else [])]


def table(load: Load) -> str:
    """For people."""
    records = load.records
    kinds = sorted({kind for _, kind in records.latencies})
    tenants = sorted({tenant for tenant, _ in records.latencies})
    head = ("", "", "count", *(f"p{percent:g}" for percent in PERCENTILES))
    rows: list[Sequence[str]] = [head]
    for name, title in LATENCIES.items():
        groups: list[tuple[str, Sequence[float]]] = [("all", records.merged(name))]
        groups += [(kind, records.merged(name, kind=kind)) for kind in kinds]
        groups += [(f"tenant {tenant}", records.merged(name, tenant=tenant)) for tenant in tenants if len(tenants) > 1]
        for label, values in groups:
            rows.append((title, label, str(len(values)), *(_time(percentile(values, p)) for p in PERCENTILES)))
            title = ""
    return "\n".join([columns(rows, (0, 1)), "", *_lines(load)])


def _lines(load: Load) -> list[str]:
    records = load.records
    offered = f"{load.due / load.sent_s:.2f}" if load.sent_s else "0"
    lines = [
        f"workflows: {load.due} due at {offered}/s, {records.ended} ended at {records.ended / load.seconds:.2f}/s"
        f"{f', {records.given_up} given up' if records.given_up else ''}"
        f"{f', {load.left_out} left out: the server has no room for them' if load.left_out else ''}",
        f"calls: {records.done} done, {records.failed.total()} failed, {records.refused.total()} refused"
        f"{f', {records.withdrawn} withdrawn' if records.withdrawn else ''}",
        f"tokens: {records.tokens / load.seconds:.0f} a second arrived; "
        + ", ".join(f"{records.spent[name]} {name.replace('_', ' ')}" for name in CLASSES),
    ]
    for word, counts in (("failed", records.failed), ("refused", records.refused)):
        lines += [f"{word}: {count} {reason}" for reason, count in counts.most_common()]
    if load.capacity is not None:
        lines.append(f"capacity: {load.capacity.workflows:.2f} workflows/s")
    if load.before is not None and load.after is not None:
        leaked = load.after.slots_locked - load.before.slots_locked
        busy = (load.after.step_s - load.before.step_s) / load.seconds
        lines.append(f"server: in steps {busy:.0%} of the time, slots leaked {leaked}")
    else:
        lines.append("server: it does not tell what it holds (--admin, or a key of role admin)")
    if load.memory is not None and load.memory.samples:
        first, last = load.memory.samples[0][1], load.memory.samples[-1][1]
        grown = f", fourth quarter / third {load.memory.growth:.3f}" if load.memory.growth is not None else ""
        lines.append(f"memory: {first:.3f} GB at first, {last:.3f} GB at last{grown}")
    lines.append(
        f"generator: sent late by {_time(percentile(records.lag, 99))}, woke up late by "
        f"{_time(percentile(records.stalls, 99))} (99 of 100), {load.own_cpu_s / load.seconds:.0%} of a core"
    )
    lines += [f"VOID: {load.void}"] if load.void else []
    lines += [f"WRONG: {defect}" for defect in load.defects]
    return lines


def as_json(load: Load) -> dict[str, Any]:
    """Everything, times in seconds."""
    records = load.records
    kinds = {kind for _, kind in records.latencies}
    tenants = {tenant for tenant, _ in records.latencies}
    return {
        "bench": "loadtest",
        "rate": load.rate,
        "due": load.due,
        "left_out": load.left_out,
        "sent_s": load.sent_s,
        "seconds": load.seconds,
        "interrupted": load.interrupted,
        "workflows": {"ended": records.ended, "given_up": records.given_up},
        "calls": {
            "done": records.done,
            "failed": dict(records.failed),
            "refused": dict(records.refused),
            "withdrawn": records.withdrawn,
        },
        "tokens": {"arrived": records.tokens, **{name: records.spent[name] for name in CLASSES}},
        "latencies": {name: _quantiles(records.merged(name)) for name in LATENCIES},
        "by_kind": {k: {name: _quantiles(records.merged(name, kind=k)) for name in LATENCIES} for k in sorted(kinds)},
        "by_tenant": {
            t: {name: _quantiles(records.merged(name, tenant=t)) for name in LATENCIES} for t in sorted(tenants)
        },
        "capacity": None if load.capacity is None else vars(load.capacity),
        "server": {
            "before": None if load.before is None else vars(load.before),
            "after": None if load.after is None else vars(load.after),
            "resident_gb": load.memory.samples if load.memory is not None else [],
            "growth": load.memory.growth if load.memory is not None else None,
        },
        "generator": {
            "lag": _quantiles(records.lag),
            "stalls": _quantiles(records.stalls),
            "cpu_s": load.own_cpu_s,
            "void": load.void,
        },
        "defects": load.defects,
    }


def _quantiles(values: Sequence[float]) -> dict[str, float | int | None]:
    """None, not NaN, where there was nothing: JSON has none."""
    quantiles = {f"p{percent:g}": percentile(values, percent) for percent in PERCENTILES}
    return {"count": len(values), **{name: None if math.isnan(value) else value for name, value in quantiles.items()}}


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
