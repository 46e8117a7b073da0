"""Segments as the pieces that one thread block after the other can read, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pavane.kernels.batch import Batch, Int32, Int64

WHOLE = 1 << 30  # blocks of a device for which no segment is cut
CUT = 512  # keys: pieces of few rows are multiples of it, counted from the segment's first key


class Segments(NamedTuple):
    """The segments of a batch that somebody reads; all [segments]. Keys are counted through all segments."""

    first_pair: Int64
    rows: Int64
    own: Int64
    begin: Int64  # of its keys
    end: Int64

    @property
    def lengths(self) -> Int64:
        return self.end - self.begin


class Spans(NamedTuple):
    """Runs of keys, in the order in which kernels read them; all [spans]."""

    begin: Int64
    end: Int64
    piece: Int64  # ascending


def segments_of(batch: Batch) -> Segments:
    n = batch.n_segments
    rows = np.diff(batch.row_indptr[: n + 1]).astype(np.int64)
    read = np.flatnonzero(rows)
    ends = key_ends(batch)[batch.extent_indptr[: n + 1]]
    return Segments(
        batch.row_indptr[read].astype(np.int64),
        rows[read],
        batch.own[read].astype(np.int64),
        ends[read],
        ends[read + 1],
    )


def one_by_one(segments: Segments) -> Segments:
    """Segments without causal ones: of these, what all of their rows see, and for each row its own keys up to its
    own, which it alone reads."""
    several = segments.own > 1
    if not several.any():
        return segments
    plain, causal = (Segments(*(field[chosen] for field in segments)) for chosen in (~several, several))
    seen = causal.end - causal.own  # the end of what all rows see
    shared = np.flatnonzero(seen > causal.begin)
    call = np.repeat(np.arange(len(seen)), causal.own)
    number = ranges(np.zeros_like(causal.own), causal.own)
    ones = np.ones_like(call)
    return Segments(
        np.concatenate([plain.first_pair, causal.first_pair[shared], causal.first_pair[call] + number]),
        np.concatenate([plain.rows, causal.rows[shared], ones]),
        np.concatenate([plain.own, np.zeros_like(shared), ones]),
        np.concatenate([plain.begin, causal.begin[shared], seen[call]]),
        np.concatenate([plain.end, seen[shared], seen[call] + number + 1]),
    )


def key_ends(batch: Batch) -> Int64:
    """Where each extent's keys end, if all are counted through; [extents + 1], from 0."""
    ends: Int64 = np.concatenate([[0], np.cumsum(batch.extents[:, 1], dtype=np.int64)])
    return ends


def cut(segments: Segments, few: Int64, limit: int) -> tuple[Int64, Spans]:
    """Pieces of at most `limit` keys of the segments `few` (indices), whole ones of the others: the segment of each
    piece, and its keys. The rows' own keys stay together in the last piece, since all before it is seen by every row.
    `limit` is a multiple of CUT."""
    count = np.ones(len(segments.rows), dtype=np.int64)
    # A single row sees all keys, its own too.
    whole = np.where(segments.own[few] > 1, segments.own[few], 1)
    count[few] = (segments.lengths[few] - whole) // limit + 1
    segment = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    begin = segments.begin[segment] + number * limit
    end = np.where(number + 1 == count[segment], segments.end[segment], begin + limit)
    return segment, Spans(begin, end, np.arange(len(segment)))


def longest_piece(lengths: Int64, kv_heads: int, blocks: int) -> int:
    """To how many keys segments of few rows are cut, for a device that runs `blocks` thread blocks at a time.

    A block reads a piece for one KV head. FlashInfer spreads fewer pieces over the device by itself, with a merge of
    its own; with more, what is longer than the share of a block would end last, and what is shorter gains nothing by
    being cut.
    """
    longest = int(lengths.max(initial=0))
    if len(lengths) * kv_heads <= blocks:
        return -(-max(longest, 1) // CUT) * CUT
    share = -(-int(lengths.sum()) * kv_heads // blocks)
    return CUT << max(0, (-(-share // CUT) - 1).bit_length())


def extents_of(batch: Batch, spans: Spans) -> tuple[Int32, Int32]:
    """The slots of `spans`: extents [n, 2] and the span of each [n]."""
    if not len(spans.begin):
        return np.zeros((0, 2), dtype=np.int32), np.zeros(0, dtype=np.int32)
    ends = key_ends(batch)
    first = np.searchsorted(ends, spans.begin, side="right") - 1
    last = np.searchsorted(ends, spans.end - 1, side="right") - 1
    span = np.repeat(np.arange(len(first)), last - first + 1)
    extent = ranges(first, last - first + 1)
    begin = np.maximum(spans.begin[span], ends[extent])
    length = np.minimum(spans.end[span], ends[extent + 1]) - begin
    slots = batch.extents[extent, 0] + begin - ends[extent]
    kept = length > 0
    return np.stack([slots, length], axis=1)[kept].astype(np.int32), span[kept].astype(np.int32)


def ranges(starts: Int64, counts: Int64) -> Int64:
    """starts[i], starts[i] + 1, ... (counts[i] of them), one after the other."""
    before = np.cumsum(counts) - counts
    out: Int64 = np.arange(int(counts.sum())) - np.repeat(before - starts, counts)
    return out
