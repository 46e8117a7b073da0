"""Random weights of a shape, and what runs them: on a CPU the plain forward pass, which stands in for a GPU's."""

from __future__ import annotations

import torch

from pavane.bench.gpu.engine import Model
from pavane.bench.gpu.section import NotHere
from pavane.bench.gpu.sizes import Sizes
from pavane.kernels.attention import TorchAttention
from pavane.kernels.kv import KVStore
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.decoder import Decoder
from pavane.models.dummy import dummy_weights
from pavane.models.runner import ModelRunner, TorchForward


def open_model(sizes: Sizes, device: torch.device) -> Model:
    """Raises NotHere, and what the models do."""
    if device.type == "cuda":
        raise NotHere("the forward pass on a GPU is not part of this version")
    config = sizes.config
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position, scale)
    store = KVStore(config.num_layers, config.num_kv_heads, sizes.slots, config.head_dim)
    attention = TorchAttention(store, rope, config.num_heads)
    weights = dummy_weights(config, torch.float32)
    runner = ModelRunner(TorchForward(Decoder(config, weights), attention))

    def stored(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return store.k[layer].transpose(0, 1), store.v[layer].transpose(0, 1)

    return Model(config, runner, attention, sizes.slots, 4, stored)
