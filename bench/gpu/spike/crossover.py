"""Many rows over moved segments: rotated queries, a part each and a merge, against keys rotated once into scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Launch, Pool, results
from pavane.bench.gpu.spike.merging import by_row
from pavane.bench.gpu.subject import Subject

Layer = Callable[[torch.Tensor, torch.Tensor], None]
ROWS = (16, 64, 128, 256, 512, 1024, 2048)
EACH = {rows: Row(f"16 moved segments of 1k, {rows} rows: rotated queries / rotated keys") for rows in ROWS}
STILL = Row("the same, 2048 rows: rotated keys / keys that need no rotation")


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    segments, length, shrink = (4, 16, 64) if subject.card.small else (16, 1024, 1)
    pool = Pool.of(subject, segments * length, 4)
    for rows, row in EACH.items():
        by = _each(pool, max(1, rows // shrink), segments, length)
        notes.data[f"{rows} rows, seconds"] = by
        yield Measured(row.what, by["queries"] / by["keys"], _us(by["queries"]), _us(by["keys"]))
    yield Measured(STILL.what, by["keys"] / by["still"], _us(by["keys"]), _us(by["still"]))


def _each(pool: Pool, rows: int, segments: int, length: int) -> dict[str, float]:
    """Seconds of a layer without the rows' own keys: by queries (fa2 and fa3, the better), by keys, and where nothing
    is to be rotated."""
    backends = [pool.launch(name) for name in ("fa2", "fa3")]
    queries = min(pool.seconds(_by_queries(pool, launch, rows, segments, length)) for launch in backends)
    keys = pool.seconds(_by_keys(pool, rows, segments * length, rotate=True))
    still = pool.seconds(_by_keys(pool, rows, segments * length, rotate=False))
    return {"queries": queries, "keys": keys, "still": still}


def _by_queries(pool: Pool, launch: Launch, rows: int, segments: int, length: int) -> Layer:
    ops, device, table = pool.subject.ops(), pool.device, pool.subject.rotations
    launch.plan([rows] * segments, [length] * segments)
    q, pairs = pool.queries(rows), pool.queries(rows * segments)
    out, lse = results(pairs)
    merged = torch.empty_like(q)
    of_row = torch.arange(rows, dtype=torch.int32, device=device)
    pair_rows, angles = of_row.repeat(segments), (of_row + 1).repeat(segments)
    indptr = torch.arange(0, rows * segments + 1, segments, dtype=torch.int32, device=device)
    order = by_row(rows, segments, device)

    def layer(k: torch.Tensor, v: torch.Tensor) -> None:
        ops.rotate_queries(q, pair_rows, angles, table, pairs)
        launch.run(pairs, k, v, out, lse)
        ops.merge(out, lse, indptr, order, merged)

    return layer


def _by_keys(pool: Pool, rows: int, keys: int, *, rotate: bool) -> Layer:
    ops, device, table = pool.subject.ops(), pool.device, pool.subject.rotations
    launch = pool.launch("fa3", ragged=True)
    launch.plan([rows], [keys])
    q, turned = pool.queries(rows), pool.queries(rows)
    out, lse = results(q)
    of_row = torch.arange(rows, dtype=torch.int32, device=device)
    slots = torch.arange(keys, dtype=torch.int32, device=device)
    scratch = torch.empty_like(pool.k[0]), torch.empty_like(pool.v[0])

    def layer(k: torch.Tensor, v: torch.Tensor) -> None:
        if rotate:
            ops.gather_rotated(k, v, slots, slots, table, *scratch)
        ops.rotate_queries(q, of_row, of_row, table, turned)
        launch.run(turned, *(scratch if rotate else (k, v)), out, lse)

    return layer


def _us(value: float) -> str:
    return f"{value * 1e6:.0f} us"


SECTION = Section("crossover", (*EACH.values(), STILL), 20, measure)
