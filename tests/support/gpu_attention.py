"""The GPU's attention backend on a CPU, FlashInfer's kernels stood in for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention
from pavane.kernels.host import HostTier
from pavane.kernels.moves import Mover
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_runner import GpuModel, GpuRunner
from support.flashinfer_standin import STAND_IN
from support.late_stream import LateStream, library_on

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
    stream: LateStream | None = None,
) -> FlashInferAttention:  # fmt: skip
    _, _, kv_heads, head_dim = store.k.shape
    what = Attention(heads, kv_heads, head_dim, dtype, store.k.dtype, hopper, k_scale, v_scale)
    library = STAND_IN if stream is None else library_on(stream)
    return FlashInferAttention(
        store, rope, what, library, TorchOps(), blocks=blocks, scratch=scratch, workspace_bytes=1024, stream=stream
    )  # fmt: skip


def again(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
    """In place of capturing: what ran is run again, on the tensors it was given."""
    out = run()

    def replay() -> None:
        out.copy_(run())

    return out, replay


def standing_in_runner(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    slots: int,
    *,
    host_pages: int = 0,
    graphs: bool = False,
    stream: LateStream | None = None,
) -> GpuRunner:
    """In float32, so that results can be compared with the oracle's."""
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position + 1, scale)
    store = ReadableKV(config.num_layers, config.num_kv_heads, slots, config.head_dim, torch.float32)
    decoder = GpuDecoder(config, dict(weights), TorchOps(), torch.float32, CPU)
    attention = standing_in(store, rope, config.num_heads, stream=stream)
    runner = GpuRunner(GpuModel(decoder, attention, TorchOps(), CPU, lambda: None, again if graphs else None), slots)
    if host_pages:
        layout = runner.pages()
        runner.mover = Mover(HostTier(layout, host_pages * layout.page_bytes))
    return runner
