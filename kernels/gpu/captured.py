"""Steps of few rows in a captured graph: arrays of fixed sizes at fixed places, filled up with padding.

Decodes, and the headers of calls that begin: no piece of such a step is causal, since each row has a piece of its own
with its call's new keys up to its own (`pieces.one_by_one`). A graph runs the launches that it was captured with. What
differs from step to step lies in the arrays: FlashInfer's wrappers take as many pieces as they were made for, some of
them without rows, and rows beyond a step's own write to the spare slot and have no parts to merge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pavane.kernels.batch import Batch, Int32
from pavane.kernels.gpu.plan import GpuPlan, Group, Kind

MOST_ROWS = 256
WASTE = 4  # times what a step has of anything is the most that its graph has
FREE_ROWS = 64  # so many cost no more than one: products wait for the weights
MOST_PARTS = 8192
MOST_OWN = 1 << 15  # keys of calls' new rows, each row's counted for itself: half the square of a call's rows
ALONE, SHARED = Kind(16, False, False), Kind(128, False, False)  # pieces of one row, and of more


class Bucket(NamedTuple):
    """The sizes of a graph: rows, pieces of one row, pieces of more and the parts of these. Without merge there are
    only pieces of one row, each the result of its own."""

    rows: int
    alone: int
    pieces: int
    parts: int
    merged: bool

    @property
    def all_parts(self) -> int:
        return self.alone + self.parts

    def tile_rows(self, heads: int) -> int:
        """Rows of heads of a group that FlashInfer makes room for at most in a launch (PrefillSplitQOKVIndptr), for
        `heads` query heads per KV head."""
        sizes = ((ALONE.tile, self.alone, self.alone), (SHARED.tile, self.pieces, self.parts))
        return max(tile * (-(-parts * heads // tile) + pieces - 1) for tile, pieces, parts in sizes)

    def covers(self, other: Bucket) -> bool:
        """Whether a graph of these sizes runs a step of `other`, without much that is padding: launches without rows
        and keys are cheap, and capturing is not."""
        alike = self.merged == other.merged and (self.pieces > 0) == (other.pieces > 0)
        few = self.rows <= FREE_ROWS or self.rows == other.rows
        return alike and few and all(its <= mine <= WASTE * its for mine, its in zip(self[:4], other[:4], strict=True))


def fits(batch: Batch) -> bool:
    """Whether the rows are few, and their own keys if each row reads them for itself."""
    own = batch.own[: batch.n_segments].astype(np.int64)
    several = own[own > 1]
    return batch.n_rows <= MOST_ROWS and int((several * (several + 1)).sum()) // 2 <= MOST_OWN


def bucket_of(batch: Batch, plan: GpuPlan) -> Bucket | None:
    """The smallest bucket for a step; None if no graph is made for steps of its kind."""
    plain = batch.watched is None and batch.scores is None and batch.samples.count <= batch.n_rows
    kinds = {group.kind for group in plan.groups}
    if not plain or not kinds <= {ALONE, SHARED}:
        return None
    rows = rounded(batch.n_rows)
    if not plan.merged and kinds == {ALONE}:
        return Bucket(rows, rows, 0, 0, False)
    count = dict.fromkeys((ALONE, SHARED), (0, 0))
    count |= {group.kind: (len(group.qo_indptr) - 1, int(group.qo_indptr[-1])) for group in plan.groups}
    pieces, parts = (_power(n) for n in count[SHARED])
    bucket = Bucket(rows, _power(count[ALONE][0]), pieces, max(parts, 2 * pieces), True)
    return bucket if bucket.all_parts <= MOST_PARTS else None


def largest_groups(bucket: Bucket) -> list[Group]:
    """What the launches are planned for when they are captured: every piece has rows, and one key."""
    groups = []
    for kind, first, pieces, parts in (
        (ALONE, 0, bucket.alone, bucket.alone),
        (SHARED, bucket.alone, bucket.pieces, bucket.parts),
    ):
        if pieces:
            rows = np.ones(pieces, dtype=np.int32)
            rows[0] += parts - pieces
            groups.append(Group(kind, first, first, _sums(rows), np.arange(pieces + 1, dtype=np.int32)))
    return groups


def sizes_of(bucket: Bucket) -> dict[str, int]:
    """Of `padded_arrays`, in their order."""
    parts = bucket.all_parts
    return {
        "positions": bucket.rows, "slots": bucket.rows, "pair_rows": parts, "angles": parts,
        "merge_indptr": bucket.rows + 1, "order": parts,
    }  # fmt: skip


def padded_arrays(plan: GpuPlan, batch: Batch, bucket: Bucket, spare: int) -> dict[str, Int32]:
    """The arrays of a step that its layers read, as long as `bucket` says. Parts of shared pieces begin where the
    bucket has room for all of one row."""
    alone = sum(int(group.qo_indptr[-1]) for group in plan.groups if group.kind == ALONE)
    shift = bucket.alone - alone
    place = np.arange(plan.n_parts)
    place[alone:] += shift
    n = batch.n_rows
    return {
        "positions": _padded(batch.positions[:n], bucket.rows, 0),
        "slots": _padded(batch.slots[:n], bucket.rows, spare),
        "pair_rows": _placed(plan.pair_rows, place, bucket.all_parts),
        "angles": _placed(plan.angles, place, bucket.all_parts),
        "merge_indptr": _padded(plan.merge_indptr, bucket.rows + 1, plan.n_parts),
        "order": _padded(place[plan.order], bucket.all_parts, 0),
    }


def rounded(rows: int) -> int:
    """Powers of two, and beyond FREE_ROWS multiples of half of it."""
    return _power(rows) if rows <= FREE_ROWS else -(-rows // (FREE_ROWS // 2)) * (FREE_ROWS // 2)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length() if count else 0


def _padded(array: np.ndarray[tuple[int], np.dtype[np.integer]], size: int, value: int) -> Int32:
    out = np.full(size, value, dtype=np.int32)
    out[: len(array)] = array
    return out


def _placed(array: Int32, place: np.ndarray[tuple[int], np.dtype[np.integer]], size: int) -> Int32:
    out = np.zeros(size, dtype=np.int32)
    out[place] = array
    return out


def _sums(counts: Int32) -> Int32:
    out: Int32 = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return out
