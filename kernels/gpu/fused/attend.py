"""Attention of a few rows to one run of keys, whose blocks are counted from the first of them: with online softmax
(Milakov and Gimelshein 2018; Dao et al. 2022), in one order for each row."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel, launched


@kernel
def scores_of(
    q: tl.tensor,
    k: tl.tensor,
    row: tl.tensor,
    there: tl.tensor,
    key: tl.tensor,
    known: tl.tensor,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SLICE: tl.constexpr,
) -> tl.tensor:
    """float32 [BLOCK_ROWS, BLOCK_KEYS]: the products of the queries at q + row and the keys at k + key, SLICE of their
    dimensions at a time. 0 where a key is not known."""
    score = tl.zeros([BLOCK_ROWS, BLOCK_KEYS], dtype=tl.float32)
    for first in range(0, BLOCK_DIM, SLICE):
        dim = first + tl.arange(0, SLICE)
        inside = dim < DIM
        a = tl.load(q + row[:, None] + dim[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        b = tl.load(k + key[None, :] + dim[:, None], mask=known[None, :] & inside[:, None], other=0.0)
        score = tl.dot(a, b, score, input_precision="ieee")
    return score


@launched(anywhere=["slots", "lse"])
def attend_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    slots: tl.tensor,
    tiles: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    scale: tl.tensor,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SLICE: tl.constexpr,
) -> None:
    """One tile of `tiles` [n, 5] (see `Tiles`) and one KV head: GROUP heads of each row side by side as rows of the
    products. q, out [parts, KV_HEADS * GROUP, DIM], k and v [slots, KV_HEADS, DIM], `scale` that of scores with base 2.

    A block of which a row sees no key leaves what it has as it was, to the bit: it is multiplied by 1, and zeros are
    added. So it does not matter which other rows make a tile go on further.
    """
    tile, head = tiles + tl.program_id(0) * 5, tl.program_id(1)
    part, rows = tl.load(tile).to(tl.int64), tl.load(tile + 1)
    if rows > 0:
        first_key, seen, own = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
        lane = tl.arange(0, BLOCK_ROWS)
        there = lane // GROUP < rows
        sees = seen + lane // GROUP * own
        end = seen + (rows - 1) * own
        row = (part + lane // GROUP) * (KV_HEADS * GROUP) + head * GROUP + lane % GROUP
        dim = tl.arange(0, BLOCK_DIM)
        peak = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
        total = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
        mixed = tl.zeros([BLOCK_ROWS, BLOCK_DIM], dtype=tl.float32)
        for first in range(0, end, BLOCK_KEYS):
            i = first + tl.arange(0, BLOCK_KEYS)
            slot = tl.load(slots + first_key + i, mask=i < end, other=0).to(tl.int64)
            key = (slot * KV_HEADS + head) * DIM
            score = scores_of(
                q, k, row * DIM, there, key, i < end, DIM, BLOCK_ROWS, BLOCK_KEYS, BLOCK_DIM, SLICE
            )  # fmt: skip
            score = tl.where(i[None, :] < sees[:, None], score * scale, float("-inf"))
            high = tl.maximum(peak, tl.max(score, axis=1))  # every row sees the first key
            kept = tl.exp2(peak - high)
            weight = tl.exp2(score - high[:, None])
            total = total * kept + tl.sum(weight, axis=1)
            inside = (i < end)[:, None] & (dim < DIM)[None, :]
            value = tl.load(v + key[:, None] + dim[None, :], mask=inside, other=0.0)
            mixed = tl.dot(weight.to(value.dtype), value, mixed * kept[:, None], input_precision="ieee")
            peak = high
        at = row[:, None] * DIM + dim[None, :]
        mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + at, mixed, mask=there[:, None] & (dim < DIM)[None, :])
        tl.store(lse + row, peak + tl.log2(total), mask=there)
