"""FlashInfer's batch prefill kernels, as this package calls them: planned once per step, run once per layer.

All attention goes through the prefill kernels: a decode is a piece of one row. Written for flashinfer-python 0.6;
log-sum-exps have base 2 there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from pavane.kernels.batch import Int32
from pavane.kernels.gpu.plan import Group
from pavane.kernels.gpu.upload import Staging

PAGE = 1  # slots
# Of a launch in a captured graph, for its list of tiles: 13 bytes a tile and 8 a piece. FlashInfer would take 8 MiB, on
# the device and page-locked, and each graph has two.
TILES_BYTES = 1 << 20


class Library(NamedTuple):
    """FlashInfer's classes, or what stands in for them."""

    paged: Any  # BatchPrefillWithPagedKVCacheWrapper
    ragged: Any  # BatchPrefillWithRaggedKVCacheWrapper


class Attention(NamedTuple):
    """What all launches have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype  # of queries and of partial results
    kv_dtype: torch.dtype
    hopper: bool  # FlashInfer's fa3 runs there
    k_scale: float = 1.0  # of what is stored, where kv_dtype is float8
    v_scale: float = 1.0

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)

    def backend(self, keys: torch.dtype, *, long: bool) -> str:
        """fa3 takes no queries of 16 bits with keys of 8."""
        return "fa3" if long and self.hopper and keys is self.dtype else "fa2"


class Launch(Protocol):
    def plan(self, group: Group, indices: torch.Tensor) -> None:
        """`indices` int32: the slots of the keys of `group`, on the device. Within a `Staging.step`: host memory is
        copied from there, FlashInfer's own as well."""
        ...

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        """Attends for the parts of the group: q, out [parts, heads, head_dim] and lse float32 [parts, heads] are
        theirs."""
        ...


class Captured(NamedTuple):
    """For a launch in a captured graph: the pieces it always has, and room for their keys' slots."""

    pieces: int
    indices: torch.Tensor


class MakeLaunch(Protocol):
    """A launch for any kind of pieces but those of the scratch."""

    def __call__(self, what: Attention, staging: Staging, captured: Captured | None = None) -> Launch: ...


class PagedLaunch:
    """Pieces whose keys lie in the slots: k, v [slots, kv_heads, head_dim]."""

    def __init__(
        self,
        library: Library,
        workspace: torch.Tensor,
        what: Attention,
        staging: Staging,
        *,
        long: bool,
        captured: Captured | None = None,
    ) -> None:
        self._what = what
        self._staging = staging
        self._pieces = None if captured is None else captured.pieces
        given: dict[str, Any] = {}
        if captured is not None:
            device, n = workspace.device, captured.pieces
            qo, kv = (torch.zeros(n + 1, dtype=torch.int32, device=device) for _ in range(2))
            given = {
                "use_cuda_graph": True,
                "qo_indptr_buf": qo,
                "paged_kv_indptr_buf": kv,
                "paged_kv_indices_buf": captured.indices,
                "paged_kv_last_page_len_buf": torch.ones(n, dtype=torch.int32, device=device),
            }
        self._wrapper = library.paged(workspace, "NHD", backend=what.backend(what.kv_dtype, long=long), **given)
        if captured is not None:
            tiles = torch.empty(TILES_BYTES, dtype=torch.uint8, device=workspace.device)
            self._wrapper.reset_workspace_buffer(workspace, tiles)

    def plan(self, group: Group, indices: torch.Tensor) -> None:
        what, hold = self._what, self._staging.hold
        pieces = len(group.qo_indptr) - 1 if self._pieces is None else self._pieces
        rows, keys = _filled(group.qo_indptr, pieces), _filled(group.kv_indptr, pieces)
        self._wrapper.plan(
            hold(rows), hold(keys), indices, hold(np.ones(pieces, dtype=np.int32)),
            what.heads, what.kv_heads, what.head_dim, PAGE,
            causal=group.kind.causal, sm_scale=what.scale, q_data_type=what.dtype, kv_data_type=what.kv_dtype,
            o_data_type=what.dtype, max_token_per_sequence=int(np.diff(rows).max()), seq_lens=hold(np.diff(keys)),
        )  # fmt: skip

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        scales = {}
        if self._what.kv_dtype.itemsize == 1:
            scales = {"k_scale": self._what.k_scale, "v_scale": self._what.v_scale}
        pages = (k.unsqueeze(1), v.unsqueeze(1))
        self._wrapper.run(q, pages, out=out, lse=lse, return_lse=True, **scales)


class RaggedLaunch:
    """Pieces whose keys lie side by side in the scratch: k, v [keys, kv_heads, head_dim], those of the group."""

    def __init__(self, library: Library, workspace: torch.Tensor, what: Attention, staging: Staging) -> None:
        self._what = what
        self._staging = staging
        self._wrapper = library.ragged(workspace, "NHD", backend=what.backend(what.dtype, long=True))

    def plan(self, group: Group, indices: torch.Tensor) -> None:
        what, hold = self._what, self._staging.hold
        self._wrapper.plan(
            hold(group.qo_indptr), hold(group.kv_indptr),
            what.heads, what.kv_heads, what.head_dim, causal=group.kind.causal, sm_scale=what.scale,
            q_data_type=what.dtype, kv_data_type=what.dtype, o_data_type=what.dtype,
        )  # fmt: skip

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        self._wrapper.run(q, k, v, out=out, lse=lse, return_lse=True)


def _filled(indptr: Int32, pieces: int) -> Int32:
    """With pieces without rows and keys at its end."""
    return np.concatenate([indptr, np.full(pieces + 1 - len(indptr), indptr[-1], dtype=np.int32)])
