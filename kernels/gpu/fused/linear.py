"""A matrix product whose sums have one order: the same tiles for any number of rows."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import launched


@launched(counts=["rows"])
def linear_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTER: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    BIAS: tl.constexpr,
) -> None:
    """A tile of out = x weight' + bias, for x [rows, INNER] and weight [OUTER, INNER]. One program sums all of INNER,
    block by block, in float32. Rows beyond the last are zeros, and so are columns beyond OUTER.

    Neighbouring programs have the same weights, so that memory is read once for them."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1).to(tl.int64) * BLOCK_OUTER + tl.arange(0, BLOCK_OUTER)
    inner = tl.arange(0, BLOCK_INNER)
    x_at = x + row[:, None] * INNER + inner[None, :]
    weight_at = weight + column[None, :] * INNER + inner[:, None]
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUTER], dtype=tl.float32)
    for first in range(0, INNER, BLOCK_INNER):
        there, known = (row < rows)[:, None], (column < OUTER)[None, :]
        if INNER % BLOCK_INNER != 0:
            there &= (first + inner < INNER)[None, :]
            known &= (first + inner < INNER)[:, None]
        a = tl.load(x_at + first, mask=there, other=0.0)
        b = tl.load(weight_at + first, mask=known, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + column, mask=column < OUTER, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (column < OUTER)[None, :]
    tl.store(out + row[:, None] * OUTER + column[None, :], total.to(out.dtype.element_ty), mask=inside)
