"""Attention to pieces in own tiles, where FlashInfer's depend on the batch, and in float32, which it does not have."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.gpu.fused.attend import attend_kernel
from pavane.kernels.gpu.fused.jit import power_of_two
from pavane.kernels.gpu.invariant.tiles import LEAST_ROWS, block_rows, most_tiles, tiles_of
from pavane.kernels.gpu.plan import Group
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.kernels.gpu.wrappers import Attention, Captured


class _Blocks(NamedTuple):
    """By the model, never by the batch."""

    keys: int
    slice: int  # dimensions of a product of queries and keys
    warps: int
    stages: int


class TileLaunch:
    """See Launch: one program for each KV head of each tile, which reads its keys block by block from the first to the
    last. The same result for a row in any tile. With `captured`, tiles and slots lie where they lay when it was first
    planned, and for no more pieces, parts and keys than then, or than there is room for."""

    def __init__(self, what: Attention, staging: Staging, captured: Captured | None = None) -> None:
        self._what = what
        self._upload = Upload(staging)
        self._captured = captured
        self._most = 0  # tiles of a captured launch
        self._tiles = torch.empty(0, dtype=torch.int32, device=staging.device)
        self._slots = self._tiles if captured is None else captured.indices

    def plan(self, group: Group, indices: torch.Tensor) -> None:
        heads = self._what.heads // self._what.kv_heads
        tiles = tiles_of(group, heads)
        if self._captured is None:
            self._slots = indices
        else:
            self._most = self._most or most_tiles(self._captured.pieces, int(group.qo_indptr[-1]), heads)
            # Tiles without parts fill it up.
            tiles = np.concatenate([tiles, np.zeros((self._most - len(tiles), tiles.shape[1]), dtype=np.int32)])
            self._slots[: len(indices)].copy_(indices)
        self._tiles = self._upload.put({"tiles": tiles})["tiles"].view(tiles.shape)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        what = self._what
        heads, dim = what.heads // what.kv_heads, power_of_two(max(LEAST_ROWS, what.head_dim))
        blocks = _blocks(what.dtype, dim)
        attend_kernel[(len(self._tiles), what.kv_heads)](
            q, k, v, self._slots, self._tiles, out, lse, what.scale / math.log(2),
            KV_HEADS=what.kv_heads, GROUP=heads, DIM=what.head_dim, BLOCK_ROWS=block_rows(heads),
            BLOCK_KEYS=blocks.keys, BLOCK_DIM=dim, SLICE=blocks.slice, num_warps=blocks.warps,
            num_stages=blocks.stages,
        )  # fmt: skip


def _blocks(dtype: torch.dtype, dim: int) -> _Blocks:
    """Float32 products are no work for tensor cores, and what they multiply lies in registers: in small blocks. Of
    bfloat16 the next block is on its way while one is multiplied: slots, keys and values are stages of their own."""
    if dtype is torch.float32:
        return _Blocks(16, 16, 4, 2)
    return _Blocks(64 if dim <= 128 else 32, dim, 4, 5)
