"""Many rows over moved segments: rotated queries, a part each and a merge, against keys rotated once into scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Launch, Pool, results
from pavane.bench.gpu.spike.merging import by_row, rotations
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import seconds

ROWS = (16, 64, 128, 256, 512, 1024, 2048)
FROM = Row("16 segments of 1k: rows from which rotated keys are faster")
LARGE = Row("the same with 2k rows: rotated queries / rotated keys")
ROUGH = Row("the same with 2k rows: rotated keys / keys that need no rotation")


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    segments, length, counts = (4, 16, (4, 16)) if subject.card.small else (16, 1024, ROWS)
    pool = Pool.of(subject, segments * length)
    table = {rows: _each(pool, rows, segments, length) for rows in counts}
    notes.data["seconds by rows"] = table
    won = [rows for rows, by in table.items() if by["keys"] < by["queries"]]
    last = table[counts[-1]]
    yield Measured(FROM.what, min(won, default=float("inf")), ours=f"of {', '.join(map(str, counts))}")
    yield Measured(LARGE.what, last["queries"] / last["keys"], _us(last["queries"]), _us(last["keys"]))
    yield Measured(ROUGH.what, last["keys"] / last["still"], _us(last["keys"]), _us(last["still"]))


def _each(pool: Pool, rows: int, segments: int, length: int) -> dict[str, float]:
    """Seconds of a layer without the rows' own keys: by queries (fa2 and fa3, the better), by keys, and where nothing
    is to be rotated."""
    backends = [pool.launch(name) for name in ("fa2", "fa3")]
    queries = min(seconds(pool.device, _by_queries(pool, launch, rows, segments, length)) for launch in backends)
    keys = seconds(pool.device, _by_keys(pool, rows, segments * length, rotate=True))
    still = seconds(pool.device, _by_keys(pool, rows, segments * length, rotate=False))
    return {"queries": queries, "keys": keys, "still": still}


def _by_queries(pool: Pool, launch: Launch, rows: int, segments: int, length: int) -> Callable[[], None]:
    ops, device, table = pool.subject.ops(), pool.device, rotations(pool.subject)
    launch.plan([rows] * segments, [length] * segments)
    q, pairs = pool.queries(rows), pool.queries(rows * segments)
    out, lse = results(pairs)
    merged = torch.empty_like(q)
    of_row = torch.arange(rows, dtype=torch.int32, device=device)
    pair_rows, angles = of_row.repeat(segments), (of_row + 1).repeat(segments)
    indptr = torch.arange(0, rows * segments + 1, segments, dtype=torch.int32, device=device)
    order = by_row(rows, segments, device)

    def layer() -> None:
        ops.rotate_queries(q, pair_rows, angles, table, pairs)
        launch.run(pairs, out, lse)
        ops.merge(out, lse, indptr, order, merged)

    return layer


def _by_keys(pool: Pool, rows: int, keys: int, *, rotate: bool) -> Callable[[], None]:
    ops, device, table = pool.subject.ops(), pool.device, rotations(pool.subject)
    launch = pool.launch("fa3", ragged=True)
    launch.plan([rows], [keys])
    q, turned = pool.queries(rows), pool.queries(rows)
    out, lse = results(q)
    of_row = torch.arange(rows, dtype=torch.int32, device=device)
    slots = torch.arange(keys, dtype=torch.int32, device=device)
    scratch = torch.empty_like(pool.k[:keys]), torch.empty_like(pool.v[:keys])

    def layer() -> None:
        if rotate:
            ops.gather_rotated(pool.k, pool.v, slots, slots, table, *scratch)
        ops.rotate_queries(q, of_row, of_row, table, turned)
        launch.run(turned, out, lse, scratch)

    scratch[0].copy_(pool.k[:keys])
    scratch[1].copy_(pool.v[:keys])
    return layer


def _us(value: float) -> str:
    return f"{value * 1e6:.0f} us"


SECTION = Section("crossover", (FROM, LARGE, ROUGH), 20, measure)
