"""The small operations between the matrix products and FlashInfer's attention: what they compute.

All work on tensors of one device that exist already or have shapes known before, never wait for the device and never
choose shapes by data: a captured graph may hold them. Rows, pairs and keys beyond what counts are padding: computed
from valid places, and read by nobody. `TorchOps` is the plain implementation, for any device.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from pavane.kernels.gpu.edits import Edits, torch_edit
from pavane.kernels.gpu.scaled import Scaled, torch_quantise
from pavane.kernels.gpu.torch_sample import torch_sample
from pavane.kernels.rope import RopeTable


class Rotations(NamedTuple):
    """A RopeTable on a device: cos, sin float32 [3 * length + 1, head_dim / 2]; position p is row `origin` + p."""

    cos: torch.Tensor
    sin: torch.Tensor
    origin: int

    @classmethod
    def of(cls, table: RopeTable, device: torch.device) -> Rotations:
        return cls(table.cos.to(device), table.sin.to(device), table.origin)


class Wishes(NamedTuple):
    """How each row's token is chosen; all [rows], as the fields of `kernels.batch.Samples`."""

    forced: torch.Tensor  # int32; token to take, or NO_TOKEN
    temperature: torch.Tensor  # float32; 0 = greedy
    top_p: torch.Tensor  # float32; 1 = off
    top_k: torch.Tensor  # int32; 0 = off
    min_p: torch.Tensor  # float32; 0 = off
    seeds: torch.Tensor  # int64: the bits of the uint64
    counters: torch.Tensor  # int64


