"""Batches of plain chats, made by hand."""

import numpy as np

from pavane.kernels.batch import NO_TOKEN, Batch
from support.samples import greedy


def chat_batch(calls: list[list[int]], before: list[int], stride: int = 0) -> Batch:
    """Call c owns the slots from `stride` * c on, `before[c]` of them encoded; all its tokens have a sample."""
    counts = [len(call) for call in calls]
    rows = sum(counts)
    positions = np.concatenate([np.arange(b, b + n) for b, n in zip(before, counts, strict=True)])
    starts = np.repeat(np.arange(len(calls)) * stride, counts)
    ends = np.concatenate([[0], np.cumsum(counts)])

    def ints(values: object) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return np.asarray(values, dtype=np.int32)

    return Batch(
        n_rows=rows,
        tokens=ints([token for call in calls for token in call]),
        previous=np.full(rows, NO_TOKEN, dtype=np.int32),
        positions=ints(positions),
        slots=ints(starts + positions),
        n_segments=len(calls),
        extents=ints([(c * stride, before[c] + counts[c]) for c in range(len(calls))]),
        extent_indptr=ints(range(len(calls) + 1)),
        row_indptr=ints(ends),
        pair_rows=ints(range(rows)),
        pair_deltas=np.zeros(rows, dtype=np.int32),
        own=ints(counts),
        samples=greedy(list(range(rows))),
    )
