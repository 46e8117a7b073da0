"""A segment that few rows read, in pieces: how long they should be."""

from __future__ import annotations

from collections.abc import Iterator

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.launch import Pool, cut, results
from pavane.bench.gpu.subject import Subject

ROWS = (1, 4, 16, 64)
PIECES = (128, 256, 512, 1024, 2048, 8192)
BEST = {rows: Row(f"8k keys read by {rows} rows: keys of the best piece") for rows in ROWS}
SHARE = {rows: Row(f"8k keys read by {rows} rows: share of read bandwidth, 8 segments") for rows in ROWS}


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    bandwidth, _ = subject.card.rates()
    length, segments = (64, 2) if subject.card.small else (8192, 8)
    pool = Pool.of(subject, length * segments)
    pieces = [16, 64] if subject.card.small else PIECES
    for rows in ROWS:
        taken = {piece: _layer(pool, rows, length, segments, piece) for piece in pieces}
        notes.data[f"{rows} rows, seconds by keys of a piece"] = taken
        best = min(taken, key=taken.__getitem__)
        read = length * segments * pool.key_bytes()
        yield Measured(BEST[rows].what, best, f"{taken[best] * 1e6:.0f} us", f"uncut {taken[pieces[-1]] * 1e6:.0f} us")
        yield Measured(SHARE[rows].what, read / taken[best] / bandwidth)


def _layer(pool: Pool, rows: int, length: int, segments: int, piece: int) -> float:
    """Seconds of `segments` segments, each read by `rows` rows, without their merge."""
    keys = cut(length, piece) * segments
    launch = pool.launch("fa2")
    launch.plan([rows] * len(keys), keys)
    q = pool.queries(rows * len(keys))
    out, lse = results(q)
    return pool.seconds(lambda k, v: launch.run(q, k, v, out, lse))


SECTION = Section("segments", (*BEST.values(), *SHARE.values()), 15, measure)
