"""Which calls of many rows have their keys rotated, instead of their queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pavane.kernels.batch import Batch, Int64
from pavane.kernels.gpu.pieces import Segments

LONG_ROWS = 128  # of a call: from here on its rows alone fill the tiles of FlashInfer's kernel for Hopper

# Bytes that one more pair moves per query head and dimension, in each layer: the rotated query is written and read, the
# partial result written in bfloat16 and read again by the merge. And those of one more key per KV head: K and V are
# read, written to the scratch, and read there instead of in the cache: in 4 + 4 bytes and no more where KV has 16 bits,
# in 2 + 4 and 2 more where it has 8.
PAIR_BYTES, KEY_BYTES = 4 * 2, 4 * 2


class Joined(NamedTuple):
    """A call whose segments become one causal run of keys in the scratch: `others`, each rotated by its delta, before
    the keys of `causal`. Segments by their index."""

    causal: int
    others: list[int]


def join(batch: Batch, segments: Segments, group: int, capacity: int) -> list[Joined]:
    """Calls of LONG_ROWS and more for which rotating all keys moves fewer bytes than rotating a query per segment, as
    far as their keys together are at most `capacity`."""
    pairs, deltas = batch.pair_rows, batch.pair_deltas
    lengths = segments.lengths
    readers: dict[tuple[int, int], list[int]] = {}
    for s in np.flatnonzero((segments.rows >= LONG_ROWS) & (segments.own == 0)).tolist():
        at = slice(int(segments.first_pair[s]), int(segments.first_pair[s] + segments.rows[s]))
        if (deltas[at] == deltas[at.start]).all():
            readers.setdefault((int(pairs[at.start]), int(segments.rows[s])), []).append(s)
    out = []
    for causal in np.flatnonzero((segments.rows >= LONG_ROWS) & (segments.own > 0)).tolist():
        first, rows = int(segments.first_pair[causal]), int(segments.rows[causal])
        mine = pairs[first : first + rows]
        others = [s for s in readers.get((int(mine[0]), rows), []) if (_rows_of(batch, segments, s) == mine).all()]
        keys = int(lengths[causal] + lengths[others].sum())
        if others and len(others) * rows * group * PAIR_BYTES > keys * KEY_BYTES and keys <= capacity:
            out.append(Joined(causal, others))
            capacity -= keys
    return out


def key_angles(batch: Batch, segments: Segments, joined: list[Joined]) -> Int64:
    """By how much each key of the scratch is rotated, in the order of `joined`."""
    first = segments.first_pair
    angle, count = [], []
    for causal, others in joined:
        for s in (*others, causal):
            angle.append(int(batch.pair_deltas[first[s]]) - int(batch.pair_deltas[first[causal]]))
            count.append(int(segments.lengths[s]))
    return np.repeat(np.array(angle, dtype=np.int64), np.array(count, dtype=np.int64))


def _rows_of(batch: Batch, segments: Segments, s: int) -> Int64:
    first = int(segments.first_pair[s])
    rows: Int64 = batch.pair_rows[first : first + int(segments.rows[s])].astype(np.int64)
    return rows
