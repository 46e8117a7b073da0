"""Numbers of 8 bits (float8 e4m3) from wider ones."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel, launched


@kernel
def quantised(x: tl.tensor, scale: tl.tensor, LARGEST: tl.constexpr) -> tl.tensor:
    """x / scale within +-LARGEST, since float8 e4m3 has no infinity to overflow to; what is no number stays none."""
    ratio = tl.div_rn(x, scale + tl.zeros_like(x))
    ratio = tl.maximum(ratio, -LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(ratio, LARGEST, propagate_nan=tl.PropagateNan.ALL)


@kernel
def row_scale(value: tl.tensor, LARGEST: tl.constexpr) -> tl.tensor:
    """[rows, 1] of value [rows, size]: what takes a row's largest number to LARGEST; 1 for zeros."""
    peak = tl.max(tl.abs(value), axis=1, keep_dims=True)
    return tl.where(peak == 0, 1.0, tl.div_rn(peak, LARGEST + tl.zeros_like(peak)))


@launched(counts=["count"])
def quantise_rows_kernel(
    x: tl.tensor,
    row_stride: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    count: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """BLOCK_ROWS of the `count` rows of x [rows, SIZE], and their scales."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    i = tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (i < SIZE)
    value = tl.load(x + row * row_stride + i, mask=inside, other=0.0).to(tl.float32)
    scale = row_scale(value, LARGEST)
    tl.store(scales + row, scale, mask=row < count)
    tl.store(out + row * SIZE + i, quantised(value, scale, LARGEST).to(out.dtype.element_ty), mask=inside)
