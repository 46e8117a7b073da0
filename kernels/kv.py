"""The memory behind the slots. Never initialised: no slot is read before it is written, and slots that were never used
are not resident (torch.zeros would touch them all, numpy's zeros asks for huge pages)."""

from __future__ import annotations

import torch

LANES = 16


class KVStore:
    """K (rotated where it was encoded) and V of every slot and layer: float32 [layers, kv_heads, slots, head_dim]."""

    def __init__(self, layers: int, kv_heads: int, slots: int, head_dim: int) -> None:
        shape = (layers, kv_heads, slots, head_dim)
        self.k = torch.empty(shape, dtype=torch.float32)
        self.v = torch.empty(shape, dtype=torch.float32)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of K and V of all slots, each [kv_heads, slots, head_dim]."""
        return self.k[layer].clone(), self.v[layer].clone()

    def write(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """K and V of all slots, each [kv_heads, slots, head_dim]."""
        self.k[layer].copy_(k)
        self.v[layer].copy_(v)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V where they lie, bit by bit: int32 [layers * kv_heads, blocks, inner, lanes, words], slot s being the
        lane s % lanes of the block s // lanes."""
        return _rows(self.k), _rows(self.v)


class BlockedKVStore:
    """The same, as the C++ kernel reads it, in float32 or bfloat16.

    K is [layers, kv_heads, slots / LANES, head_dim / pack, LANES, pack] with pack = 1 (float32) or 2 (bfloat16): a
    vector is the same dimensions of LANES keys. V is [layers, kv_heads, slots, head_dim rounded up to LANES].
    """

    def __init__(self, layers: int, kv_heads: int, slots: int, head_dim: int, dtype: torch.dtype) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"a KV cache of {dtype} is not supported, only float32 and bfloat16")
        self.slots = -(-slots // LANES) * LANES
        self.head_dim = head_dim
        self.dtype = dtype
        pack = 4 // dtype.itemsize
        blocks = self.slots // LANES
        self.k = torch.empty((layers, kv_heads, blocks, head_dim // pack, LANES, pack), dtype=dtype)
        self.v = torch.empty((layers, kv_heads, self.slots, -(-head_dim // LANES) * LANES), dtype=dtype)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(layers, kv_heads, slots, head_dim)."""
        return self.k.shape[0], self.k.shape[1], self.slots, self.head_dim

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of K and V of all slots, each [kv_heads, slots, head_dim]."""
        kv_heads = self.k.shape[1]
        k = self.k[layer].transpose(2, 3).reshape(kv_heads, self.slots, self.head_dim)
        return k, self.v[layer, :, :, : self.head_dim].clone()

    def write(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """K and V of the first slots, each [kv_heads, at most `slots`, head_dim]; the rest become 0."""
        kv_heads, given = k.shape[:2]
        whole = torch.zeros((kv_heads, self.slots, self.head_dim), dtype=self.dtype)
        whole[:, :given] = k
        pack = self.k.shape[-1]
        blocked = whole.view(kv_heads, self.slots // LANES, LANES, self.head_dim // pack, pack)
        self.k[layer].copy_(blocked.transpose(2, 3))
        self.v[layer].zero_()
        self.v[layer, :, :given, : self.head_dim] = v.to(self.dtype)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See KVStore."""
        return self.k.view(torch.int32).flatten(0, 1), _rows(self.v)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """[layers, kv_heads, slots, dim] as parts of one block: int32 [layers * kv_heads, 1, 1, slots, words]."""
    return tensor.view(torch.int32).flatten(0, 1)[:, None, None]
