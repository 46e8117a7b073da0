"""A model on an NVIDIA GPU: weights brought there, kernels warmed up, memory measured, the KV pool made of the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pavane.kernels.batch import Batch, RunnerLostError
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.ops import Ops
from pavane.kernels.gpu.pieces import WHOLE
from pavane.kernels.gpu.scaled import FLOAT8
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention, Library, MakeLaunch
from pavane.kernels.rope import RopeTable
from pavane.models.config import ModelConfig
from pavane.models.decoder import Linear
from pavane.models.errors import ModelError
from pavane.models.gpu_check import HOPPER
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_float8 import Float8Decoder
from pavane.models.gpu_graphs import Record, cuda_recorder
from pavane.models.gpu_memory import Used, pool_slots
from pavane.models.gpu_runner import GpuModel, GpuRunner
from pavane.models.gpu_toolkit import point_to_toolkit
from pavane.models.gpu_warmup import decode_sizes, largest_step, step, warm_up_steps

log = logging.getLogger(__name__)

SCRATCH_KEYS = 65_536  # rotated at once, in each layer
WORKSPACE_BYTES = 512 << 20  # for the partial results that FlashInfer's kernels split off themselves
BLOCKS_PER_SM = 2  # that FlashInfer's scheduler counts with
GRAPHS = 1 << 30


class Wanted(NamedTuple):
    """What is asked of the runner."""

    slots: int  # 0: as many as fit
    utilization: float
    most_rows: int
    most_samples: int
    dtype: torch.dtype = torch.bfloat16  # or float32, which FlashInfer does not have
    batch_invariant: bool = False
    staging: int = 0  # bytes that stay free for what carries KV to host memory
    float8_kv: bool = False
    float8_weights: bool = False

    @property
    def kv_dtype(self) -> torch.dtype:
        return FLOAT8 if self.float8_kv else self.dtype

    @property
    def tiles(self) -> bool:
        """Attention is that of `Device.tiles`."""
        return self.batch_invariant or self.dtype is torch.float32


class Device(NamedTuple):
    """A GPU, or for tests what stands in for one."""

    device: torch.device
    hopper: bool
    blocks: int  # thread blocks at a time
    flashinfer: Library
    ops: Ops
    measure: Callable[[], Used]
    check: Callable[[], None]  # raises RuntimeError if the device does not answer
    record: Record | None  # how graphs are captured
    linear: Linear  # batch-invariant
    tiles: MakeLaunch  # batch-invariant


def gpu_runner(
    config: ModelConfig, weights: dict[str, torch.Tensor], rope: RopeTable, wanted: Wanted, gpu: Device
) -> GpuRunner:
    """Takes the entries out of `weights`, which are named as those of LoadedModel, and all of them.

    Raises:
        ModelError: not enough memory, or FlashInfer's kernels cannot be built; the text says what to do.
    """
    try:
        if wanted.float8_weights:
            decoder: GpuDecoder = Float8Decoder(config, weights, gpu.ops, wanted.dtype, gpu.device)
        else:
            linear = gpu.linear if wanted.batch_invariant else F.linear
            decoder = GpuDecoder(config, weights, gpu.ops, wanted.dtype, gpu.device, linear)
    except torch.OutOfMemoryError:
        smaller = (
            "choose a smaller model"
            if wanted.float8_weights or wanted.tiles
            else "use --quantization fp8, or a smaller model"
        )
        raise ModelError(f"the model's weights do not fit the GPU's memory; {smaller}") from None
    gpu = _warm(config, decoder, rope, wanted, gpu)
    if wanted.slots:
        slots = wanted.slots
    else:
        slot_bytes = DeviceKV.slot_bytes(config.num_layers, config.num_kv_heads, config.head_dim, wanted.kv_dtype)
        slots = pool_slots(gpu.measure(), wanted.utilization, slot_bytes, GRAPHS + wanted.staging, wanted.most_rows)
    if gpu.device.type == "cuda":
        torch.cuda.empty_cache()  # of the warm-up's small pool
    try:
        made = _runner(config, decoder, rope, slots, wanted, gpu)
    except torch.OutOfMemoryError:
        raise ModelError(f"{slots} slots of KV do not fit the GPU's memory; use a smaller --num-slots") from None
    for rows in decode_sizes(wanted.most_samples):
        made.execute(step([1] * rows, rope.origin, before=0))
    log.info("%d slots of KV on the GPU, in %s", slots, str(wanted.kv_dtype).removeprefix("torch."))
    return made


def _warm(config: ModelConfig, decoder: GpuDecoder, rope: RopeTable, wanted: Wanted, gpu: Device) -> Device:
    """Builds every kernel, and runs the largest step, with a pool that is just large enough. The device without
    FlashInfer's kernels for Hopper if these cannot be built, as with a toolkit that lacks their headers."""
    steps = [
        *warm_up_steps(rope.origin),
        ("the largest step", largest_step(wanted.most_rows, wanted.most_samples, rope.origin)),
    ]
    slots = max(int(batch.slots.max()) for _, batch in steps) + 1
    if gpu.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    runner = _runner(config, decoder, rope, slots, wanted, gpu._replace(record=None))
    for number, (what, batch) in enumerate(steps, 1):
        began = time.monotonic()
        note = "kernels that are built for the first time take minutes"
        log.info("warming up %d of %d: %s (%s)", number, len(steps), what, note)
        try:
            runner.execute(batch)
        except (MemoryError, RunnerLostError) as error:
            raise ModelError(str(error)) from None
        except RuntimeError as error:  # of nvcc or ninja
            if wanted.tiles or not gpu.hopper:
                whose = "Triton's" if wanted.tiles else "FlashInfer's"
                raise ModelError(f"{whose} kernels cannot be built ({what}): {error}; use --device cpu") from error
            log.warning("long prefills are slower, without FlashInfer's kernels for Hopper (%s): %s", what, error)
            return _warm(config, decoder, rope, wanted, gpu._replace(hopper=False))
        log.info("done in %.1f s", time.monotonic() - began)
    if wanted.float8_kv and (cut := _share_at_the_limit(runner, steps[-1][1])):
        log.warning(
            "%.2g %% of the warm-up's K and V are beyond what fp8 holds and were cut: answers suffer, and "
            "--kv-cache-dtype auto keeps them whole",
            100 * cut,
        )
    return gpu


