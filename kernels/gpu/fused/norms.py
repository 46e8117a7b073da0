"""What stands between the products of a layer, each in one pass: residual and RMSNorm, SwiGLU's gate."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel, launched
from pavane.kernels.gpu.fused.quantise import quantised, row_scale


@launched(counts=["count"])
def rms_norm_kernel(
    x: tl.tensor,
    row_stride: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    count: tl.tensor,
    INNER: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """BLOCK_ROWS of the `count` rows of x [rows, INNER, SIZE], the first two taken as one. With ADD, x + residual is
    rounded to residual's dtype, stored there and normalised. The result, rounded to x's dtype, is quantised unless
    LARGEST is 0."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    i = tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (i < SIZE)
    value = tl.load(x + row // INNER * row_stride + row % INNER * SIZE + i, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row * SIZE + i, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(residual.dtype.element_ty)
        tl.store(residual + row * SIZE + i, rounded, mask=inside)
        value = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, axis=1) / SIZE + eps)
    w = tl.load(weight + i, mask=i < SIZE, other=0.0).to(tl.float32)
    normed = (value * inverse[:, None] * w).to(x.dtype.element_ty)
    if LARGEST > 0:
        wide = normed.to(tl.float32)
        scale = row_scale(wide, LARGEST)
        tl.store(scales + row, scale, mask=row < count)
        tl.store(out + row * SIZE + i, quantised(wide, scale, LARGEST).to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(out + row * SIZE + i, normed, mask=inside)


@kernel
def gated(gate_up: tl.tensor, row: tl.tensor, i: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """silu(gate) * up of a row at i, rounded; 0 beyond SIZE."""
    gate = tl.load(gate_up + row * (2 * SIZE) + i, mask=i < SIZE, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + i, mask=i < SIZE, other=0.0).to(tl.float32)
    return (gate * tl.sigmoid(gate) * up).to(gate_up.dtype.element_ty)


@launched()
def silu_mul_kernel(gate_up: tl.tensor, out: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """A block of one row: silu(gate) * up, where gate and up lie side by side."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + row * SIZE + i, gated(gate_up, row, i, SIZE), mask=i < SIZE)


@launched()
def silu_mul_quantised_kernel(
    gate_up: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """A whole row, since it has one scale."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)[:, None]
    i = tl.arange(0, BLOCK)[None, :]
    wide = gated(gate_up, row, i, SIZE).to(tl.float32)
    scale = row_scale(wide, LARGEST)
    tl.store(scales + row, scale)
    tl.store(out + row * SIZE + i, quantised(wide, scale, LARGEST).to(out.dtype.element_ty), mask=i < SIZE)
