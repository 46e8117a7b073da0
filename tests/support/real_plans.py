"""FlashInfer's own plans, compiled, for random steps: what the GPU's backend gives them is what they can work with.

For a process of its own, with a GPU that is stood in for (`without_gpu`): nothing is run but plans. Says how many.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import Any

import numpy as np
import torch
from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper

from pavane.bench.gpu.engine import Engine, Model
from pavane.bench.gpu.sizes import LLAMA_8B
from pavane.kernels.batch import Batch, Int32, StepResult
from pavane.kernels.gpu.attention import FixedPlan, FlashInferAttention
from pavane.kernels.gpu.captured import Bucket
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention, Library
from pavane.kernels.rope import RopeTable, rope_frequencies

SLOTS = 100_000
# PrefillPlanInfo's (scheduler.cuh), in order; most are offsets into the workspaces.
FIELDS = (
    "padded", "rows", "rows_offset", "tile", "pieces", "tiles", "chunks", "merge", "out", "chunk_size", "values",
    "sums", "valid", "captured", "split",
)  # fmt: skip


def check_lists(wrapper: Any, qo: Int32, kv: Int32, group: int) -> None:
    """Each chunk of keys of each tile of rows of each piece is in the device's lists, and nothing else."""
    info = dict(zip(FIELDS, map(int, wrapper._plan_info), strict=True))
    memory = wrapper._int_workspace_buffer.numpy()

    def read(field: str, count: int, dtype: type = np.int32) -> Any:
        first = info[field]
        return memory[first : first + count * np.dtype(dtype).itemsize].view(dtype)

    count = info["padded"]
    valid = read("valid", count, np.bool_) if info["split"] and info["captured"] else np.ones(count, dtype=bool)
    found = zip(*(read(field, count)[valid].tolist() for field in ("pieces", "tiles", "chunks")), strict=True)
    size = int(read("chunk_size", 1)[0])
    expected = [
        (piece, tile, chunk)
        for piece, (rows, keys) in enumerate(zip(np.diff(qo).tolist(), np.diff(kv).tolist(), strict=True))
        for tile in range(-(-rows * group // info["tile"]))
        for chunk in range(-(-keys // size) if info["split"] else 1)
    ]
    assert sorted(found) == expected


class Planner:
    """A runner that plans, and makes up the tokens."""

    def __init__(self, attention: FlashInferAttention, group: int) -> None:
        self._attention = attention
        self._group = group
        self._fixed: dict[Bucket, tuple[FixedPlan, list[list[int]]]] = {}
        self.planned: Counter[str] = Counter()

    def execute(self, batch: Batch) -> StepResult:
        if batch.n_rows:
            self._plan(batch)
        n = batch.samples.count
        return StepResult(np.full(n, 7, dtype=np.int32), np.zeros(n, dtype=np.float32), 0.0)

    def _plan(self, batch: Batch) -> None:
        attention = self._attention
        captured = attention.plan_captured(batch)
        if captured is None:
            for group, launch in attention.plan(batch).launches:
                self.planned["hopper" if group.kind.long else "plain"] += 1
                if not group.kind.long:
                    check_lists(launch._wrapper, group.qo_indptr, group.kv_indptr, self._group)  # type: ignore[attr-defined]
            return
        plan, bucket = captured
        if covering := [other for other in self._fixed if other.covers(bucket)]:
            bucket = covering[-1]
        if bucket not in self._fixed:
            fixed = attention.fix(bucket, {})
            self._fixed[bucket] = fixed, [told(launch) for _, launch in fixed.plan.launches]
        fixed, before = self._fixed[bucket]
        attention.load(fixed, plan, batch, {})
        mine = {group.kind: group for group in plan.groups}
        for (largest, launch), info in zip(fixed.plan.launches, before, strict=True):
            assert told(launch) == info, "a graph has what its first plan said"
            group = mine[largest.kind]
            check_lists(launch._wrapper, group.qo_indptr, group.kv_indptr, self._group)  # type: ignore[attr-defined]
            self.planned["captured"] += 1


def told(launch: Any) -> list[int]:
    return [int(each) for each in launch._wrapper._plan_info]


def main(seed: int, rounds: int) -> None:
    empty = torch.empty
    torch.empty = lambda *size, pin_memory=False, **given: empty(*size, **given)  # without CUDA nothing is page-locked
    config, cpu = LLAMA_8B, torch.device("cpu")
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], 8)
    store = DeviceKV(1, SLOTS, config.num_kv_heads, config.head_dim, torch.bfloat16, cpu)
    what = Attention(config.num_heads, config.num_kv_heads, config.head_dim, torch.bfloat16, torch.bfloat16, True)
    library = Library(BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper)
    attention = FlashInferAttention(
        store, rope, what, library, TorchOps(), blocks=264, scratch=65_536, workspace_bytes=512 << 20
    )
    planner = Planner(attention, config.num_heads // config.num_kv_heads)
    engine = Engine(Model(config, planner, attention, SLOTS, 2, lambda layer: (store.k[layer], store.v[layer])))
    draw = random.Random(seed)
    for _ in range(rounds):
        with engine.workflow():
            names = tuple(f"m{i}" for i in range(draw.randrange(1, 20)))
            engine.submit([engine.calls.text(name, draw.choice([1, 17, 511, 512, 513, 3000])) for name in names])
            engine.run()
            for i in range(draw.choice([1, 3, 17, 70, 130])):
                parents = tuple(draw.sample(names, draw.randrange(len(names) + 1)))
                engine.submit([engine.calls.answer(f"c{i}", 3, parents, header=draw.choice([1, 2, 9, 140]))])
            engine.run()
    print(*(f"{count} {kind}" for kind, count in sorted(planner.planned.items())), f"{len(planner._fixed)} buckets")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
