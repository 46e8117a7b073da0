"""The pieces of a launch as the tiles that one program after the other takes, in numpy."""

from __future__ import annotations

import numpy as np

from pavane.kernels.batch import Int32
from pavane.kernels.gpu.plan import Group

LEAST_ROWS = 16  # of a tensor core's product


def block_rows(group: int) -> int:
    """Rows of queries times heads of a group that a tile has room for."""
    return max(LEAST_ROWS, 1 << (group - 1).bit_length())


def tiles_of(group: Group, heads: int) -> Int32:
    """The tiles of `group`, for `heads` query heads per KV head: [tiles, 5] with the first part, how many parts, the
    first key, how many keys the first part sees, and how many more each following one does (0 or 1). Parts and keys
    are counted from those of the group."""
    most = block_rows(heads) // heads
    rows, keys = np.diff(group.qo_indptr), np.diff(group.kv_indptr)
    count = -(-rows // most)
    piece = np.repeat(np.arange(len(rows)), count)
    before = (np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)) * most
    causal = int(group.kind.causal)
    return np.stack(
        [
            group.qo_indptr[piece] + before,
            np.minimum(most, rows[piece] - before),
            group.kv_indptr[piece],
            keys[piece] - causal * (rows[piece] - 1 - before),
            np.full(len(piece), causal),
        ],
        axis=1,
    ).astype(np.int32)


def most_tiles(pieces: int, parts: int, heads: int) -> int:
    """Of `pieces` pieces with `parts` parts together."""
    return pieces + parts // (block_rows(heads) // heads)
