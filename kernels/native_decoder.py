"""The forward pass of a decoder by the C++ kernels: one call per step, from tokens to logits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pavane.kernels.asked import Asked
from pavane.kernels.batch import Batch, Int32
from pavane.kernels.kv import BlockedKVStore
from pavane.kernels.native_attention import NO_MEMORY, Planner
from pavane.kernels.packing import LinearStruct, PackedLinear
from pavane.kernels.pages import SlotPages

ROUND_FROM = 48  # rows: below, rounding the weights costs more than it saves


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer's weights; norms float32, `q_norm` and `k_norm` [head_dim] or None."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    q: PackedLinear
    k: PackedLinear
    v: PackedLinear
    o: PackedLinear
    gate: PackedLinear
    up: PackedLinear
    down: PackedLinear


_NORMS = ("attention_norm", "mlp_norm", "q_norm", "k_norm")
_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


class _LayerStruct(ctypes.Structure):
    """Layer of native/decoder.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _NORMS),
        *((name, LinearStruct) for name in _LINEARS),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    ]


class _ModelStruct(ctypes.Structure):
    """Model of native/decoder.h."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("layers", "hidden", "inner", "heads", "kv_heads", "dim", "vocabulary", "threads", "round_from")
        ),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(_LayerStruct)),
        ("norm", ctypes.c_void_p),
        ("embedding", LinearStruct),
        ("head", LinearStruct),
    ]


class NativeDecoder:
    """RMSNorm, grouped-query attention with optional biases and q/k norms, SwiGLU; residuals and sums in float32,
    activations rounded to bfloat16 where they enter a product.

    With `batch_invariant`, a row's result depends on nothing else in the batch as long as segments are laid out per
    call. Without, weights of 4 and 8 bits are rounded to bfloat16 in steps of many rows, which is faster there."""

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        embedding: PackedLinear,
        norm: torch.Tensor,
        head: PackedLinear,
        store: BlockedKVStore,
        planner: Planner,
        *,
        heads: int,
        eps: float,
        batch_invariant: bool,
    ) -> None:
        self._planner = planner
        self._forward = self._planner.native.pavane_forward
        pointer = ctypes.c_void_p
        count = ctypes.c_int
        self._forward.argtypes = [pointer, pointer, pointer, count, pointer, pointer, count, pointer, pointer]
        self._forward.restype = ctypes.c_int
        self._head = self._planner.native.pavane_head
        self._head.argtypes = [pointer, count, pointer, pointer]
        self._head.restype = ctypes.c_int
        self._alive = (tuple(layers), embedding, norm, head)
        self._store = store
        _, kv_heads, _, dim = store.shape
        structs = (_LayerStruct * len(layers))()
        for i, (struct, layer) in enumerate(zip(structs, layers, strict=True)):
            for name in _NORMS:
                tensor = getattr(layer, name)
                setattr(struct, name, None if tensor is None else tensor.data_ptr())
            for name in _LINEARS:
                setattr(struct, name, getattr(layer, name).struct)
            struct.keys, struct.values = store.k[i].data_ptr(), store.v[i].data_ptr()
        self.vocab_size = int(head.struct.outputs)
        self.hidden_size = int(embedding.struct.inputs)
        self._logits = torch.empty((0, self.vocab_size))  # of the last step
        self._model = _ModelStruct(
            layers=len(layers), hidden=embedding.struct.inputs, inner=layers[0].gate.struct.outputs,
            heads=heads, kv_heads=kv_heads, dim=dim, vocabulary=self.vocab_size, eps=eps,
            round_from=0 if batch_invariant else ROUND_FROM,
            layer=structs, norm=norm.data_ptr(), embedding=embedding.struct, head=head.struct,
        )  # fmt: skip

    def logits(self, batch: Batch, tokens: Int32, asked: Asked | None = None) -> torch.Tensor:
        """Runs a step; `tokens` [n_rows] are its inputs. Float32 [samples.count, vocab_size], until the next step."""
        plan = self._planner.plan(batch)
        count = batch.samples.count
        if len(self._logits) < count:
            self._logits = torch.empty((count, self.vocab_size))
        out = self._logits[:count]
        inputs = torch.from_numpy(tokens)
        rows = torch.from_numpy(batch.samples.rows[:count])
        states = asked.states if asked is not None else None
        kept = torch.from_numpy(batch.scores.rows) if states is not None and batch.scores is not None else rows[:0]
        self._model.threads = torch.get_num_threads()
        failed = self._forward(
            ctypes.byref(self._model), ctypes.byref(plan.struct), inputs.data_ptr(), count, rows.data_ptr(),
            out.data_ptr(), len(kept), kept.data_ptr(), None if states is None else states.data_ptr(),
        )  # fmt: skip
        if failed:
            raise MemoryError(NO_MEMORY)
        if asked is not None and asked.shares is not None and plan.shares is not None:
            torch.div(plan.shares, self._model.layers * self._model.heads, out=asked.shares)
        return out

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """The logits, float32 [n, vocab_size], of final hidden states, contiguous float32 [n, hidden_size]."""
        out = torch.empty((len(states), self.vocab_size))
        self._model.threads = torch.get_num_threads()
        if self._head(ctypes.byref(self._model), len(states), states.data_ptr(), out.data_ptr()):
            raise MemoryError(NO_MEMORY)
        return out

    def pages(self) -> SlotPages:
        """See AttentionBackend."""
        return SlotPages(self._store.parts())
