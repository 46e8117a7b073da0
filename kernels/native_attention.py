"""DAG attention on a CPU by the C++ kernel: a step's plan, and one call per layer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.kv import BlockedKVStore
from pavane.kernels.native_build import NoNativeKernelError, load_native
from pavane.kernels.rope import RopeTable


class PlanStruct(ctypes.Structure):
    """Plan of native/attention.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rows", "pairs", "segments", "heads", "kv_heads", "dim", "half", "pad")),
        ("slots", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "row_slots", "key_cos", "key_sin", "extents", "extent_indptr", "row_indptr", "own", "pair_rows",
                "query_cos", "query_sin", "partial_begin", "merge_indptr", "merge_pairs", "partials",
            )
        ),
    ]  # fmt: skip


class _InputsStruct(ctypes.Structure):
    """Inputs of native/attention.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v")),
        *((name, ctypes.c_int64) for name in ("q_stride", "k_stride", "v_stride")),
    ]


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's attention, the same for all layers; keeps alive what the struct points to."""

    struct: PlanStruct
    arrays: tuple[npt.NDArray[np.generic] | torch.Tensor, ...]


class Planner:
    """Makes plans for one cache. Raises NoNativeKernelError where the kernels cannot work."""

    def __init__(self, store: BlockedKVStore, rope: RopeTable, heads: int) -> None:
        self.library = load_native()
        _, kv_heads, slots, dim = store.shape
        if dim % 2 or dim > self.library.pavane_max_dim() or heads // kv_heads > self.library.pavane_max_group():
            raise NoNativeKernelError(f"the kernels do not take head_dim {dim} with {heads}/{kv_heads} heads")
        self._chunk = int(self.library.pavane_chunk())
        self._rope = rope
        self._shape = (heads, kv_heads, dim, slots)
        self._half = store.dtype is torch.bfloat16
        self._scratch = torch.empty(0)

    def plan(self, batch: Batch) -> NativePlan:
        heads, kv_heads, dim, slots = self._shape
        n, pairs, segments = batch.n_rows, batch.n_pairs, batch.n_segments
        half = dim // 2
        positions = torch.from_numpy(batch.positions[:n]).long()
        pair_rows = batch.pair_rows[:pairs]
        query_at = positions[torch.from_numpy(pair_rows).long()] - torch.from_numpy(batch.pair_deltas[:pairs]).long()
        key_cos, key_sin = self._rope.at(positions)
        query_cos, query_sin = self._rope.at(query_at)
        ends = np.concatenate([[0], np.cumsum(batch.extents[:, 1], dtype=np.int64)])  # padding counts in no segment
        lengths = np.diff(ends[batch.extent_indptr[: segments + 1]])
        chunks = np.repeat(-(-lengths // self._chunk), np.diff(batch.row_indptr[: segments + 1]))
        begin = _indptr(chunks)
        needed = int(begin[-1]) * heads * (dim + 2)
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        tables = [  # the rotate-half tables have every angle twice, sin with its sign: the second half is the plain one
            t[:, 0, half:].contiguous() for t in (key_cos, key_sin, query_cos * dim**-0.5, query_sin * dim**-0.5)
        ]
        ints = {
            "row_slots": batch.slots,
            "extents": batch.extents,
            "extent_indptr": batch.extent_indptr,
            "row_indptr": batch.row_indptr,
            "own": batch.own,
            "pair_rows": batch.pair_rows,
            "partial_begin": begin,
            "merge_indptr": _indptr(np.bincount(pair_rows, minlength=n)),
            "merge_pairs": np.argsort(pair_rows, kind="stable").astype(np.int32),
        }
        arrays = {name: np.ascontiguousarray(array, dtype=np.int32) for name, array in ints.items()}
        struct = PlanStruct(
            rows=n, pairs=pairs, segments=segments, heads=heads, kv_heads=kv_heads, dim=dim, half=self._half,
            slots=slots,
            key_cos=tables[0].data_ptr(), key_sin=tables[1].data_ptr(),
            query_cos=tables[2].data_ptr(), query_sin=tables[3].data_ptr(),
            partials=self._scratch.data_ptr(),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )  # fmt: skip
        return NativePlan(struct, (*arrays.values(), *tables, self._scratch))


class NativeAttention:
    """The attention backend for CPUs where the model's other layers run in torch. Batch-invariant by construction, as
    long as segments are laid out per call. Raises NoNativeKernelError where it cannot work; TorchAttention can."""

    def __init__(self, store: BlockedKVStore, rope: RopeTable, heads: int) -> None:
        if store.dtype is not torch.float32:
            raise ValueError(f"attention alone needs a float32 cache, not {store.dtype}")
        self._planner = Planner(store, rope, heads)
        self._attend = self._planner.library.pavane_attend
        pointer = ctypes.c_void_p
        self._attend.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_int, pointer]
        self._attend.restype = None
        self._store = store
        self._layers = [(store.k[i].data_ptr(), store.v[i].data_ptr()) for i in range(store.shape[0])]

    def plan(self, batch: Batch) -> NativePlan:
        return self._planner.plan(batch)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: NativePlan) -> torch.Tensor:
        """Like TorchAttention.attend; the result is float32."""
        q, k, v = (
            x if x.dtype is torch.float32 and x.stride()[1:] == (x.shape[2], 1) else x.float().contiguous()
            for x in (q, k, v)
        )
        inputs = _InputsStruct(q.data_ptr(), k.data_ptr(), v.data_ptr(), q.stride(0), k.stride(0), v.stride(0))
        out = torch.empty(q.shape[0], q.shape[1] * q.shape[2])
        keys, values = self._layers[layer]
        self._attend(
            ctypes.byref(plan.struct), ctypes.byref(inputs), keys, values, torch.get_num_threads(), out.data_ptr()
        )
        return out


def _indptr(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
