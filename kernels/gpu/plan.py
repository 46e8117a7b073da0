"""A step's attention as FlashInfer's kernels take it: from the Batch to arrays, in numpy, with no loop over tokens.

Pages hold one slot. A segment begins at any token and goes on in any slot, so that larger pages would have to be filled
up at every cut of a path; FlashInfer's kernels take pages of one, whose indices are 4 bytes beside the kilobytes of a
token's K and V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pavane.kernels.batch import Batch, Int32, Int64
from pavane.kernels.gpu.pieces import Segments, Spans, cut, extents_of, longest_piece, one_by_one, ranges, segments_of
from pavane.kernels.gpu.scratch import LONG_ROWS, Joined, join, key_angles

TILES = (16, 64)  # rows of queries that FlashInfer's kernel takes at once (FA2DetermineCtaTileQ): 16, 64, 128


class Kind(NamedTuple):
    """One launch per layer: pieces of like row counts. `tile` counts rows of queries times heads of a group."""

    tile: int  # 16, 64 or 128
    long: bool  # LONG_ROWS and more: FlashInfer's kernel for Hopper (fa3)
    causal: bool
    scratch: bool = False  # keys are read from the scratch, not from the slots


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Pieces of one kind; piece i has the parts first_part + qo_indptr[i:i + 2] and the keys first_key + kv_indptr[i:i
    + 2]. If `kind.causal`, the last keys of a piece are those of its rows."""

    kind: Kind
    first_part: int
    first_key: int
    qo_indptr: Int32  # [pieces + 1]
    kv_indptr: Int32  # [pieces + 1]

    @property
    def parts(self) -> slice:
        return slice(self.first_part, self.first_part + int(self.qo_indptr[-1]))

    @property
    def keys(self) -> slice:
        return slice(self.first_key, self.first_key + int(self.kv_indptr[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class GpuPlan:
    """Parts are partial results: one per piece and row that reads it. Keys are counted through all groups, those of
    the scratch last."""

    groups: tuple[Group, ...]
    pair_rows: Int32  # [parts]
    angles: Int32  # [parts]; of the query
    pairs: Int32  # [parts]; of the batch
    extents: Int32  # [extents, 2]
    extent_starts: Int32  # [extents + 1]; the key that each begins with, and their number
    key_angles: Int32  # [keys of the scratch]
    merge_indptr: Int32  # [rows + 1]
    order: Int32  # [parts]; by row, then by segment
    merged: bool  # else part r is the result of row r

    @property
    def n_parts(self) -> int:
        return len(self.pair_rows)

    @property
    def n_keys(self) -> int:
        return int(self.extent_starts[-1])

    @property
    def scratch_keys(self) -> int:
        return len(self.key_angles)


class Heads(NamedTuple):
    """What a plan must know of the model and the device."""

    group: int  # query heads per KV head
    kv_heads: int
    blocks: int  # thread blocks that run at a time
    scratch: int  # keys that the scratch has room for
    captured: bool = False  # for a captured graph, which has no causal pieces: see `_kinds`
    alike: bool = False  # the kernels take pieces of any row counts in one launch


def make_plan(batch: Batch, heads: Heads) -> GpuPlan:
    """See GpuPlan."""
    segments = one_by_one(segments_of(batch)) if heads.captured else segments_of(batch)
    joined = [] if heads.captured else join(batch, segments, heads.group, heads.scratch)
    alone = np.ones(len(segments.rows), dtype=bool)
    for call in joined:
        alone[[call.causal, *call.others]] = False
    rest = Segments(*(field[alone] for field in segments))
    few = np.flatnonzero(rest.rows * heads.group <= TILES[-1])
    segment, spans = cut(rest, few, longest_piece(rest.lengths[few], heads.kv_heads, heads.blocks))
    causal = (rest.own[segment] > 1) & (spans.end == rest.end[segment])
    kinds = _kinds(rest.rows[segment], causal, heads)
    rank = np.lexsort((np.arange(len(segment)), *kinds))
    first_pair = np.concatenate([rest.first_pair[segment][rank], segments.first_pair[[c.causal for c in joined]]])
    rows = np.concatenate([rest.rows[segment][rank], segments.rows[[c.causal for c in joined]]])
    spans = _all_spans(Spans(spans.begin[rank], spans.end[rank], np.arange(len(rank))), segments, joined)
    named = [Kind(int(t), bool(lo), bool(ca)) for ca, lo, t in zip(*(k[rank] for k in kinds), strict=True)]
    named += [Kind(128, True, True, True)] * len(joined)
    keys = np.bincount(spans.piece, weights=spans.end - spans.begin, minlength=len(rows)).astype(np.int64)
    pairs = ranges(first_pair, rows)
    pair_rows = batch.pair_rows[pairs]
    order = np.lexsort((pairs, pair_rows)).astype(np.int32)
    extents, _ = extents_of(batch, spans)
    return GpuPlan(
        groups=_groups(named, rows, keys),
        pair_rows=pair_rows,
        angles=(batch.positions[pair_rows] - batch.pair_deltas[pairs]).astype(np.int32),
        pairs=pairs.astype(np.int32),
        extents=extents,
        extent_starts=_sums(extents[:, 1]),
        key_angles=key_angles(batch, segments, joined).astype(np.int32),
        merge_indptr=_sums(np.bincount(pair_rows, minlength=batch.n_rows)),
        order=order,
        merged=len(pairs) != batch.n_rows or not np.array_equal(pair_rows, np.arange(batch.n_rows)),
    )


def _kinds(rows: Int64, causal: np.ndarray[tuple[int], np.dtype[np.bool_]], heads: Heads) -> tuple[Int64, ...]:
    """(causal, long, tile) of each piece, the keys by which pieces are sorted, the last one first.

    FlashInfer takes one tile per launch, by the mean of its rows: pieces of like counts go together. For a captured
    graph it goes by the most rows that one piece could have, which is 1 only if there are as many pieces as rows: so
    pieces of one row are a kind of their own there, and all others have the largest tile.
    """
    packed = rows * heads.group
    if heads.captured:
        tile = np.where(rows == 1, 16, 128)
        return causal.astype(np.int64), np.zeros_like(rows), tile
    if heads.alike:
        return causal.astype(np.int64), np.zeros_like(rows), np.full_like(rows, TILES[0])
    tile = np.where(packed <= TILES[0], TILES[0], np.where(packed <= TILES[1], TILES[1], 128))
    return causal.astype(np.int64), (rows >= LONG_ROWS).astype(np.int64), tile


def _all_spans(alone: Spans, segments: Segments, joined: list[Joined]) -> Spans:
    """With those of calls in the scratch after them, several to a piece."""
    last = len(alone.begin)
    found = [(s, last + i) for i, call in enumerate(joined) for s in (*call.others, call.causal)]
    chosen = np.array([s for s, _ in found], dtype=np.int64)
    piece = np.array([p for _, p in found], dtype=np.int64)
    return Spans(
        np.concatenate([alone.begin, segments.begin[chosen]]),
        np.concatenate([alone.end, segments.end[chosen]]),
        np.concatenate([alone.piece, piece]),
    )


def _groups(kinds: list[Kind], rows: Int64, keys: Int64) -> tuple[Group, ...]:
    """Neighbours of one kind together."""
    parts, places = _sums(rows), _sums(keys)
    bounds = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    out = []
    for first, end in zip([0, *bounds], [*bounds, len(kinds)], strict=True):
        if end > first:
            part, key = int(parts[first]), int(places[first])
            out.append(Group(kinds[first], part, key, parts[first : end + 1] - part, places[first : end + 1] - key))
    return tuple(out)


def _sums(counts: Int64 | Int32) -> Int32:
    out: Int32 = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return out
