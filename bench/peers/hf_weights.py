"""Weights of a GGUF file as a model of transformers. Its own GGUF loading would need another package (accelerate)."""

from __future__ import annotations

import importlib
from typing import Any

from pavane.models.loader import LoadedModel


def llama_of(loaded: LoadedModel) -> Any:
    """transformers' Llama with the same weights, all in the dtype of the embedding, ready to infer."""
    transformers: Any = importlib.import_module("transformers")
    config = loaded.config
    dtype = loaded.weights["embed_tokens.weight"].dtype
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
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.max_position,
            tie_word_embeddings=config.tie_word_embeddings,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    ).to(dtype)
    names = {name: name if name.startswith("lm_head.") else f"model.{name}" for name in loaded.weights}
    state = {names[name]: tensor.to(dtype) for name, tensor in loaded.weights.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()
