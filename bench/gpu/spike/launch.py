"""One launch of FlashInfer's batch prefill kernels over a layer's keys, as the attention backend makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import seconds

WORKSPACE = 256 << 20  # bytes


@dataclass(frozen=True)
class Pool:
    """Keys and values of random numbers, [layers, slots, kv_heads, head_dim] each, and what reads them. With more than
    one layer they are more than a cache holds, as in a model, where a layer's are not read again soon."""

    subject: Subject
    k: torch.Tensor
    v: torch.Tensor
    workspace: torch.Tensor

    @classmethod
    def of(cls, subject: Subject, slots: int, layers: int = 1) -> Pool:
        config, device = subject.sizes.config, subject.card.device
        shape = (layers, slots, config.num_kv_heads, config.head_dim)
        k, v = (torch.randn(shape, device=device).to(torch.bfloat16) for _ in range(2))
        workspace = torch.zeros(1 << 20 if subject.card.small else WORKSPACE, dtype=torch.uint8, device=device)
        return cls(subject, k, v, workspace)

    @property
    def device(self) -> torch.device:
        return self.k.device

    def queries(self, rows: int) -> torch.Tensor:
        config = self.subject.sizes.config
        return torch.randn(rows, config.num_heads, config.head_dim, device=self.device).to(torch.bfloat16)

    def key_bytes(self) -> int:
        """K and V of one token in this layer."""
        return 2 * self.k[0, 0].nbytes

    def seconds(self, layer: Callable[[torch.Tensor, torch.Tensor], object]) -> float:
        """Of one layer; called with K and V of each in turn."""

        def layers() -> None:
            for k, v in zip(self.k, self.v, strict=True):
                layer(k, v)

        return seconds(self.device, layers) / len(self.k)

    def launch(self, backend: str, *, ragged: bool = False, **options: Any) -> Launch:
        library = self.subject.flashinfer()
        wrapper = (library.ragged if ragged else library.paged)(self.workspace, "NHD", backend=backend, **options)
        return Launch(self, wrapper, ragged)


class Launch:
    """Planned for pieces of rows and keys; then run as often as there are layers."""

    def __init__(self, pool: Pool, wrapper: Any, ragged: bool) -> None:
        self.pool = pool
        self._wrapper = wrapper
        self._ragged = ragged

    def plan(
        self,
        rows: Sequence[int],
        keys: Sequence[int],
        slots: torch.Tensor | None = None,
        *,
        causal: bool = False,
    ) -> None:
        """Piece i has rows[i] queries and keys[i] keys, in `slots` (one after the other if not given)."""
        config, device = self.pool.subject.sizes.config, self.pool.device
        qo, kv = (torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (rows, keys))
        heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        options = {
            "causal": causal,
            "sm_scale": config.head_dim**-0.5,
            "q_data_type": torch.bfloat16,
            "kv_data_type": torch.bfloat16,
            "o_data_type": torch.bfloat16,
        }
        if self._ragged:
            self._wrapper.plan(qo, kv, *heads, **options)
            return
        indices = torch.arange(int(kv[-1]), dtype=torch.int32, device=device) if slots is None else slots
        last = torch.ones(len(rows), dtype=torch.int32)
        self._wrapper.plan(qo, kv, indices, last, *heads, 1, max_token_per_sequence=max(rows), **options)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        """q, out [rows of all pieces, heads, head_dim], lse float32 [rows, heads]; k, v of a layer, or side by side."""
        given: Any = (k, v) if self._ragged else ((k.unsqueeze(1), v.unsqueeze(1)),)
        self._wrapper.run(q, *given, out=out, lse=lse, return_lse=True)


def results(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for partial results and their log-sum-exp."""
    return torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)


def cut(length: int, piece: int) -> list[int]:
    """`length` keys in pieces of at most `piece`."""
    return [min(piece, length - at) for at in range(0, length, piece)]
