"""What computes the steps of a server, by its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from pavane.cache import Costs, Tier
from pavane.kernels.batch import Runner
from pavane.kernels.host import HostTier
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.cpu import cpu_forward
from pavane.models.loader import LoadedModel
from pavane.models.memory import check_fits
from pavane.models.runner import ModelRunner
from pavane.server.config import ConfigError, ServerConfig

MakeRunner = Callable[[LoadedModel, ServerConfig, int], Runner]


def make_runner(loaded: LoadedModel, config: ServerConfig, max_model_len: int) -> Runner:
    check_tables(loaded.config, config, max_model_len)
    frequencies, scale = rope_frequencies(loaded.config.rope, loaded.config.head_dim)
    rope = RopeTable(frequencies, max_model_len + 1, scale)
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    forward = cpu_forward(loaded, rope, config.num_slots, dtype=dtype, batch_invariant=config.batch_invariant)
    if not config.host_cache_gb:
        return ModelRunner(forward)
    try:
        return ModelRunner(forward, Mover(HostTier(forward.pages(), _host_bytes(config))))
    except ValueError as error:
        raise ConfigError(f"--host-cache-gb is {config.host_cache_gb:g}: {error}; give more, or 0 for none") from None


def _host_bytes(config: ServerConfig) -> int:
    return int(config.host_cache_gb * 1e9)


def tier_of(runner: Runner) -> Tier | None:
    """The bookkeeping of the tier that the runner has, if it has one."""
    if not isinstance(runner, ModelRunner) or runner.mover is None:
        return None
    tier = runner.mover.tier
    return Tier(tier.capacity // tier.page_bytes, PAGE, Costs(tier.page_bytes // PAGE))


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
    size = 4 if config.dtype == "float32" else 2
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * size


def digest_of(loaded: LoadedModel) -> bytes:
    """Of what decides the encodings: the config, and the files of the weights or the seed of random ones."""
    digest = hashlib.blake2b(repr((loaded.config, loaded.seed)).encode())
    for path in loaded.files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.digest()
