"""DAG attention on a CPU in torch: partial results per segment, merged by their log-sum-exp.

Keys are stored rotated where they were encoded; queries are rotated into each segment's frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.kv import KVStore
from pavane.kernels.pages import SlotPages
from pavane.kernels.rope import RopeTable, rotate


@dataclass(frozen=True, slots=True)
class _Segment:
    pairs: slice
    rows: int
    length: int
    extents: list[tuple[int, int]]  # (first slot, one past the last)
    slots: torch.Tensor | None  # all of them, where they lie in more than one extent
    mask: torch.Tensor | None  # float32 [rows, 1, own], 0 or -inf, for the last `own` keys


@dataclass(frozen=True, slots=True)
class Plan:
    """A step's attention, the same for all layers."""

    slots: torch.Tensor
    key_rope: tuple[torch.Tensor, torch.Tensor]
    pair_rows: torch.Tensor
    query_rope: tuple[torch.Tensor, torch.Tensor]
    segments: list[_Segment]
    merged: bool  # some row has more than one pair
    in_order: bool  # pair j is row j
    shares: torch.Tensor | None  # see AttentionPlan


class TorchAttention:
    """The attention backend for CPUs.

    With `batch_invariant`, every row is computed by itself in operations whose shapes depend only on what the row sees,
    so that its result is the same to the bit in whatever batch it stands.
    """

    def __init__(self, store: KVStore, rope: RopeTable, heads: int, *, batch_invariant: bool = False) -> None:
        _, self._kv_heads, _, self._head_dim = store.k.shape
        self._group = heads // self._kv_heads
        self._store = store
        self._rope = rope
        self._scale = self._head_dim**-0.5
        self._row_by_row = batch_invariant

    def pages(self) -> SlotPages:
        return SlotPages(self._store.parts())

    def plan(self, batch: Batch) -> Plan:
        n, pairs = batch.n_rows, batch.n_pairs
        positions = torch.from_numpy(batch.positions[:n]).long()
        rows = torch.from_numpy(batch.pair_rows[:pairs]).long()
        deltas = torch.from_numpy(batch.pair_deltas[:pairs]).long()
        cos, sin = self._rope.at(positions[rows] - deltas)
        read = np.flatnonzero(np.diff(batch.row_indptr[: batch.n_segments + 1]))
        segments = [self._segment(batch, int(s)) for s in read]
        in_order = pairs == n and bool((rows == torch.arange(n)).all())
        return Plan(
            slots=torch.from_numpy(batch.slots[:n]).long(),
            key_rope=self._rope.at(positions),
            pair_rows=rows,
            query_rope=(cos * self._scale, sin * self._scale),
            segments=segments,
            merged=pairs > n,
            in_order=in_order,
            shares=None if batch.watched is None else torch.zeros(pairs),
        )

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan) -> torch.Tensor:
        """Stores K and V of the step's rows, then attends.

        q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim], unrotated, any float dtype; returns float32
        [rows, heads * head_dim].
        """
        keys, values = self._store.k[layer], self._store.v[layer]
        keys.index_copy_(1, plan.slots, rotate(k.float(), *plan.key_rope).transpose(0, 1))
        values.index_copy_(1, plan.slots, v.float().transpose(0, 1))
        q = q.float()
        queries = rotate(q if plan.in_order else q.index_select(0, plan.pair_rows), *plan.query_rope)
        queries = queries.view(-1, self._kv_heads, self._group, self._head_dim)
        if plan.shares is not None and not plan.merged:
            plan.shares.add_(self._kv_heads * self._group)
        if len(plan.segments) == 1 and plan.in_order and not self._row_by_row:
            out, _ = self._partial(queries, keys, values, plan.segments[0], False)
            return out.reshape(len(q), -1)
        partial = self._by_row if self._row_by_row else self._partial
        parts = [partial(queries[s.pairs], keys, values, s, plan.merged) for s in plan.segments]
        out = torch.cat([o for o, _ in parts])  # [pairs, kv_heads, group, head_dim]
        if plan.merged:
            lse = torch.cat([lse for _, lse in parts])
            return _merge(out, lse, plan.pair_rows, len(q), plan.shares).view(len(q), -1)
        if not plan.in_order:
            out = torch.empty_like(out).index_copy_(0, plan.pair_rows, out)
        return out.reshape(len(q), -1)

    def _segment(self, batch: Batch, s: int) -> _Segment:
        first, last = int(batch.row_indptr[s]), int(batch.row_indptr[s + 1])
        extents = batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]].tolist()
        mask = None
        own = int(batch.own[s])
        if own > 1:
            mask = torch.full((own, own), float("-inf")).triu(1)[:, None]
        slots = None
        if len(extents) > 1:
            slots = torch.cat([torch.arange(start, start + length) for start, length in extents])
        return _Segment(
            pairs=slice(first, last),
            rows=last - first,
            length=sum(length for _, length in extents),
            extents=[(start, start + length) for start, length in extents],
            slots=slots,
            mask=mask,
        )

    def _partial(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segment: _Segment, want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(out [rows, kv_heads, group, head_dim], lse [rows, kv_heads, group]) of one segment."""
        n = segment.rows
        flat = q.transpose(0, 1).reshape(self._kv_heads, n * self._group, self._head_dim)
        pieces = [torch.bmm(flat, keys[:, a:b].transpose(1, 2)) for a, b in segment.extents]
        scores = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        if segment.mask is not None:
            own = segment.mask.shape[0]
            scores.view(self._kv_heads, n, self._group, -1)[..., -own:] += segment.mask
        weights = scores.softmax(dim=2)
        at = 0
        out: torch.Tensor | None = None
        for a, b in segment.extents:
            part = weights[:, :, at : at + b - a]
            out = torch.bmm(part, values[:, a:b]) if out is None else out.baddbmm_(part, values[:, a:b])
            at += b - a
        assert out is not None
        lse = scores.logsumexp(dim=2).view(self._kv_heads, n, self._group).transpose(0, 1) if want_lse else out
        return out.view(self._kv_heads, n, self._group, self._head_dim).transpose(0, 1), lse

    def _by_row(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segment: _Segment, want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `_partial`, one row at a time and with the keys side by side wherever they are stored."""
        if segment.slots is not None:
            keys, values = keys.index_select(1, segment.slots), values.index_select(1, segment.slots)
        else:
            ((a, b),) = segment.extents
            keys, values = keys[:, a:b], values[:, a:b]
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:3])
        own = 1 if segment.mask is None else segment.mask.shape[0]
        for i in range(segment.rows):
            seen = segment.length - own + i + 1 if own > 1 else segment.length
            scores = torch.bmm(q[i], keys[:, :seen].transpose(1, 2))
            out[i] = torch.bmm(scores.softmax(dim=2), values[:, :seen])
            lse[i] = scores.logsumexp(dim=2)
        return out, lse


def _merge(
    out: torch.Tensor, lse: torch.Tensor, rows: torch.Tensor, count: int, shares: torch.Tensor | None
) -> torch.Tensor:
    """Softmax-weighted sum of the partial results of each row; [count, kv_heads, group, head_dim]. The weights, summed
    over the heads, are added to `shares` [pairs]."""
    shape = (count, *lse.shape[1:])
    index = rows[:, None, None].expand_as(lse)
    peak = torch.full(shape, float("-inf")).scatter_reduce_(0, index, lse, "amax")
    weight = (lse - peak.index_select(0, rows)).exp()
    total = torch.zeros(shape).index_add_(0, rows, weight)
    if shares is not None:
        shares += (weight / total.index_select(0, rows)).sum(dim=(1, 2))
    merged = torch.zeros(count, *out.shape[1:]).index_add_(0, rows, out * weight[..., None])
    return merged / total[..., None]
