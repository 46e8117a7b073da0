"""A Llama with random weights, small enough for thousands of steps."""

import torch

from pavane.models.config import ModelConfig


def tiny_config(**changes: int | float | bool | str) -> ModelConfig:
    fields: dict[str, int | float | bool | str] = {
        "architecture": "llama",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "max_position": 512,
        "tie_word_embeddings": True,
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


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
    weights["norm.weight"] = torch.rand(c.hidden_size, generator=generator) + 0.5
    if not c.tie_word_embeddings:
        weights["lm_head.weight"] = matrix(c.vocab_size, c.hidden_size)
    return weights
