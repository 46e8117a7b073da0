"""The tensors behind the slots."""

from __future__ import annotations

import torch


class KVStore:
    """K (rotated where it was encoded) and V of every slot and layer: float32 [layers, kv_heads, slots, head_dim].

    Not initialised: no slot is read before it is written, and slots that were never used are not resident (torch.zeros
    would touch them all, numpy's zeros asks for huge pages).
    """

    def __init__(self, layers: int, kv_heads: int, slots: int, head_dim: int) -> None:
        shape = (layers, kv_heads, slots, head_dim)
        self.k = torch.empty(shape, dtype=torch.float32)
        self.v = torch.empty(shape, dtype=torch.float32)
