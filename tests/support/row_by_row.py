"""What stands in for the batch-invariant Triton kernels where these take too long: each row by itself, in torch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.plan import Group
from pavane.kernels.gpu.upload import Staging
from pavane.kernels.gpu.wrappers import Attention, Captured


class RowOps(TorchOps):
    """Where torch works on all rows at once, the last few numbers of an array are computed otherwise than the rest."""

    def merge(
        self, parts: torch.Tensor, lse: torch.Tensor, indptr: torch.Tensor, order: torch.Tensor, out: torch.Tensor,
        shares: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        for row, (begin, end) in enumerate(pairwise(indptr.tolist())):
            mine = order[begin:end].long()
            weight = (lse[mine] * math.log(2)).softmax(dim=0)
            out[row] = (parts[mine].float() * weight[..., None]).sum(dim=0).to(out.dtype)
            if shares is not None:
                shares[mine] += weight


class RowByRow:
    """See Launch: operations whose shapes depend on what a row sees alone."""

    def __init__(self, what: Attention, staging: Staging, captured: Captured | None = None) -> None:
        del staging
        self._what = what
        self._captured = captured
        self._group: Group | None = None
        self._slots = torch.empty(0, dtype=torch.int32)

    def plan(self, group: Group, indices: torch.Tensor) -> None:
        if self._captured is not None:
            assert len(group.qo_indptr) - 1 <= self._captured.pieces
        self._group, self._slots = group, indices.clone()

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        assert self._group is not None
        what, group = self._what, self._group
        heads = what.heads // what.kv_heads
        for piece in range(len(group.qo_indptr) - 1):
            begin, end = group.qo_indptr[piece : piece + 2].tolist()
            first, last = group.kv_indptr[piece : piece + 2].tolist()
            for row in range(begin, end):
                slots = self._slots[first : last - (end - 1 - row) * group.kind.causal].long()
                keys, values = (x[slots].float().transpose(0, 1).contiguous() for x in (k, v))
                query = q[row].float().view(what.kv_heads, heads, what.head_dim)
                scores = torch.bmm(query, keys.transpose(1, 2)) * what.scale
                out[row] = torch.bmm(scores.softmax(dim=2), values).view(what.heads, -1).to(out.dtype)
                lse[row] = scores.logsumexp(dim=2).flatten() / math.log(2)
