"""From what each call of a step reads to the segments of its Batch, by arrays: no Python loop over what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pavane.kernels.batch import Bool, Int32, Int64
from pavane.scheduler.reads import APART, OWN, Reads

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
    sizes = np.array([len(each.entries) for each in reads], dtype=np.int64)
    number, delta, length, count, first = np.concatenate([each.entries for each in reads]).T
    item = np.repeat(np.arange(len(reads)), sizes)
    ends = np.cumsum(sizes) - 1  # the entries of own parts
    count = count.copy()
    count[ends] = 0
    begin = np.cumsum(count) - count
    begin[ends] = begin[-1] + np.cumsum(own.counts) - own.counts
    count[ends] = own.counts
    pool = np.concatenate([*(each.extents for each in reads), own.extents])

    if share:
        readers = np.bincount(number[first == 1], minlength=limit)[number]
        shared = (readers > 1) & ((delta != 0) | (length * (readers - 1) >= MERGE_COST)) & (number > OWN)
        together = np.flatnonzero(shared)
        together = together[np.argsort(number[together], kind="stable")]
        alone = np.flatnonzero(~shared)
    else:
        together, alone = np.zeros(0, dtype=np.int64), np.arange(len(number))
    opens_together = _changes(number[together])
    opens_alone = _changes(item[alone]) | _changes(delta[alone]) | (number[alone] == APART)

    pieces = np.concatenate([together[opens_together], alone])  # whose keys make up the segments
    piece_segment = np.cumsum(np.concatenate([opens_together[opens_together], opens_alone])) - 1
    n_segments = int(piece_segment[-1]) + 1
    extents, extent_indptr = _joined(pool, begin[pieces], count[pieces], piece_segment, n_segments)

    pairs = np.concatenate([together, alone[opens_alone]])  # by which they are read
    opens = np.concatenate([opens_together, opens_alone[opens_alone]])
    rows = own.rows[item[pairs]]
    pair_ends = np.cumsum(rows)
    first_row = np.cumsum(own.rows) - own.rows
    own_rows = np.zeros(n_segments, dtype=np.int32)
    own_rows[piece_segment[np.searchsorted(alone, ends) + len(pieces) - len(alone)]] = own.rows
    return Segments(
        n_segments=n_segments,
        extents=extents,
        extent_indptr=extent_indptr,
        row_indptr=np.append((pair_ends - rows)[opens], pair_ends[-1]).astype(np.int32),
        pair_rows=ranges(first_row[item[pairs]], rows),
        pair_deltas=np.repeat(delta[pairs], rows),
        own=own_rows,
    )


def ranges(starts: Integers, counts: Integers) -> Int32:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those from starts[1] on, and so forth."""
    ends = np.cumsum(counts)
    return (np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])).astype(np.int32)


def _joined(pool: Int32, begin: Int64, count: Int32, segment: Int64, n_segments: int) -> tuple[Int32, Int32]:
    """The extents pool[begin[i] : begin[i] + count[i]] of each piece i, made one where those of a segment touch; and
    where those of each segment begin."""
    extents = pool[ranges(begin, count)]
    segments = np.repeat(segment, count)
    opens = _changes(segments)
    opens[1:] |= extents[1:, 0] != extents[:-1, 0] + extents[:-1, 1]
    heads = np.flatnonzero(opens)
    joined = np.stack([extents[heads, 0], np.add.reduceat(extents[:, 1], heads)], axis=1)
    return joined, np.searchsorted(segments[heads], np.arange(n_segments + 1)).astype(np.int32)


def _changes(values: Integers) -> Bool:
    """True where a value is not that before it, and at the first."""
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return changes
