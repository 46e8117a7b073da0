"""What computes the steps of a server, by its settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from pavane.cache import Costs, Tier
from pavane.kernels.batch import Runner
from pavane.kernels.gpu.carrier import STAGING_BYTES
from pavane.kernels.host import TierError
from pavane.kernels.host_mover import host_mover
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models import gpu_check
from pavane.models.config import ModelConfig
from pavane.models.cpu import cpu_forward
from pavane.models.errors import ModelError
from pavane.models.gpu_runner import GpuRunner
from pavane.models.loader import LoadedModel
from pavane.models.memory import check_fits
from pavane.models.runner import ModelRunner
from pavane.server.config import ConfigError, ServerConfig

log = logging.getLogger(__name__)

MakeRunner = Callable[[LoadedModel, ServerConfig, int], Runner]


CPU_SLOTS = 16_384


def settled(config: ServerConfig) -> ServerConfig:
    """With the device that is meant, and on a CPU with the number of slots. Raises ModelError if there is no such
    device, or something that it needs is missing; ConfigError if it has not what is asked for."""
    device = _device(config)
    if device == "cpu" and config.float8:
        raise ConfigError(
            f"{config.float8[0]} fp8 needs a GPU, and the model would run on the CPU: leave it out, or use "
            "--device cuda, which says what is missing"
        )
    slots = config.num_slots if device == "cuda" else config.num_slots or CPU_SLOTS
    return replace(config, device=device, num_slots=slots)


def _device(config: ServerConfig) -> str:
    if config.device == "cuda":
        gpu_check.check(gpu_check.look(), float8=bool(config.float8))
    if config.device != "auto":
        return config.device
    if torch.version.cuda is None:
        return "cpu"
    found = gpu_check.look()
    try:
        gpu_check.check(found, float8=bool(config.float8))
    except ModelError as error:
        if found.name:
            log.warning("the GPU (%s) is not used: %s", found.name, error)
        return "cpu"
    return "cuda"


def slots_of(runner: Runner, config: ServerConfig) -> int:
    return runner.slots if isinstance(runner, GpuRunner) else config.num_slots


def make_runner(loaded: LoadedModel, config: ServerConfig, max_model_len: int) -> Runner:
    """For a config that is `settled`. Raises ModelError or ConfigError."""
    if config.device == "cuda":
        return _with_tier(_gpu_runner(loaded, config, max_model_len), config)
    check_tables(loaded.config, config, max_model_len)
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    rope = _rope(loaded.config, max_model_len)
    forward = cpu_forward(loaded, rope, config.num_slots, dtype=dtype, batch_invariant=config.batch_invariant)
    return _with_tier(ModelRunner(forward), config)


def _gpu_runner(loaded: LoadedModel, config: ServerConfig, max_model_len: int) -> GpuRunner:
    from pavane.models.cuda import Wanted, gpu_runner, this_gpu

    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    gpu_check.check_model(loaded.config)
    if config.quantization == "fp8":
        gpu_check.check_float8_sizes(loaded.config)
    wanted = Wanted(
        config.num_slots,
        config.gpu_memory_utilization,
        config.max_num_batched_tokens,
        config.max_num_seqs,
        dtype,
        config.batch_invariant,
        staging=STAGING_BYTES if config.host_cache_gb else 0,
        float8_kv=config.kv_cache_dtype == "fp8",
        float8_weights=config.quantization == "fp8",
    )
    weights = loaded.weights
    weights.update({name: blocks.to(dtype) for name, blocks in loaded.blocks.items()})
    rope = _rope(loaded.config, max_model_len)
    return gpu_runner(loaded.config, weights, rope, wanted, this_gpu(eager=config.enforce_eager))


def _rope(model: ModelConfig, max_model_len: int) -> RopeTable:
    frequencies, scale = rope_frequencies(model.rope, model.head_dim)
    return RopeTable(frequencies, max_model_len + 1, scale)


PCIE = 2e10  # bytes/s each way, a guess to begin with: a GPU encodes too fast for one that is far too low to be mended

R = TypeVar("R", ModelRunner, GpuRunner)


def _with_tier(runner: R, config: ServerConfig) -> R:
    if not config.host_cache_gb:
        return runner
    if config.device == "cuda":  # all of it is taken when it is locked
        check_fits(f"--host-cache-gb {config.host_cache_gb:g} takes", _host_bytes(config), "give less, or 0 for none")
    try:
        runner.mover = host_mover(runner.pages(), _host_bytes(config))
        return runner
    except ValueError as error:
        raise ConfigError(f"--host-cache-gb is {config.host_cache_gb:g}: {error}; give more, or 0 for none") from None
    except (MemoryError, TierError) as error:
        raise ConfigError(f"--host-cache-gb is {config.host_cache_gb:g}: {error}; give less, or 0 for none") from None
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the GPU has no memory left to gather KV in for --host-cache-gb {config.host_cache_gb:g}; use a smaller "
            "--num-slots or --gpu-memory-utilization, or 0 for none"
        ) from None


def _host_bytes(config: ServerConfig) -> int:
    return int(config.host_cache_gb * 1e9)


def mover_of(runner: Runner) -> Mover | None:
    return runner.mover if isinstance(runner, ModelRunner | GpuRunner) else None


def tier_of(runner: Runner) -> Tier | None:
    """The bookkeeping of the tier that the runner has, if it has one."""
    mover = mover_of(runner)
    if mover is None:
        return None
    tier = mover.tier
    token_bytes = tier.page_bytes // PAGE
    costs = Costs(token_bytes, bytes_per_s=PCIE) if isinstance(runner, GpuRunner) else Costs(token_bytes)
    return Tier(tier.capacity // tier.page_bytes, PAGE, costs)


def check_tables(model: ModelConfig, config: ServerConfig, positions: int) -> None:
    """That the KV pool and the table of rotations fit: the pool's memory is taken only while it is written."""
    pool = config.num_slots * slot_bytes(model, config)
    rotations = RopeTable.nbytes(positions + 1, model.head_dim)
    host = f" with --host-cache-gb {config.host_cache_gb:g}" if config.host_cache_gb else ""
    check_fits(
        f"--num-slots {config.num_slots} and {positions} positions{host} take",
        pool + rotations + _host_bytes(config),
        f"lower --num-slots ({pool / 1e9:.1f} GB){host and ', --host-cache-gb'} or --max-model-len "
        f"({rotations / 1e9:.1f} GB)",
    )


def slot_bytes(model: ModelConfig, config: ServerConfig) -> int:
    """Of K and V of one token in all layers."""
    size = 1 if config.kv_cache_dtype == "fp8" else 4 if config.dtype == "float32" else 2
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * size


def identity_of(loaded: LoadedModel, config: ServerConfig) -> bytes:
    """What the keys of all encodings begin with: equal tokens have equal KV only where all of this is equal."""
    dtype = "float32" if config.dtype == "float32" else "bfloat16"
    return digest_of(loaded) + f"{dtype}, KV {config.kv_cache_dtype}, weights {config.quantization}".encode()


def digest_of(loaded: LoadedModel) -> bytes:
    """Of what decides the encodings: the config, and the files of the weights or the seed of random ones."""
    digest = hashlib.blake2b(repr((loaded.config, loaded.seed)).encode())
    for path in loaded.files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.digest()
