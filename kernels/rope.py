"""Rotary position embedding in the rotate-half layout, from float64 tables over positions -L..2L."""

from __future__ import annotations

import torch


class RopeTable:
    """cos and sin of p * theta**(-2i/d), computed in float64, stored in `dtype`, for p in -length..2*length."""

    def __init__(self, head_dim: int, theta: float, length: int, dtype: torch.dtype = torch.float32) -> None:
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.arange(-length, 2 * length + 1, dtype=torch.float64)[:, None] * frequencies
        self._length = length
        self._cos = torch.cat([angles.cos(), angles.cos()], dim=1).to(dtype)
        self._sin = torch.cat([-angles.sin(), angles.sin()], dim=1).to(dtype)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin), each [n, 1, head_dim] (sin with the sign of rotate-half), for `positions` int64 [n]."""
        rows = positions + self._length
        return self._cos.index_select(0, rows)[:, None], self._sin.index_select(0, rows)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """R(p) x for x [n, heads, head_dim] and cos, sin as `RopeTable.at` gives them."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
