"""`Ops` as Triton kernels: one launch each, and what a layer does between its products is read and written once.

A row's result does not depend on what else is in the batch.
"""

from __future__ import annotations

import torch

from pavane.kernels.gpu.edits import Edits
from pavane.kernels.gpu.fused.choose import choose_kernel
from pavane.kernels.gpu.fused.edit import edit_kernel
from pavane.kernels.gpu.fused.jit import power_of_two
from pavane.kernels.gpu.fused.merge import merge_kernel
from pavane.kernels.gpu.fused.norms import rms_norm_kernel, silu_mul_kernel, silu_mul_quantised_kernel
from pavane.kernels.gpu.fused.quantise import quantise_rows_kernel
from pavane.kernels.gpu.fused.rotate import expand_extents_kernel, rotate_heads_kernel, store_kv_kernel
from pavane.kernels.gpu.ops import Rotations, Wishes
from pavane.kernels.gpu.scaled import FLOAT8, LARGEST, Scaled

ROTATED_AT_ONCE = 2048  # pairs of numbers that a program rotates
EXPANDED_AT_ONCE = 256
MERGED_AT_ONCE = 8  # partial results; few rows have more
NORMED_AT_ONCE = 1024
GATED_AT_ONCE = 1024


class TritonOps:
    """See Ops. `vocabulary_block`: tokens of a row that a program of 512 threads looks at together, a power of two; of
    more than 4096 registers would spill."""

    def __init__(self, vocabulary_block: int = 4096) -> None:
        self._vocabulary_block = vocabulary_block

    def store_kv(
        self, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
        k_cache: torch.Tensor, v_cache: torch.Tensor, table: Rotations, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        rows, heads, dim = k.shape
        quantised = k_cache.dtype is torch.float8_e4m3fn
        store_kv_kernel[(rows,)](
            k, v, k.stride(0), v.stride(0), positions, slots, k_cache, v_cache, *table, k_scale, v_scale,
            HEADS=heads, HALF=dim // 2, BLOCK_HEADS=power_of_two(heads), BLOCK_HALF=power_of_two(dim // 2),
            LARGEST=torch.finfo(k_cache.dtype).max if quantised else 0.0, num_warps=2,
        )  # fmt: skip

    def rotate_queries(
        self, q: torch.Tensor, pair_rows: torch.Tensor, angles: torch.Tensor, table: Rotations, out: torch.Tensor
    ) -> None:
        self._rotate(q, pair_rows, angles, table, out)

    def expand_extents(self, extents: torch.Tensor, extent_starts: torch.Tensor, out: torch.Tensor) -> None:
        expand_extents_kernel[(-(-len(out) // EXPANDED_AT_ONCE),)](
            extents, extent_starts, len(extents), out, len(out), len(extents).bit_length(),
            BLOCK=EXPANDED_AT_ONCE,
        )  # fmt: skip

    def gather_rotated(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, angles: torch.Tensor,
        table: Rotations, k_out: torch.Tensor, v_out: torch.Tensor, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        self._rotate(k_cache, slots, angles, table, k_out, (v_cache, v_out), (k_scale, v_scale))

    def merge(
        self, parts: torch.Tensor, lse: torch.Tensor, indptr: torch.Tensor, order: torch.Tensor, out: torch.Tensor,
        shares: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        rows, heads, dim = out.shape
        merge_kernel[(rows, heads)](
            parts, lse, indptr, order, out, shares,
            HEADS=heads, DIM=dim, BLOCK_DIM=power_of_two(dim), BLOCK_PARTS=MERGED_AT_ONCE, SHARES=shares is not None,
            num_warps=1,
        )  # fmt: skip

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self._norm(x, None, weight, eps, torch.empty_like(x, memory_format=torch.contiguous_format))

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self._norm(x, residual, weight, eps, torch.empty_like(x))

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, size = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        silu_mul_kernel[(rows, -(-size // GATED_AT_ONCE))](gate_up, out, SIZE=size, BLOCK=GATED_AT_ONCE)
        return out

    def quantise(self, x: torch.Tensor) -> Scaled:
        rows, size = x.shape
        out = _scaled(x, rows, size)
        length = power_of_two(size)
        block = max(1, NORMED_AT_ONCE // length)
        quantise_rows_kernel[(-(-rows // block),)](
            x, x.stride(0), *out, rows, SIZE=size, BLOCK_ROWS=block, BLOCK=length, LARGEST=LARGEST,
            num_warps=max(1, min(16, block * length // 512)),
        )  # fmt: skip
        return out

    def add_rms_norm_quantised(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> Scaled:
        out = _scaled(x, *x.shape)
        self._norm(x, residual, weight, eps, out.values, out.scales)
        return out

    def silu_mul_quantised(self, gate_up: torch.Tensor) -> Scaled:
        rows, size = len(gate_up), gate_up.shape[1] // 2
        out = _scaled(gate_up, rows, size)
        length = power_of_two(size)
        silu_mul_quantised_kernel[(rows,)](
            gate_up, *out, SIZE=size, BLOCK=length, LARGEST=LARGEST, num_warps=max(1, min(16, length // 512))
        )
        return out

    def sample(
        self, logits: torch.Tensor, wishes: Wishes, edits: Edits | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, size = logits.shape
        own = logits
        if edits is not None:
            logits = logits.clone()
            edit_kernel[(len(edits.rows),)](
                logits, size, *edits, edits.masks.shape[1], BLOCK=self._vocabulary_block, num_warps=16
            )
        weights, ids = torch.empty_like(logits), torch.empty_like(logits, dtype=torch.int32)
        tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
        logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
        choose_kernel[(rows,)](
            logits, size, wishes.forced, wishes.temperature, wishes.top_k, wishes.top_p, wishes.min_p, wishes.seeds,
            wishes.counters, weights, ids, tokens, logprobs, own, BLOCK=self._vocabulary_block,
            EDITED=edits is not None, num_warps=16,
        )  # fmt: skip
        return tokens, logprobs

    def _rotate(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        angles: torch.Tensor,
        table: Rotations,
        out: torch.Tensor,
        copied: tuple[torch.Tensor, torch.Tensor] | None = None,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """out[i] = R(angles[i]) x[rows[i]]; `copied`: (from, to) of what is gathered beside it unrotated. Both times
        their `scales`."""
        count, heads, dim = out.shape
        half = power_of_two(dim // 2)
        block = max(1, ROTATED_AT_ONCE // half)
        source, target = copied or (None, None)
        rotate_heads_kernel[(-(-count * heads // block),)](
            x, x.stride(0), rows, angles, *table, out, source, target, *scales, count,
            HEADS=heads, HALF=dim // 2, BLOCK=block, BLOCK_HALF=half, COPY=copied is not None,
        )  # fmt: skip

    def _norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor,
        scales: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """`out`, quantised if it gets `scales`."""
        size, inner = x.shape[-1], x.shape[1] if x.dim() == 3 else 1
        length = power_of_two(size)
        block = max(1, NORMED_AT_ONCE // length)
        count = len(x) * inner
        rms_norm_kernel[(-(-count // block),)](
            x, x.stride(0), residual, weight, eps, out, scales, count,
            INNER=inner, SIZE=size, BLOCK_ROWS=block, BLOCK=length, ADD=residual is not None,
            LARGEST=0.0 if scales is None else LARGEST, num_warps=max(1, min(16, block * length // 512)),
        )  # fmt: skip
        return out


def _scaled(like: torch.Tensor, rows: int, size: int) -> Scaled:
    return Scaled(like.new_empty(rows, size, dtype=FLOAT8), like.new_empty(rows, 1, dtype=torch.float32))
