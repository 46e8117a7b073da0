"""What one more merge of a row costs, in keys: from there on a shared segment pays (MERGE_COST of the scheduler)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Pool, results
from pavane.bench.gpu.subject import Subject
from pavane.kernels.gpu.ops import Ops

ROWS = (16, 64)
COST = {rows: Row(f"one more merge of each of {rows} rows: keys that are read in that time, by row") for rows in ROWS}


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    bandwidth, _ = subject.card.rates()
    ops, counts = subject.ops(), (1, 2, 4, 8, 16)
    length, layers = (64, 2) if subject.card.small else (2048, 32)
    pool = Pool.of(subject, length, layers)
    for rows in ROWS:
        taken = {parts: _layer(pool, ops, rows, length, parts) for parts in counts}
        notes.data[f"{rows} rows, seconds by parts"] = taken
        # The first further part brings the merge's launch with it; those after it are what a plan decides on.
        each = (taken[16] - taken[2]) / 14 / rows
        keys = each * bandwidth / pool.key_bytes()
        yield Measured(COST[rows].what, keys, f"{each * 1e9:.1f} ns a merge", f"the first {_us(taken[2] - taken[1])}")


def _layer(pool: Pool, ops: Ops, rows: int, length: int, parts: int) -> float:
    """Seconds to rotate queries, attend and merge, where `rows` rows read the same `length` keys in `parts` segments:
    as many keys for every number of parts."""
    config, device = pool.subject.sizes.config, pool.device
    keys = [length // parts] * parts
    launch = pool.launch("fa2")
    launch.plan([rows] * parts, keys)
    table = pool.subject.rotations
    q, pairs = pool.queries(rows), pool.queries(rows * parts)
    out, lse = results(pairs)
    merged = torch.empty_like(q)
    of_row = torch.arange(rows, dtype=torch.int32, device=device)
    pair_rows = of_row.repeat(parts)
    indptr = torch.arange(0, rows * parts + 1, parts, dtype=torch.int32, device=device)
    order = by_row(rows, parts, device)
    angles = torch.randint(config.max_position // 2, (rows * parts,), dtype=torch.int32, device=device)

    def layer(k: torch.Tensor, v: torch.Tensor) -> None:
        ops.rotate_queries(q, pair_rows, angles, table, pairs)
        launch.run(pairs, k, v, out, lse)
        if parts > 1:
            ops.merge(out, lse, indptr, order, merged)

    return pool.seconds(layer)


def by_row(rows: int, segments: int, device: torch.device) -> torch.Tensor:
    """Parts that lie segment by segment, row by row; int32 [rows * segments]."""
    parts = torch.arange(rows * segments, dtype=torch.int32, device=device)
    return parts.view(segments, rows).t().flatten().contiguous()


def _us(value: float) -> str:
    return f"{value * 1e6:.1f} us"


SECTION = Section("merging", tuple(COST.values()), 15, measure)
