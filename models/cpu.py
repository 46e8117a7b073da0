"""Which forward pass a CPU gets."""

from __future__ import annotations

import logging

import torch

from pavane.kernels.attention import TorchAttention
from pavane.kernels.kv import BlockedKVStore, KVStore
from pavane.kernels.native_attention import NativeAttention
from pavane.kernels.native_build import NoNativeKernelError
from pavane.kernels.rope import RopeTable
from pavane.models.decoder import Decoder
from pavane.models.errors import ModelError
from pavane.models.loaded import LoadedModel
from pavane.models.native import native_decoder
from pavane.models.runner import ForwardPass, TorchForward

log = logging.getLogger(__name__)


def cpu_forward(
    loaded: LoadedModel, rope: RopeTable, slots: int, *, dtype: torch.dtype, batch_invariant: bool
) -> ForwardPass:
    """The C++ kernels where they can be built, torch elsewhere: the same results up to rounding, in two to three times
    the time. In float32 only attention is C++. Takes the weights out of `loaded`. Raises ModelError."""
    config, weights = loaded.config, loaded.weights
    shape = (config.num_layers, config.num_kv_heads, slots, config.head_dim)
    try:
        if dtype is torch.bfloat16:
            store = BlockedKVStore(*shape, dtype)
            return native_decoder(config, weights, loaded.blocks, store, rope, batch_invariant=batch_invariant)
        attention = NativeAttention(BlockedKVStore(*shape, torch.float32), rope, config.num_heads)
        return TorchForward(Decoder(config, weights, batch_invariant=batch_invariant), attention)
    except NoNativeKernelError as error:
        if batch_invariant and dtype is not torch.float32:
            raise ModelError(f"--batch-invariant without the C++ kernels needs --dtype float32: {error}") from None
        log.warning("the model runs in torch, which is slower: %s", error)
    weights.update({name: blocks.to(dtype) for name, blocks in loaded.blocks.items()})
    model = Decoder(config, weights, batch_invariant=batch_invariant)
    return TorchForward(model, TorchAttention(KVStore(*shape), rope, config.num_heads, batch_invariant=batch_invariant))
