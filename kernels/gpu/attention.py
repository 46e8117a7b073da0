"""DAG attention on a GPU: FlashInfer's kernels on pieces of segments, merged by their log-sum-exp."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.gpu.captured import (
    MOST_PARTS,
    MOST_ROWS,
    Bucket,
    bucket_of,
    fits,
    largest_groups,
    padded_arrays,
    sizes_of,
)
from pavane.kernels.gpu.device_plan import DevicePlan, FixedPlan, Watched, arrays_of
from pavane.kernels.gpu.ops import Ops, Rotations
from pavane.kernels.gpu.plan import GpuPlan, Heads, Kind, make_plan
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.stream import Stream
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.kernels.gpu.wrappers import Attention, Captured, Launch, Library, MakeLaunch, PagedLaunch, RaggedLaunch
from pavane.kernels.pages import SlotPages
from pavane.kernels.rope import RopeTable

MOST_KEYS = 1 << 22  # of a captured step


class _Room(NamedTuple):
    """What the layers of all captured steps work in; they run one after the other."""

    indices: torch.Tensor  # int32 [3, MOST_KEYS]: of all keys, and of those of two kinds of pieces
    queries: torch.Tensor  # [MOST_PARTS, heads, head_dim]
    parts: torch.Tensor  # [MOST_PARTS, heads, head_dim]
    lse: torch.Tensor  # float32 [MOST_PARTS, heads]
    out: torch.Tensor  # [MOST_ROWS, heads, head_dim]


class FlashInferAttention:
    """The attention backend for GPUs. `scratch` keys, and `workspace_bytes` (FlashInfer's), are memory that
    all layers share. With `tiles`, these launches take the place of FlashInfer's, which need no workspace and
    take no `scratch`; with `blocks` = WHOLE besides, the parts of a row are the segments it reads, in their order."""

    def __init__(
        self, store: DeviceKV, rope: RopeTable, what: Attention, library: Library, ops: Ops, *,
        blocks: int, scratch: int, workspace_bytes: int, tiles: MakeLaunch | None = None, stream: Stream | None = None,
    ) -> None:  # fmt: skip
        self.device = store.k.device
        self.store = store
        self._what = what
        self._library = library
        self._ops = ops
        self._table = Rotations.of(rope, self.device)
        self._tiles = tiles
        self._heads = Heads(what.heads // what.kv_heads, what.kv_heads, blocks, scratch, alike=tiles is not None)
        self._workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=self.device)
        shape = (2, scratch, what.kv_heads, what.head_dim)
        self._scratch = torch.empty(shape, dtype=what.dtype, device=self.device)
        self.staging = Staging(self.device, stream)
        self._upload = Upload(self.staging)
        self._launches: dict[Kind, Launch] = {}

    def pages(self) -> SlotPages:
        return SlotPages(self.store.parts())

    def plan(self, batch: Batch, also: Mapping[str, npt.NDArray[Any]] | None = None) -> DevicePlan:
        """`also`: arrays that go to the device in the same copy, until the next plan."""
        plan = make_plan(batch, self._heads)
        n, parts, what = batch.n_rows, plan.n_parts, self._what
        launches = [(group, self._launch(group.kind)) for group in plan.groups]
        with self.staging.step():
            there = self._upload.put({**arrays_of(plan, batch), **(also or {})})
            indices = torch.empty(plan.n_keys, dtype=torch.int32, device=self.device)
            self._ops.expand_extents(there["extents"].view(-1, 2), there["extent_starts"], indices)
            for group, launch in launches:
                launch.plan(group, indices[group.keys])
        watched = None
        if batch.watched is not None:
            shares = torch.zeros((parts, what.heads), device=self.device)
            watched = Watched(plan.pairs, batch.n_pairs, shares)
        queries, results = self._empty(parts, what.dtype), self._empty(parts, what.dtype)
        return DevicePlan(
            positions=there["positions"], slots=there["slots"], pair_rows=there["pair_rows"], angles=there["angles"],
            indices=indices, key_angles=there["key_angles"], merge_indptr=there["merge_indptr"], order=there["order"],
            also={name: there[name] for name in also or {}}, launches=launches, merged=plan.merged,
            queries=queries, parts=results,
            lse=torch.empty((parts, what.heads), device=self.device),
            out=self._empty(n, what.dtype) if plan.merged else results,
            watched=watched,
        )  # fmt: skip

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: DevicePlan) -> torch.Tensor:
        """q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim], unrotated; [rows, heads * head_dim]."""
        what, ops, table = self._what, self._ops, self._table
        keys, values = self.store.k[layer], self.store.v[layer]
        ops.store_kv(k, v, plan.positions, plan.slots, keys, values, table, what.k_scale, what.v_scale)
        ops.rotate_queries(q, plan.pair_rows, plan.angles, table, plan.queries)
        for group, launch in plan.launches:
            k_read, v_read = keys, values
            if group.kind.scratch:
                count = len(plan.key_angles)
                k_read, v_read = self._scratch[:, :count].unbind(0)
                slots = plan.indices[group.keys]
                scales = (what.k_scale, what.v_scale)
                ops.gather_rotated(keys, values, slots, plan.key_angles, table, k_read, v_read, *scales)
            at = group.parts
            launch.run(plan.queries[at], k_read, v_read, plan.parts[at], plan.lse[at])
        if plan.merged:
            shares = None if plan.watched is None else plan.watched.shares
            ops.merge(plan.parts, plan.lse, plan.merge_indptr, plan.order, plan.out, shares)
        elif plan.watched is not None:
            plan.watched.shares.add_(1)
        return plan.out.flatten(1)

    def plan_captured(self, batch: Batch) -> tuple[GpuPlan, Bucket] | None:
        """For a step that a captured graph can run; None for all others."""
        # Tiles in a fixed order take a call's own keys and those before them as one part: not `one_by_one`.
        if not fits(batch) or (self._tiles is not None and (batch.own[: batch.n_segments] > 1).any()):
            return None
        plan = make_plan(batch, self._heads._replace(captured=True))
        bucket = bucket_of(batch, plan)
        if bucket is None or plan.n_keys > MOST_KEYS or not self._has_room(bucket):
            return None
        return plan, bucket

    def _has_room(self, bucket: Bucket) -> bool:
        """FlashInfer keeps what it merges itself in its workspace: float32, with a log-sum-exp."""
        what = self._what
        needed = bucket.tile_rows(self._heads.group) * what.heads * (what.head_dim + 1) * 4
        return self._tiles is not None or needed <= len(self._workspace)

    def fix(self, bucket: Bucket, also: Mapping[str, npt.NDArray[Any]]) -> FixedPlan:
        """A plan whose tensors stay where they are; ready for a first run on padding alone. `also` are of the sizes
        that `load` gets."""
        room, groups, parts = self._room, largest_groups(bucket), bucket.all_parts
        empty = {name: np.zeros(size, dtype=np.int32) for name, size in sizes_of(bucket).items()}
        empty["slots"][:] = self.store.spare
        upload = Upload(self.staging)
        launches = []
        with self.staging.step():
            there = upload.put({**empty, **also})
            for group, indices in zip(groups, room.indices[1:], strict=False):
                pieces = Captured(len(group.qo_indptr) - 1, indices)
                launch = self._new_launch(group.kind, pieces)
                launch.plan(group, torch.full((int(group.kv_indptr[-1]),), self.store.spare, device=self.device).int())
                launches.append((group, launch))
        plan = DevicePlan(
            **{name: there[name] for name in empty},
            indices=room.indices[0], key_angles=room.indices[0][:0], also={}, launches=launches, merged=bucket.merged,
            queries=room.queries[:parts], parts=room.parts[:parts], lse=room.lse[:parts],
            out=(room.out if bucket.merged else room.parts)[: bucket.rows],
            watched=None,
        )  # fmt: skip
        return FixedPlan(bucket, upload, plan)

    def load(
        self, fixed: FixedPlan, plan: GpuPlan, batch: Batch, also: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, torch.Tensor]:
        """Puts a step's arrays where the tensors of `fixed` are; `also` on the device, which must always be of the same
        sizes."""
        arrays = padded_arrays(plan, batch, fixed.bucket, self.store.spare)
        mine = {group.kind: group for group in plan.groups}
        with self.staging.step():
            extents = self._upload.put({"extents": plan.extents, "extent_starts": plan.extent_starts})
            indices = fixed.plan.indices[: plan.n_keys]
            self._ops.expand_extents(extents["extents"].view(-1, 2), extents["extent_starts"], indices)
            for largest, launch in fixed.plan.launches:
                group = mine[largest.kind]
                launch.plan(group, indices[group.keys])
            there = fixed.upload.put({**arrays, **also})
        return {name: there[name] for name in also}

    def _launch(self, kind: Kind) -> Launch:
        if kind not in self._launches:
            self._launches[kind] = self._new_launch(kind)
        return self._launches[kind]

    def _new_launch(self, kind: Kind, captured: Captured | None = None) -> Launch:
        if self._tiles is not None:
            return self._tiles(self._what, self.staging, captured)
        if kind.scratch:
            return RaggedLaunch(self._library, self._workspace, self._what, self.staging)
        return PagedLaunch(self._library, self._workspace, self._what, self.staging, long=kind.long, captured=captured)

    @cached_property
    def _room(self) -> _Room:
        what = self._what
        queries, parts, out = (self._empty(count, what.dtype) for count in (MOST_PARTS, MOST_PARTS, MOST_ROWS))
        lse = torch.empty((MOST_PARTS, what.heads), device=self.device)
        return _Room(torch.zeros((3, MOST_KEYS), dtype=torch.int32, device=self.device), queries, parts, lse, out)

    def _empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty((count, self._what.heads, self._what.head_dim), dtype=dtype, device=self.device)
