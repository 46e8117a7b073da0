"""FlashInfer's batch prefill wrappers, computed in torch from the same arguments; what the real ones refuse is refused
here, and every plan is checked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from pavane.kernels.gpu.wrappers import Library
from support.flashinfer_plans import check_lengths, check_paged, check_pages


class _Planned(NamedTuple):
    rows: int  # of queries: in a captured graph as many as when it was captured
    qo: list[int]
    kv: list[int]
    indices: torch.Tensor
    causal: bool
    scale: float
    q_dtype: torch.dtype
    kv_dtype: torch.dtype
    o_dtype: torch.dtype
    heads: int
    kv_heads: int


class PagedStandIn:
    """BatchPrefillWithPagedKVCacheWrapper."""

    def __init__(
        self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD", use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None, paged_kv_indptr_buf: torch.Tensor | None = None,
        paged_kv_indices_buf: torch.Tensor | None = None, paged_kv_last_page_len_buf: torch.Tensor | None = None,
        custom_mask_buf: torch.Tensor | None = None, mask_indptr_buf: torch.Tensor | None = None,
        backend: str = "auto", jit_args: list[Any] | None = None, jit_kwargs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        assert kv_layout == "NHD"
        assert float_workspace_buffer.dtype is torch.uint8
        assert backend in ("fa2", "fa3")
        self.backend = backend
        self.captured = None
        if use_cuda_graph:
            buffers = (qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, paged_kv_last_page_len_buf)
            assert all(isinstance(buffer, torch.Tensor) for buffer in buffers), "a buffer for the graph is missing"
            self.captured = buffers
        self.most_rows: int | None = None
        self.planned: _Planned | None = None

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        assert float_workspace_buffer.dtype is int_workspace_buffer.dtype is torch.uint8
        assert self.planned is None, "what is planned lies in the old one"

    def plan(
        self, qo_indptr: torch.Tensor, paged_kv_indptr: torch.Tensor, paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor, num_qo_heads: int, num_kv_heads: int, head_dim_qk: int, page_size: int,
        head_dim_vo: int | None = None, custom_mask: torch.Tensor | None = None,
        packed_custom_mask: torch.Tensor | None = None, causal: bool = False, pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False, sm_scale: float | None = None, window_left: int = -1,
        logits_soft_cap: float | None = None, rope_scale: float | None = None, rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16", kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None, non_blocking: bool = True,
        prefix_len_ptr: torch.Tensor | None = None, token_pos_in_items_ptr: torch.Tensor | None = None,
        token_pos_in_items_len: int = 0, max_item_len_ptr: torch.Tensor | None = None,
        seq_lens: torch.Tensor | None = None, seq_lens_q: torch.Tensor | None = None,
        block_tables: torch.Tensor | None = None, max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None, fixed_split_size: int | None = None, disable_split_kv: bool = False,
    ) -> None:  # fmt: skip
        check_paged(
            qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, heads=num_qo_heads,
            kv_heads=num_kv_heads, page_size=page_size, causal=causal, padded=self.captured is not None,
        )  # fmt: skip
        assert max_sequence_kv is None, "the real one then forgets to compute the lengths that fa2 and fa3 need"
        assert max_token_per_sequence in (None, int(qo_indptr.diff().max()))
        rows = int(qo_indptr[-1])
        indices = paged_kv_indices
        if self.captured is not None:
            fixed_qo, fixed_kv, room, last = self.captured
            assert fixed_qo is not None and fixed_kv is not None and room is not None and last is not None  # noqa: PT018
            assert len(qo_indptr) == len(fixed_qo) == len(fixed_kv) == len(last) + 1, "the pieces of a graph are fixed"
            assert len(paged_kv_indices) <= len(room), "more indices than their buffer holds"
            self.most_rows = self.most_rows or rows
            assert rows <= self.most_rows, "more rows than when it was captured"
            room[: len(paged_kv_indices)].copy_(paged_kv_indices)
            indices = room
        self.planned = _planned(
            self.most_rows or rows, qo_indptr, paged_kv_indptr, indices, causal, sm_scale, head_dim_qk, q_data_type,
            kv_data_type, o_data_type, num_qo_heads, num_kv_heads,
        )  # fmt: skip

    def run(
        self, q: torch.Tensor, paged_kv_cache: Any, *args: Any, q_scale: Any = None, k_scale: Any = None,
        v_scale: Any = None, out: torch.Tensor | None = None, lse: torch.Tensor | None = None,
        return_lse: bool = False, enable_pdl: bool | None = None, window_left: int | None = None,
        sinks: torch.Tensor | None = None, kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None, use_fp16_softmax: bool | None = None,
        uses_spcompress: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        assert self.planned is not None, "run before plan"
        keys, values = paged_kv_cache
        assert keys.dim() == values.dim() == 4
        assert keys.shape[1] == 1, "pages of one slot"
        if self.backend == "fa3":
            assert keys.dtype is q.dtype, "fa3 takes keys of the queries' dtype"
        indices = self.planned.indices[: self.planned.kv[-1]]
        check_pages(indices, len(keys))
        gathered = (x[:, 0].float()[indices.long()] for x in (keys, values))
        assert keys.dtype is self.planned.kv_dtype, f"keys are {keys.dtype}"
        found = _attend(q, *gathered, self.planned, out, lse, float(k_scale or 1.0))
        if v_scale is not None:
            found[0].mul_(v_scale)
        return found


class RaggedStandIn:
    """BatchPrefillWithRaggedKVCacheWrapper."""

    def __init__(
        self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD", use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None, kv_indptr_buf: torch.Tensor | None = None,
        custom_mask_buf: torch.Tensor | None = None, mask_indptr_buf: torch.Tensor | None = None,
        backend: str = "auto", jit_args: list[Any] | None = None, jit_kwargs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        assert kv_layout == "NHD"
        assert not use_cuda_graph
        assert backend in ("fa2", "fa3")
        self.planned: _Planned | None = None

    def plan(
        self, qo_indptr: torch.Tensor, kv_indptr: torch.Tensor, num_qo_heads: int, num_kv_heads: int, head_dim_qk: int,
        head_dim_vo: int | None = None, custom_mask: torch.Tensor | None = None,
        packed_custom_mask: torch.Tensor | None = None, causal: bool = False, pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False, window_left: int = -1, logits_soft_cap: float | None = None,
        sm_scale: float | None = None, rope_scale: float | None = None, rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16", kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None, non_blocking: bool = True,
        prefix_len_ptr: torch.Tensor | None = None, token_pos_in_items_ptr: torch.Tensor | None = None,
        token_pos_in_items_len: int = 0, max_item_len_ptr: torch.Tensor | None = None,
        fixed_split_size: int | None = None, disable_split_kv: bool = False, seq_lens: torch.Tensor | None = None,
        seq_lens_q: torch.Tensor | None = None, max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None, v_indptr: torch.Tensor | None = None, o_indptr: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        check_lengths(qo_indptr, kv_indptr, causal=causal, padded=False)
        indices = torch.arange(int(kv_indptr[-1]), dtype=torch.int32)
        self.planned = _planned(
            int(qo_indptr[-1]), qo_indptr, kv_indptr, indices, causal, sm_scale, head_dim_qk, q_data_type,
            kv_data_type, o_data_type, num_qo_heads, num_kv_heads,
        )  # fmt: skip

    def run(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, q_scale: float | None = None,
        k_scale: float | None = None, v_scale: float | None = None, o_scale: float | None = None,
        out: torch.Tensor | None = None, lse: torch.Tensor | None = None, return_lse: bool = False,
        enable_pdl: bool | None = None, kv_cache_sf: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        assert self.planned is not None, "run before plan"
        assert len(k) == len(v) == self.planned.kv[-1], "keys are not those of the plan"
        assert k.is_contiguous()
        assert v.is_contiguous()
        return _attend(q, k.float(), v.float(), self.planned, out, lse, 1.0)


STAND_IN = Library(PagedStandIn, RaggedStandIn)


def _planned(
    rows: int, qo: torch.Tensor, kv: torch.Tensor, indices: torch.Tensor, causal: bool, scale: float | None,
    head_dim: int, q_dtype: str | torch.dtype, kv_dtype: str | torch.dtype | None, o_dtype: str | torch.dtype | None,
    heads: int, kv_heads: int,
) -> _Planned:  # fmt: skip
    def dtype(given: str | torch.dtype | None, otherwise: str | torch.dtype) -> torch.dtype:
        given = otherwise if given is None else given
        found = getattr(torch, given) if isinstance(given, str) else given
        assert isinstance(found, torch.dtype)
        return found

    return _Planned(
        rows, qo.tolist(), kv.tolist(), indices, causal, scale or 1 / math.sqrt(head_dim), dtype(q_dtype, "float16"),
        dtype(kv_dtype, q_dtype), dtype(o_dtype, q_dtype), heads, kv_heads,
    )  # fmt: skip


def _attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, planned: _Planned, out: torch.Tensor | None,
    lse: torch.Tensor | None, k_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """keys, values float32 [keys of all pieces, kv_heads, head_dim]."""
    assert q.dtype is planned.q_dtype, f"queries are {q.dtype}, planned {planned.q_dtype}"
    assert q.is_contiguous()
    assert q.shape[:2] == (planned.rows, planned.heads), f"queries {tuple(q.shape)}, planned {planned.rows} rows"
    assert out is not None
    assert lse is not None
    assert out.dtype is planned.o_dtype
    assert out.shape == q.shape
    assert lse.dtype is torch.float32
    assert lse.shape == q.shape[:2]
    group = planned.heads // planned.kv_heads
    for i in range(len(planned.qo) - 1):
        rows, at = slice(planned.qo[i], planned.qo[i + 1]), slice(planned.kv[i], planned.kv[i + 1])
        n, m = rows.stop - rows.start, at.stop - at.start
        if not n:
            continue
        k, v = (x[at].repeat_interleave(group, dim=1) for x in (keys, values))
        scores = torch.einsum("nhd,mhd->nhm", q[rows].float(), k) * (planned.scale * k_scale)
        if planned.causal:
            seen = torch.arange(m) <= torch.arange(n)[:, None] + m - n
            scores = scores.masked_fill(~seen[:, None], -torch.inf)
        out[rows] = torch.einsum("nhm,mhd->nhd", scores.softmax(dim=2), v).to(out.dtype)
        lse[rows] = scores.logsumexp(dim=2) / math.log(2)
    return out, lse
