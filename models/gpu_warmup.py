"""Steps that use every kernel once, and the largest one: run before a server takes calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pavane.kernels.batch import NO_MASK, NO_TOKEN, Batch, Int32, Samples
from pavane.kernels.gpu.scratch import LONG_ROWS


def warm_up_steps(positions: int) -> Iterator[tuple[str, Batch]]:
    """(What it is, step): every kind of launch of `kernels.gpu.plan`, at positions below `positions`."""
    yield "decodes", step([1] * 4, positions, before=70)
    yield "short prefills", step([3, 9, 40], positions, before=70)
    yield "a long prefill", step([2 * LONG_ROWS], positions, before=70)
    yield "a parent of several calls", step([1, 3, 9, 40], positions, before=70, parent=60)
    yield "a parent of a long prefill", step([2 * LONG_ROWS], positions, before=0, parent=60)


def largest_step(rows: int, samples: int, positions: int) -> Batch:
    """One call of `rows` rows, the last `samples` of which are sampled with every filter on, the first with a bias."""
    batch = step([rows], positions, before=0, samples=min(rows, samples))
    bias = np.minimum(np.arange(batch.samples.count + 1), 1).astype(np.int32)
    samples_of = replace(batch.samples, bias_indptr=bias, bias_ids=_ints([0]), bias_values=np.ones(1, dtype=np.float32))
    return replace(batch, samples=samples_of)


def decode_sizes(most: int) -> list[int]:
    """Numbers of plain decodes whose graphs are captured before a server takes calls."""
    return [rows for rows in (1, 2, 4, 8, 16, 32, 64) if rows <= most]


def step(rows: list[int], positions: int, *, before: int, parent: int = 0, samples: int | None = None) -> Batch:
    """Call c has rows[c] rows after `before` keys of its own, all next to each other; all calls read one parent of
    `parent` keys, each at a delta of its own. The last row of each call is sampled, or the last `samples` rows.
    Positions begin again at 0 where a model has no more."""
    total = sum(rows)
    ends = np.cumsum([0, *(before + n for n in rows)]) + parent
    call = np.repeat(np.arange(len(rows)), rows)
    within = np.arange(total) - np.repeat(np.cumsum([0, *rows])[:-1], rows)
    slots = ends[call] + before + within
    row_indptr = np.cumsum([0, *([total] if parent else []), *rows])
    pairs = np.concatenate([np.arange(total)] * (2 if parent else 1))
    deltas = np.concatenate([call + 1, np.zeros(total)]) if parent else np.zeros(total)
    extents = [(0, parent)] * bool(parent) + [(int(ends[c]), before + n) for c, n in enumerate(rows)]
    chosen = np.cumsum(rows) - 1 if samples is None else np.arange(total - samples, total)
    return Batch(
        n_rows=total, tokens=_ints(np.zeros(total)), previous=_ints(np.full(total, NO_TOKEN)),
        positions=_ints((parent + before + within) % positions), slots=_ints(slots), n_segments=len(extents),
        extents=_ints(extents), extent_indptr=_ints(np.arange(len(extents) + 1)), row_indptr=_ints(row_indptr),
        pair_rows=_ints(pairs), pair_deltas=_ints(deltas), own=_ints([0] * bool(parent) + rows),
        samples=_all_filters(_ints(chosen)),
    )  # fmt: skip


def _all_filters(rows: Int32) -> Samples:
    n = len(rows)
    begin, none = np.zeros(n + 1, dtype=np.int32), np.zeros(0, dtype=np.int32)
    return Samples(
        count=n, rows=rows, forced=np.full(n, NO_TOKEN, dtype=np.int32), temperature=np.ones(n, dtype=np.float32),
        top_p=np.full(n, 0.9, dtype=np.float32), top_k=np.full(n, 50, dtype=np.int32),
        min_p=np.full(n, 0.01, dtype=np.float32), seeds=np.zeros(n, dtype=np.uint64),
        counters=np.arange(n, dtype=np.int64), repetition=np.ones(n, dtype=np.float32), seen_indptr=begin,
        seen_ids=none, bias_indptr=begin, bias_ids=none, bias_values=np.zeros(0, dtype=np.float32),
        mask_rows=np.full(n, NO_MASK, dtype=np.int32), masks=np.zeros((0, 0), dtype=np.uint32), masks_ready=None,
        top_logprobs=np.zeros(n, dtype=np.int32),
    )  # fmt: skip


def _ints(values: object) -> Int32:
    out: Int32 = np.asarray(values, dtype=np.int32)
    return out
