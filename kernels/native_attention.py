"""DAG attention on a CPU by the C++ kernel: one call per layer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.kv import KVStore
from pavane.kernels.native_build import NoNativeKernelError, load_native
from pavane.kernels.rope import RopeTable

_DTYPES = (torch.float32, torch.bfloat16)


class _PlanStruct(ctypes.Structure):
    """Plan of dag_attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rows", "pairs", "segments", "heads", "kv_heads", "dim", "bf16")),
        ("slots", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "row_slots", "key_cos", "key_sin", "extents", "extent_indptr", "row_indptr", "own", "pair_rows",
                "query_cos", "query_sin", "partial_begin", "merge_indptr", "merge_pairs", "partials",
            )
        ),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's attention, the same for all layers; keeps alive what the struct points to."""

    struct: _PlanStruct
    arrays: tuple[npt.NDArray[np.generic] | torch.Tensor, ...]


class NativeAttention:
    """The attention backend for CPUs with a C++ compiler. Batch-invariant by construction, as long as segments are laid
    out per call. Raises NoNativeKernelError where it cannot work; TorchAttention can."""

    def __init__(self, store: KVStore, rope: RopeTable, heads: int) -> None:
        layers, kv_heads, slots, dim = store.k.shape
        self._library = load_native()
        if dim % 2 or dim > self._library.pavane_max_dim() or heads // kv_heads > self._library.pavane_max_group():
            raise NoNativeKernelError(
                f"the attention kernel does not take head_dim {dim} with {heads}/{kv_heads} heads"
            )
        self._chunk = int(self._library.pavane_chunk())
        self._attend = self._library.pavane_attend
        pointer, stride = ctypes.c_void_p, ctypes.c_int64
        self._attend.argtypes = [pointer, *(pointer, stride) * 3, pointer, pointer, pointer]
        self._attend.restype = None
        self._rope = rope
        self._store = store
        self._shape = (heads, kv_heads, dim, slots)
        self._layers = [(store.k[i].data_ptr(), store.v[i].data_ptr()) for i in range(layers)]
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
        struct = _PlanStruct(
            rows=n, pairs=pairs, segments=segments, heads=heads, kv_heads=kv_heads, dim=dim, slots=slots,
            key_cos=tables[0].data_ptr(), key_sin=tables[1].data_ptr(),
            query_cos=tables[2].data_ptr(), query_sin=tables[3].data_ptr(),
            partials=self._scratch.data_ptr(),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )  # fmt: skip
        return NativePlan(struct, (*arrays.values(), *tables, self._scratch))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: NativePlan) -> torch.Tensor:
        """Like TorchAttention.attend; the result has the dtype of q, which is float32 or bfloat16."""
        if q.dtype not in _DTYPES:
            q, k, v = q.float(), k.float(), v.float()
        q, k, v = (x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous() for x in (q, k, v))
        plan.struct.bf16 = q.dtype is torch.bfloat16
        out = torch.empty(q.shape[0], q.shape[1] * q.shape[2], dtype=q.dtype)
        keys, values = self._layers[layer]
        self._attend(
            ctypes.byref(plan.struct),
            q.data_ptr(), q.stride(0), k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0),
            keys, values, out.data_ptr(),
        )  # fmt: skip
        return out


def _indptr(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
