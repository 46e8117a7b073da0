"""A step's plan on the device, which all layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from pavane.kernels.batch import Batch, Int32
from pavane.kernels.gpu.captured import Bucket
from pavane.kernels.gpu.plan import GpuPlan, Group
from pavane.kernels.gpu.upload import Upload
from pavane.kernels.gpu.wrappers import Launch


class Watched(NamedTuple):
    """If rows are watched: what share of its row each part has."""

    pairs: Int32  # [parts]; of the batch
    n_pairs: int
    shares: torch.Tensor  # float32 [parts, heads]; on the device, summed over the layers

    def by_pair(self) -> torch.Tensor:
        """float32 [n_pairs], summed over the heads, on the CPU: in float64, which leaves no trace of its order."""
        shares = self.shares.cpu().double().sum(dim=1)
        total = torch.zeros(self.n_pairs, dtype=torch.float64)
        return total.index_add_(0, torch.from_numpy(self.pairs), shares).float()


@dataclass(slots=True, eq=False)
class DevicePlan:
    """A GpuPlan on the device, with room for what each layer computes."""

    positions: torch.Tensor
    slots: torch.Tensor
    pair_rows: torch.Tensor
    angles: torch.Tensor
    indices: torch.Tensor  # [keys]
    key_angles: torch.Tensor
    merge_indptr: torch.Tensor
    order: torch.Tensor
    also: dict[str, torch.Tensor]  # int32, flat
    launches: list[tuple[Group, Launch]]
    merged: bool
    queries: torch.Tensor  # [parts, heads, head_dim]
    parts: torch.Tensor
    lse: torch.Tensor  # float32 [parts, heads]
    out: torch.Tensor  # [rows, heads, head_dim]
    watched: Watched | None

    @property
    def shares(self) -> torch.Tensor | None:
        """See AttentionPlan; on the CPU."""
        return None if self.watched is None else self.watched.by_pair()


class FixedPlan(NamedTuple):
    """For a captured graph."""

    bucket: Bucket
    upload: Upload
    plan: DevicePlan


def arrays_of(plan: GpuPlan, batch: Batch) -> dict[str, Int32]:
    """What a step uploads for its attention."""
    return {
        "positions": batch.positions[: batch.n_rows],
        "slots": batch.slots[: batch.n_rows],
        "pair_rows": plan.pair_rows,
        "angles": plan.angles,
        "extents": plan.extents,
        "extent_starts": plan.extent_starts,
        "key_angles": plan.key_angles,
        "merge_indptr": plan.merge_indptr,
        "order": plan.order,
    }
