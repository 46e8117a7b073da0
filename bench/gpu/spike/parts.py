"""What rounding partial results to bfloat16 before the merge adds to the error: FlashInfer has no other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Pool, results
from pavane.bench.gpu.spike.merging import by_row
from pavane.bench.gpu.subject import Subject

COUNTS = (1, 4, 16)
ERROR = {n: Row(f"{n} bfloat16 parts merged: relative error against float64") for n in COUNTS}


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    length, rows = (64, 3) if subject.card.small else (8192, 16)
    pool = Pool.of(subject, length)
    q = pool.queries(rows)
    exact = _dense(q, pool.k[0], pool.v[0])
    for count, row in ERROR.items():
        yield Measured(row.what, _error(pool, q, exact, count))


def _error(pool: Pool, q: torch.Tensor, exact: torch.Tensor, count: int) -> float:
    rows, length = len(q), len(pool.k[0])
    launch = pool.launch("fa2")
    launch.plan([rows] * count, [length // count] * count)
    queries = q.repeat(count, 1, 1)
    out, lse = results(queries)
    launch.run(queries, pool.k[0], pool.v[0], out, lse)
    merged = torch.empty_like(q)
    indptr = torch.arange(0, rows * count + 1, count, dtype=torch.int32, device=pool.device)
    pool.subject.ops().merge(out, lse, indptr, by_row(rows, count, pool.device), merged)
    return float((merged.double() - exact).norm() / exact.norm())


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    keys, values = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("nhd,mhd->nhm", q.double(), keys) / q.shape[2] ** 0.5
    return torch.einsum("nhm,mhd->nhd", scores.softmax(dim=2), values)


SECTION = Section("parts", tuple(ERROR.values()), 5, measure)
