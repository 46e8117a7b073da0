"""A Llama or Qwen with random weights, small enough for thousands of steps."""

from typing import Any

import torch

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig


def tiny_config(**changes: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "architecture": "llama",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope": RopeParameters(10_000.0),
        "max_position": 512,
        "tie_word_embeddings": True,
        "qkv_bias": False,
        "qk_norm": False,
        "window": None,
    }
    return ModelConfig(**{**fields, **changes})


def tiny_weights(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    c = config
    weights = {"embed_tokens.weight": matrix(c.vocab_size, c.hidden_size) * 2}
    for i in range(c.num_layers):
        p = f"layers.{i}."
        weights |= {
            p + "input_layernorm.weight": torch.rand(c.hidden_size, generator=generator) + 0.5,
            p + "self_attn.q_proj.weight": matrix(c.num_heads * c.head_dim, c.hidden_size) * 2,
            p + "self_attn.k_proj.weight": matrix(c.num_kv_heads * c.head_dim, c.hidden_size) * 2,
            p + "self_attn.v_proj.weight": matrix(c.num_kv_heads * c.head_dim, c.hidden_size),
            p + "self_attn.o_proj.weight": matrix(c.hidden_size, c.num_heads * c.head_dim),
            p + "post_attention_layernorm.weight": torch.rand(c.hidden_size, generator=generator) + 0.5,
            p + "mlp.gate_proj.weight": matrix(c.intermediate_size, c.hidden_size),
            p + "mlp.up_proj.weight": matrix(c.intermediate_size, c.hidden_size),
            p + "mlp.down_proj.weight": matrix(c.hidden_size, c.intermediate_size),
        }
        if c.qkv_bias:
            for name, heads in (("q", c.num_heads), ("k", c.num_kv_heads), ("v", c.num_kv_heads)):
                weights[f"{p}self_attn.{name}_proj.bias"] = torch.randn(heads * c.head_dim, generator=generator)
        if c.qk_norm:
            for name in "qk":
                weights[f"{p}self_attn.{name}_norm.weight"] = torch.rand(c.head_dim, generator=generator) + 0.5
    weights["norm.weight"] = torch.rand(c.hidden_size, generator=generator) + 0.5
    if not c.tie_word_embeddings:
        weights["lm_head.weight"] = matrix(c.vocab_size, c.hidden_size)
    return weights
