"""The ragged merge: a row's attention from the partial results of its segments, by their log-sum-exp."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import launched


@launched(anywhere=["lse", "indptr", "order", "shares"])
def merge_kernel(
    parts: tl.tensor,
    lse: tl.tensor,
    indptr: tl.tensor,
    order: tl.tensor,
    out: tl.tensor,
    shares: tl.tensor,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    SHARES: tl.constexpr,
) -> None:
    """One head of one row. BLOCK_PARTS partial results are loaded side by side, so that a row of as many waits for
    memory once. A row without any becomes 0; with SHARES each part's weight is added to what it had."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(indptr + row), tl.load(indptr + row + 1)
    dim = tl.arange(0, BLOCK_DIM)
    peak = float("-inf")
    total = 0.0
    mixed = tl.zeros([BLOCK_DIM], dtype=tl.float32)
    for first in range(begin, end, BLOCK_PARTS):
        i = first + tl.arange(0, BLOCK_PARTS)
        pair = tl.load(order + i, mask=i < end, other=0).to(tl.int64)
        worth = tl.load(lse + pair * HEADS + head, mask=i < end, other=float("-inf"))
        at = (pair * HEADS + head)[:, None] * DIM + dim[None, :]
        seen = worth > float("-inf")  # of a part that saw no key nothing is read
        part = tl.load(parts + at, mask=seen[:, None] & (dim < DIM)[None, :], other=0.0).to(tl.float32)
        high = tl.maximum(peak, tl.max(worth, axis=0))
        base = tl.where(high == float("-inf"), 0.0, high)
        kept = tl.exp2(peak - base)
        weight = tl.exp2(worth - base)
        mixed = mixed * kept + tl.sum(part * weight[:, None], axis=0)
        total = total * kept + tl.sum(weight, axis=0)
        peak = high
    total = tl.where(total > 0, total, 1.0)
    tl.store(out + (row * HEADS + head) * DIM + dim, (mixed / total).to(out.dtype.element_ty), mask=dim < DIM)
    if SHARES:
        for first in range(begin, end, BLOCK_PARTS):
            i = first + tl.arange(0, BLOCK_PARTS)
            pair = tl.load(order + i, mask=i < end, other=0).to(tl.int64)
            worth = tl.load(lse + pair * HEADS + head, mask=i < end, other=float("-inf"))
            seen = worth > float("-inf")
            weight = tl.exp2(tl.where(seen, worth - peak, float("-inf"))) / total
            share = shares + pair * HEADS + head
            tl.store(share, tl.load(share, mask=seen, other=0.0) + weight, mask=seen)
