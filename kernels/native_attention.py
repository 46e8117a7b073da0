"""DAG attention on a CPU by the C++ kernel: a step's plan, and one call per layer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch

from pavane.kernels.batch import Batch, Int32
from pavane.kernels.kv import BlockedKVStore
from pavane.kernels.native_build import NoNativeKernelError, load_native
from pavane.kernels.pages import SlotPages
from pavane.kernels.rope import RopeTable

_ARRAYS = ("extents", "extent_indptr", "row_indptr", "pair_rows", "pair_deltas", "own")


class PlanStruct(ctypes.Structure):
    """Plan of native/attention.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rows", "segments", "heads", "kv_heads", "dim", "half")),
        ("slots", ctypes.c_int64),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("origin", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("positions", "row_slots")),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        ("shares", ctypes.c_void_p),
    ]


NO_MEMORY = "no memory for the partial results of a step; use a smaller --max-num-batched-tokens"


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
    arrays: tuple[Int32, ...]
    shares: torch.Tensor | None  # see AttentionPlan


class Planner:
    """Makes plans for one cache. Raises NoNativeKernelError where the kernels cannot work."""

    def __init__(self, store: BlockedKVStore, rope: RopeTable, heads: int) -> None:
        self.native = load_native()
        _, kv_heads, slots, dim = store.shape
        if dim % 2 or dim > self.native.pavane_max_dim() or heads // kv_heads > self.native.pavane_max_group():
            raise NoNativeKernelError(f"the kernels do not take head_dim {dim} with {heads}/{kv_heads} heads")
        self._rope = rope
        self._constant = {
            "heads": heads, "kv_heads": kv_heads, "dim": dim, "half": store.dtype is torch.bfloat16, "slots": slots,
            "cos": rope.cos.data_ptr(), "sin": rope.sin.data_ptr(), "origin": rope.origin,
        }  # fmt: skip

    def plan(self, batch: Batch) -> NativePlan:
        given = {"positions": batch.positions, "row_slots": batch.slots}
        given.update((name, getattr(batch, name)) for name in _ARRAYS)
        arrays = {name: np.ascontiguousarray(array, dtype=np.int32) for name, array in given.items()}
        shares = None if batch.watched is None else torch.zeros(batch.n_pairs)
        struct = PlanStruct(
            rows=batch.n_rows,
            segments=batch.n_segments,
            shares=None if shares is None else shares.data_ptr(),
            **self._constant,
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        return NativePlan(struct, tuple(arrays.values()), shares)


class NativeAttention:
    """The attention backend for CPUs where the model's other layers run in torch. Batch-invariant by construction, as
    long as segments are laid out per call. Raises NoNativeKernelError where it cannot work; TorchAttention can."""

    def __init__(self, store: BlockedKVStore, rope: RopeTable, heads: int) -> None:
        if store.dtype is not torch.float32:
            raise ValueError(f"attention alone needs a float32 cache, not {store.dtype}")
        self._planner = Planner(store, rope, heads)
        self._attend = self._planner.native.pavane_attend
        pointer = ctypes.c_void_p
        self._attend.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_int, pointer]
        self._attend.restype = ctypes.c_int
        self._store = store
        self._layers = [(store.k[i].data_ptr(), store.v[i].data_ptr()) for i in range(store.shape[0])]

    def pages(self) -> SlotPages:
        return SlotPages(self._store.parts())

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
        failed = self._attend(
            ctypes.byref(plan.struct), ctypes.byref(inputs), keys, values, torch.get_num_threads(), out.data_ptr()
        )
        if failed:
            raise MemoryError(NO_MEMORY)
        return out
