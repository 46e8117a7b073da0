"""From what each call of a step reads to the segments of its Batch, by arrays: no Python loop over what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pavane.kernels.batch import Bool, Int32, Int64
from pavane.scheduler.reads import APART, OWN, OWN_PART, Reads

# What one more segment costs a step, in keys read: measured on a CPU, docs/log.md.
MERGE_COST = 256

Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Own:
    """The ends of the paths, in the order of the items: extents [all, 2], how many of them and how many rows each has,
    which are its last tokens."""

    extents: Int32
    counts: Int32
    rows: Int32

    def slots(self) -> Int32:
        """Of all rows."""
        last = np.cumsum(self.counts) - 1
        ends = self.extents[last, 0] + self.extents[last, 1]
        slots = ranges(ends - self.rows, self.rows)
        for i in np.flatnonzero(self.extents[last, 1] < self.rows).tolist():  # the rows lie in several extents
            starts, lengths = self.extents[last[i] + 1 - self.counts[i] : last[i] + 1].T
            end = int(self.rows[: i + 1].sum())
            slots[end - self.rows[i] : end] = ranges(starts, lengths)[-self.rows[i] :]
        return slots


class Segments(NamedTuple):
    """The fields of these names of a Batch."""

    n_segments: int
    extents: Int32
    extent_indptr: Int32
    row_indptr: Int32
    pair_rows: Int32
    pair_deltas: Int32
    own: Int32


def lay_out(reads: Sequence[Reads], own: Own, *, limit: int, share: bool) -> Segments:
    """Who reads what: `reads` and the rows of `own`, item by item; numbers of encodings are less than `limit`.

    What several items read becomes a segment of its own if it is moved for one of them (which needs one anyway), or if
    reading it once saves more than one more merge costs. What an item reads alone is one segment for each delta, the
    one of delta 0 with its own part at the end.
    """
    entries = np.frombuffer(b"".join([each.entries for each in reads]), dtype=np.int32)
    number, delta, length, count, first = entries.reshape(-1, len(OWN_PART)).T.copy()
    pool = np.frombuffer(b"".join([*[each.extents for each in reads], own.extents.tobytes()]), dtype=np.int32)
    pool = pool.reshape(-1, 2)
    ends = np.flatnonzero(count == OWN_PART[3])  # the entries of own parts
    item = np.zeros(len(number), dtype=np.int64)
    item[ends[:-1] + 1] = 1
    item = np.cumsum(item)
    count[ends] = 0
    begin = np.cumsum(count)
    begin -= count
    begin[ends] = begin[-1] + np.cumsum(own.counts) - own.counts
    count[ends] = own.counts

    key = (item + 1) << 32  # what has the same key side by side is a segment
    key += delta
    if share:
        reading = np.bincount(number * first, minlength=limit)
        reading[: OWN + 1] = 0
        readers = reading[number]
        shared = (delta != 0) | (length * (readers - 1) >= MERGE_COST)
        shared &= readers > 1
        together, alone = np.flatnonzero(shared), np.flatnonzero(~shared)
        numbers = number[together].astype(np.int16 if limit < 1 << 15 else np.int32)  # of 16 bits are sorted by radix
        together = together[np.argsort(numbers, kind="stable")]
        key[together] = -number[together]
        order = np.concatenate([together, alone])
    else:
        together, order = np.zeros(0, dtype=np.int64), np.arange(len(number))
        alone = order
    n_together = len(together)
    opens = _changes(key[order]) | (number[order] == APART)
    segment = np.cumsum(opens) - 1
    n_segments = int(segment[-1]) + 1

    is_piece = opens.copy()  # what is read together has the same keys for all
    is_piece[n_together:] = True
    pieces = order[is_piece]
    extents, extent_indptr = _joined(pool, begin[pieces], count[pieces], segment[is_piece], n_segments)

    is_pair = opens.copy()  # what is read alone has the same rows for all
    is_pair[:n_together] = True
    pairs = order[is_pair]
    readers_of_pairs = item[pairs]
    rows = own.rows[readers_of_pairs]
    pair_ends = np.cumsum(rows)
    row_indptr = np.empty(n_segments + 1, dtype=np.int32)
    row_indptr[:-1] = (pair_ends - rows)[opens[is_pair]]
    row_indptr[-1] = pair_ends[-1]
    first_row = np.cumsum(own.rows) - own.rows
    own_rows = np.zeros(n_segments, dtype=np.int32)
    own_rows[segment[n_together + np.searchsorted(alone, ends)]] = own.rows
    return Segments(
        n_segments=n_segments,
        extents=extents,
        extent_indptr=extent_indptr,
        row_indptr=row_indptr,
        pair_rows=ranges(first_row[readers_of_pairs], rows),
        pair_deltas=np.repeat(delta[pairs], rows),
        own=own_rows,
    )


def ranges(starts: Integers, counts: Integers) -> Int32:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those from starts[1] on, and so forth."""
    ends = np.cumsum(counts, dtype=np.int32)
    shifts = np.asarray(starts - (ends - counts), dtype=np.int32)
    return np.repeat(shifts, counts) + np.arange(ends[-1], dtype=np.int32)


def _joined(pool: Int32, begin: Int64, count: Int32, segment: Int64, n_segments: int) -> tuple[Int32, Int32]:
    """The extents pool[begin[i] : begin[i] + count[i]] of each piece i, made one where those of a segment touch; and
    where those of each segment begin."""
    extents = pool[ranges(begin, count)]
    segments = np.repeat(segment, count)
    opens = _changes(segments)
    opens[1:] |= extents[1:, 0] != extents[:-1, 0] + extents[:-1, 1]
    heads = np.flatnonzero(opens)
    joined = extents[heads]
    joined[:, 1] = np.add.reduceat(extents[:, 1], heads)
    indptr = np.zeros(n_segments + 1, dtype=np.int32)
    np.cumsum(np.bincount(segments[heads], minlength=n_segments), out=indptr[1:])
    return joined, indptr


def _changes(values: Integers) -> Bool:
    """True where a value is not that before it, and at the first."""
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return changes
