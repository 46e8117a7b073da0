"""The oracle: attention in float64, dense, one call at a time, every key re-rotated literally to where it is placed.

Slow and obviously correct. Differentiable. Everything else is compared with this.
"""

from __future__ import annotations

import torch


def rope(x: torch.Tensor, positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """R(p) x in rotate-half layout for x float64 [n, heads, head_dim], positions [n], frequencies [head_dim/2]."""
    half = x.shape[-1] // 2
    angles = positions.to(torch.float64)[:, None, None] * frequencies
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_at: torch.Tensor,
    k_at: torch.Tensor,
    visible: torch.Tensor,
    frequencies: torch.Tensor,
) -> torch.Tensor:
    """q [n, heads, d] at positions q_at [n]; k, v [m, kv_heads, d] (k unrotated) at positions k_at [m]; visible bool
    [n, m]; frequencies [d/2]; all float64. Returns [n, heads, d]."""
    group = q.shape[1] // k.shape[1]
    keys = rope(k, k_at, frequencies).repeat_interleave(group, dim=1)
    values = v.repeat_interleave(group, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", rope(q, q_at, frequencies), keys) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return torch.einsum("hnm,mhd->nhd", weights, values)