def _share_at_the_limit(runner: GpuRunner, batch: Batch) -> float:
    """Of the numbers that the rows of `batch` stored: models whose keys have large biases reach it with any tokens."""
    store = runner.model.attention.store
    slots = torch.from_numpy(batch.slots[: batch.n_rows]).to(store.k.device)
    limit = torch.finfo(store.k.dtype).max
    # As bytes: not every version of torch picks rows of float8 on a device.
    kept = (layer.view(torch.uint8).index_select(0, slots) for pool in (store.k, store.v) for layer in pool)
    return float(torch.stack([(x.view(store.k.dtype).float().abs() >= limit).float().mean() for x in kept]).mean())


def _runner(
    config: ModelConfig, decoder: GpuDecoder, rope: RopeTable, slots: int, wanted: Wanted, gpu: Device
) -> GpuRunner:
    kv_dtype = wanted.kv_dtype
    store = DeviceKV(config.num_layers, slots, config.num_kv_heads, config.head_dim, kv_dtype, gpu.device)
    what = Attention(config.num_heads, config.num_kv_heads, config.head_dim, decoder.dtype, kv_dtype, gpu.hopper)
    attention = FlashInferAttention(
        store,
        rope,
        what,
        gpu.flashinfer,
        gpu.ops,
        blocks=WHOLE if wanted.batch_invariant else gpu.blocks,
        scratch=0 if wanted.tiles else SCRATCH_KEYS,
        workspace_bytes=0 if wanted.tiles else WORKSPACE_BYTES,
        tiles=gpu.tiles if wanted.tiles else None,
    )
    return GpuRunner(GpuModel(decoder, attention, gpu.ops, gpu.device, gpu.check, gpu.record), slots)


def this_gpu(*, eager: bool) -> Device:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, once `gpu_check.check` is content; no graphs if `eager`."""
    point_to_toolkit()
    # Only here: FlashInfer and Triton want a GPU, or at least their packages.
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper

    from pavane.kernels.gpu.invariant.launch import TileLaunch
    from pavane.kernels.gpu.invariant.linear import invariant_linear
    from pavane.kernels.gpu.ops_triton import TritonOps

    device = torch.device("cuda", 0)
    properties = torch.cuda.get_device_properties(device)
    library = Library(BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper)

    def measure() -> Used:
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.synchronize(device)
        others = total - free - torch.cuda.memory_reserved(device)
        # What the pool of the warm-up takes is small beside what is reserved for graphs.
        return Used(total, others, torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))

    return Device(
        device, properties.major == HOPPER, BLOCKS_PER_SM * properties.multi_processor_count, library, TritonOps(),
        measure, lambda: torch.cuda.synchronize(device), None if eager else cuda_recorder(),
        invariant_linear, TileLaunch,
    )  # fmt: skip
