"""The GPU's attention backend on a CPU, FlashInfer's kernels stood in for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.carrier import DeviceCarrier
from pavane.kernels.gpu.copies import TorchCopies
from pavane.kernels.gpu.ops import Ops, TorchOps
from pavane.kernels.gpu.pieces import WHOLE
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention, MakeLaunch
from pavane.kernels.host_mover import host_mover
from pavane.kernels.linear import tiled_linear
from pavane.kernels.moves import Mover
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.decoder import Linear
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_runner import GpuModel, GpuRunner
from support.flashinfer_standin import STAND_IN
from support.late_device import LateDevice
from support.late_stream import LateStream, library_on
from support.row_by_row import RowByRow, RowOps

CPU = torch.device("cpu")


class ReadableKV(DeviceKV):
    """With the stores' methods for tests; begins as zeros, so that all of it can be compared."""

    def __init__(self, layers: int, kv_heads: int, slots: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__(layers, slots, kv_heads, head_dim, dtype, CPU)
        self.k.zero_()
        self.v.zero_()

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies, each [kv_heads, slots, head_dim]."""
        k, v = (x[layer, :-1].transpose(0, 1).clone() for x in (self.k, self.v))
        return k, v

    def write(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Each [kv_heads, slots, head_dim]."""
        self.k[layer, :-1].copy_(k.transpose(0, 1))
        self.v[layer, :-1].copy_(v.transpose(0, 1))


def standing_in(
    store: DeviceKV, rope: RopeTable, heads: int, *, blocks: int = 264, scratch: int = 1000,
    dtype: torch.dtype = torch.float32, hopper: bool = True, k_scale: float = 1.0, v_scale: float = 1.0,
    stream: LateStream | None = None, ops: Ops | None = None, tiles: MakeLaunch | None = None,
) -> FlashInferAttention:  # fmt: skip
    _, _, kv_heads, head_dim = store.k.shape
    what = Attention(heads, kv_heads, head_dim, dtype, store.k.dtype, hopper, k_scale, v_scale)
    library = STAND_IN if stream is None else library_on(stream)
    return FlashInferAttention(
        store, rope, what, library, ops or TorchOps(), blocks=blocks, scratch=scratch, workspace_bytes=64 << 20,
        stream=stream, tiles=tiles,
    )  # fmt: skip


def again(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
    """In place of capturing: what ran is run again, on the tensors it was given."""
    out = run()

    def replay() -> None:
        out.copy_(run())

    return out, replay


class Invariant(NamedTuple):
    """What does not depend on the batch."""

    ops: Ops
    linear: Linear
    tiles: MakeLaunch
    dtype: torch.dtype = torch.float32


IN_TORCH = Invariant(RowOps(), tiled_linear, RowByRow)


def invariant_runner(
    config: ModelConfig, weights: dict[str, torch.Tensor], slots: int, own: Invariant = IN_TORCH, *,
    graphs: bool = False,
) -> GpuRunner:  # fmt: skip
    """As `--batch-invariant` has it."""
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position + 1, scale)
    store = ReadableKV(config.num_layers, config.num_kv_heads, slots, config.head_dim, own.dtype)
    decoder = GpuDecoder(config, dict(weights), own.ops, own.dtype, CPU, own.linear)
    attention = standing_in(
        store, rope, config.num_heads, blocks=WHOLE, scratch=0, dtype=own.dtype, ops=own.ops, tiles=own.tiles
    )
    return GpuRunner(GpuModel(decoder, attention, own.ops, CPU, lambda: None, again if graphs else None), slots)


def standing_in_runner(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    slots: int,
    *,
    host_pages: int = 0,
    graphs: bool = False,
    stream: LateStream | None = None,
    late: LateDevice | None = None,
) -> GpuRunner:
    """In float32, so that results can be compared with the oracle's. `late`, if given, carries KV to the host."""
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position + 1, scale)
    store = ReadableKV(config.num_layers, config.num_kv_heads, slots, config.head_dim, torch.float32)
    decoder = GpuDecoder(config, dict(weights), TorchOps(), torch.float32, CPU)
    attention = standing_in(store, rope, config.num_heads, stream=stream)
    runner = GpuRunner(GpuModel(decoder, attention, TorchOps(), CPU, lambda: None, again if graphs else None), slots)
    if host_pages:
        layout = runner.pages()
        runner.mover = host_mover(layout, host_pages * layout.page_bytes)
        if late is not None:
            carrier = DeviceCarrier(layout.parts, late.streams, TorchCopies(), chunk_bytes=layout.page_bytes)
            runner.mover = Mover(runner.mover.tier, carrier)
    return runner
