"""What the models ask of an attention backend."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch

from pavane.kernels.batch import Batch
from pavane.kernels.pages import SlotPages


class AttentionPlan(Protocol):
    """What a step's attention shares among the layers."""

    @property
    def shares(self) -> torch.Tensor | None:
        """float32 [pairs] if the batch watches rows: `attend` adds each pair's share of its row's attention, summed
        over the heads."""
        ...


P = TypeVar("P", bound=AttentionPlan)


class AttentionBackend(Protocol[P]):
    """Owns the KV tensors; `plan` is called once per step and its result passed to `attend` of every layer."""

    def plan(self, batch: Batch) -> P: ...

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: P) -> torch.Tensor:
        """Stores K and V of the step's rows, then attends; see TorchAttention.attend for the shapes.
        The result is float32 or has the dtype of q."""
        ...

    def pages(self) -> SlotPages:
        """The KV tensors, as a tier below them keeps what they hold."""
        ...
