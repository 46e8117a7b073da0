"""Linear layers whose results do not depend on the batch, as one Triton kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pavane.kernels.gpu.fused.linear import linear_kernel


class _Tile(NamedTuple):
    """What one program computes, and how; by the sizes of a layer, never by the number of rows."""

    rows: int
    outer: int
    inner: int
    warps: int
    stages: int


def invariant_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [n, in], weight [out, in], bias [out], all contiguous, of one dtype: bfloat16, with sums in float32, or float32
    (IEEE, no TF32); [n, out] in that dtype.

    A row of the result is made by the same instructions in the same order wherever the row stands: one program goes
    through the whole inner dimension, and in a tensor core's product an element depends on its own row and column.
    That the hardware adds alike in all rows of a tile is tested, not promised by NVIDIA.
    """
    rows, inner = x.shape
    outer = len(weight)
    out = x.new_empty(rows, outer)
    tile = _tile(x.dtype, outer)
    linear_kernel[(-(-rows // tile.rows), -(-outer // tile.outer))](
        x, weight, bias, out, rows,
        INNER=inner, OUTER=outer, BLOCK_ROWS=tile.rows, BLOCK_OUTER=tile.outer, BLOCK_INNER=tile.inner,
        BIAS=bias is not None, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def _tile(dtype: torch.dtype, outer: int) -> _Tile:
    """Narrow tiles where there are few outputs: a decode step is as fast as its programs together read weights."""
    if dtype is torch.float32:
        return _Tile(64, 64, 16, 4, 2)
    if outer >= 8192:
        return _Tile(64, 128 if outer >= 16_384 else 64, 64, 4, 4)
    return _Tile(64, 32, 128, 4, 4)
