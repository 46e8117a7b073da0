"""A model's weights, packed for the C++ forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pavane.kernels.kv import BlockedKVStore
from pavane.kernels.native_attention import Planner
from pavane.kernels.native_decoder import DecoderLayer, NativeDecoder
from pavane.kernels.packing import PackedLinear, pack
from pavane.kernels.rope import RopeTable
from pavane.models.config import ModelConfig
from pavane.models.gguf_quants import Blocks


def native_decoder(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    blocks: Mapping[str, Blocks],
    store: BlockedKVStore,
    rope: RopeTable,
    *,
    batch_invariant: bool,
) -> NativeDecoder:
    """Takes the entries out of `weights` as it packs them.

    Raises:
        NoNativeKernelError: the kernels cannot work here; `weights` are untouched.
        ModelError: a scale of `blocks` is not finite.
    """
    planner = Planner(store, rope, config.num_heads)
    taken = _Taken(weights, blocks)
    embedding = taken.linear("embed_tokens")
    head = embedding if config.tie_word_embeddings else taken.linear("lm_head")
    norm = taken.vector("norm.weight")
    layers = [_layer(taken, f"layers.{i}.", config) for i in range(config.num_layers)]
    return NativeDecoder(
        layers, embedding, norm, head, store, planner,
        heads=config.num_heads, eps=config.rms_norm_eps, batch_invariant=batch_invariant,
    )  # fmt: skip


class _Taken:
    def __init__(self, weights: dict[str, torch.Tensor], blocks: Mapping[str, Blocks]) -> None:
        self._weights = weights
        self._blocks = blocks

    def linear(self, name: str, *, bias: bool = False) -> PackedLinear:
        kept = self._blocks.get(f"{name}.weight")
        weight = self._weights.pop(f"{name}.weight") if kept is None else kept.integers()
        return pack(weight, self.vector(f"{name}.bias") if bias else None)

    def vector(self, name: str) -> torch.Tensor:
        return self._weights.pop(name).to(torch.float32).contiguous()


def _layer(taken: _Taken, prefix: str, config: ModelConfig) -> DecoderLayer:
    attention, mlp, bias = f"{prefix}self_attn.", f"{prefix}mlp.", config.qkv_bias
    return DecoderLayer(
        attention_norm=taken.vector(f"{prefix}input_layernorm.weight"),
        mlp_norm=taken.vector(f"{prefix}post_attention_layernorm.weight"),
        q_norm=taken.vector(f"{attention}q_norm.weight") if config.qk_norm else None,
        k_norm=taken.vector(f"{attention}k_norm.weight") if config.qk_norm else None,
        q=taken.linear(f"{attention}q_proj", bias=bias),
        k=taken.linear(f"{attention}k_proj", bias=bias),
        v=taken.linear(f"{attention}v_proj", bias=bias),
        o=taken.linear(f"{attention}o_proj"),
        gate=taken.linear(f"{mlp}gate_proj"),
        up=taken.linear(f"{mlp}up_proj"),
        down=taken.linear(f"{mlp}down_proj"),
    )
