"""Weights of a GGUF file as a model of transformers. Its own GGUF loading would need another package (accelerate)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from pavane.models.config import ModelConfig
from pavane.models.errors import ModelError


def llama_of(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> Any:
    """transformers' Llama with the same weights, all in the dtype of the embedding, ready to infer.

    Raises:
        ModelError: it is not a plain Llama.
    """
    if config.rope.type != "default" or config.rope.divisors or config.qkv_bias or config.qk_norm:
        raise ModelError(
            f"{config.architecture} with rope {config.rope.type!r}, "
            f"qkv_bias {config.qkv_bias}, qk_norm {config.qk_norm}: "
            "the peer transformers measures plain Llama models; leave it out with --peer llama.cpp or --peer none"
        )
    transformers: Any = importlib.import_module("transformers")
    dtype = weights["embed_tokens.weight"].dtype
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
            max_position_embeddings=config.max_position,
            tie_word_embeddings=config.tie_word_embeddings,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    ).to(dtype)
    names = {name: name if name.startswith("lm_head.") else f"model.{name}" for name in weights}
    state = {names[name]: tensor.to(dtype) for name, tensor in weights.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()