class Ops(Protocol):
    """Activations are bfloat16 (or float32) with the last two dimensions contiguous: q, k and v may be parts of one
    matrix. Caches and scratch are [slots, kv_heads, head_dim], of the activations' dtype or float8_e4m3fn. Indices are
    int32. Sums, rotations and softmax are float32 inside."""

    def store_kv(
        self, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
        k_cache: torch.Tensor, v_cache: torch.Tensor, table: Rotations, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        """Row r of k, v [rows, kv_heads, d], k rotated at positions[r], goes to slots[r]. Where the cache is float8,
        values are divided by the scales and cut to what it holds. Padding rows share a slot nobody reads."""
        ...

    def rotate_queries(
        self, q: torch.Tensor, pair_rows: torch.Tensor, angles: torch.Tensor, table: Rotations, out: torch.Tensor
    ) -> None:
        """out[j] = R(angles[j]) q[pair_rows[j]], for q [rows, heads, d] and out [pairs, heads, d] contiguous."""
        ...

    def expand_extents(self, extents: torch.Tensor, extent_starts: torch.Tensor, out: torch.Tensor) -> None:
        """The slots of `extents` [n, 2] (start, length) side by side: out[extent_starts[i] + t] = extents[i, 0] + t.
        `extent_starts` [n + 1] are the lengths' exclusive sums and the total, repeated for padding extents, which have
        length 0; `out` [capacity] is 0 from the total on."""
        ...

    def gather_rotated(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, angles: torch.Tensor,
        table: Rotations, k_out: torch.Tensor, v_out: torch.Tensor, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        """k_out[i] = R(angles[i]) k_cache[slots[i]] and v_out[i] = v_cache[slots[i]], times the scales that `store_kv`
        had; outputs [n, kv_heads, d] of the activations' dtype. For many rows it is cheaper to rotate the keys once."""
        ...

    def merge(
        self, parts: torch.Tensor, lse: torch.Tensor, indptr: torch.Tensor, order: torch.Tensor, out: torch.Tensor,
        shares: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """out[r] = sum of w[j] parts[j] over the j in order[indptr[r]:indptr[r + 1]], w their softmax by `lse`.

        parts [pairs, heads, d] bfloat16 or float32; lse float32 [pairs, heads], base 2; indptr [rows + 1]; order
        [pairs]; out [rows, heads, d]. A row without parts becomes 0; what `order` has beyond indptr[-1] is ignored.
        Adds w[j] to `shares` float32 [pairs, heads]."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last dimension, rounded once."""
        ...

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`residual` [n, hidden] becomes residual + x (rounded to its dtype); returns rms_norm of that."""
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up for gate_up [n, 2 * inner] = gate beside up; [n, inner]."""
        ...

    def quantise(self, x: torch.Tensor) -> Scaled:
        """x [n, size], rows contiguous, in float8 with a scale for each row: see `scaled.torch_quantise`."""
        ...

    def add_rms_norm_quantised(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> Scaled:
        """What `quantise` makes of `add_rms_norm`."""
        ...

    def silu_mul_quantised(self, gate_up: torch.Tensor) -> Scaled:
        """What `quantise` makes of `silu_mul`."""
        ...

    def sample(
        self, logits: torch.Tensor, wishes: Wishes, edits: Edits | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens int32 [n], logprobs float32 [n]) of logits float32 [n, vocabulary], as `kernels.sampling.sample`: the
        same noise to the bit, and the same token but where rounding decides; NO_TOKEN where there is none to take. Not
        for a captured graph if there are edits, whose number is no shape."""
        ...


class TorchOps:
    """See Ops."""

    def store_kv(
        self, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
        k_cache: torch.Tensor, v_cache: torch.Tensor, table: Rotations, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        index = slots.long()
        k_cache[index] = _stored(_rotate(k, positions, table), k_cache.dtype, k_scale)
        v_cache[index] = _stored(v.float(), v_cache.dtype, v_scale)

    def rotate_queries(
        self, q: torch.Tensor, pair_rows: torch.Tensor, angles: torch.Tensor, table: Rotations, out: torch.Tensor
    ) -> None:
        out.copy_(_rotate(q.index_select(0, pair_rows), angles, table))

    def expand_extents(self, extents: torch.Tensor, extent_starts: torch.Tensor, out: torch.Tensor) -> None:
        places = torch.arange(len(out), dtype=torch.int32, device=out.device)
        which = torch.searchsorted(extent_starts[1:].contiguous(), places, right=True).clamp_(max=len(extents) - 1)
        slots = extents[:, 0].index_select(0, which) + places - extent_starts.index_select(0, which)
        out.copy_(torch.where(places < extent_starts[-1], slots, 0))

    def gather_rotated(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, angles: torch.Tensor,
        table: Rotations, k_out: torch.Tensor, v_out: torch.Tensor, k_scale: float = 1.0, v_scale: float = 1.0,
    ) -> None:  # fmt: skip
        k_out.copy_(_rotate(k_cache.index_select(0, slots), angles, table) * k_scale)
        v_out.copy_(v_cache.index_select(0, slots).float() * v_scale)

    def merge(
        self, parts: torch.Tensor, lse: torch.Tensor, indptr: torch.Tensor, order: torch.Tensor, out: torch.Tensor,
        shares: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        rows, heads = out.shape[0], out.shape[1]
        places = torch.arange(len(order), dtype=indptr.dtype, device=out.device)
        row = torch.searchsorted(indptr[1:].contiguous(), places, right=True)  # `rows` for padding
        ranked = lse.index_select(0, order)
        index = row[:, None].expand(-1, heads)
        peak = torch.full((rows + 1, heads), -torch.inf, device=out.device).scatter_reduce_(0, index, ranked, "amax")
        weight = torch.exp2(ranked - peak.index_select(0, row))
        weight = weight / torch.zeros_like(peak).index_add_(0, row, weight).index_select(0, row)
        if shares is not None:
            counts = places < indptr[-1]
            shares.index_add_(0, order, torch.where(counts[:, None], weight, 0))
        merged = torch.zeros(rows + 1, *out.shape[1:], device=out.device)
        merged.index_add_(0, row, parts.index_select(0, order).float() * weight[..., None])
        out.copy_(merged[:rows])

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        return (wide * weight.float()).to(x.dtype)

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        residual.copy_(residual.float() + x.float())
        return self.rms_norm(residual, weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.float().chunk(2, dim=1)
        return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)

    def quantise(self, x: torch.Tensor) -> Scaled:
        return torch_quantise(x)

    def add_rms_norm_quantised(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> Scaled:
        return torch_quantise(self.add_rms_norm(x, residual, weight, eps))

    def silu_mul_quantised(self, gate_up: torch.Tensor) -> Scaled:
        return torch_quantise(self.silu_mul(gate_up))

    def sample(
        self, logits: torch.Tensor, wishes: Wishes, edits: Edits | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        edited = logits
        if edits is not None:
            edited = logits.clone()
            torch_edit(edited, edits)
        return torch_sample(edited, *wishes, own=logits)


def _rotate(x: torch.Tensor, angles: torch.Tensor, table: Rotations) -> torch.Tensor:
    """R(angle) of each row of x [n, heads, d], rotate-half; float32."""
    at = angles + table.origin
    cos, sin = table.cos.index_select(0, at)[:, None], table.sin.index_select(0, at)[:, None]
    left, right = x.float().chunk(2, dim=2)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=2)


def _stored(x: torch.Tensor, dtype: torch.dtype, scale: float) -> torch.Tensor:
    if dtype is not torch.float8_e4m3fn:
        return x.to(dtype)
    limit = torch.finfo(dtype).max
    return (x / scale).clamp(-limit, limit).to(dtype)
