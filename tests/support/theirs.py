"""The same model as transformers has it."""

import warnings
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig

CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def rope_fields(rope: RopeParameters) -> dict[str, Any]:
    """`rope_parameters` of a config.json."""
    fields: dict[str, Any] = {"rope_type": rope.type, "rope_theta": rope.theta}
    if rope.type != "default":
        fields["factor"] = rope.factor
    if rope.type in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = rope.original_max_position
    if rope.type == "llama3":
        fields |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.type == "yarn":
        fields |= {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "truncate": rope.truncate,
            "attention_factor": rope.attention_factor,
        }
    return fields


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json."""
    return {
        "architectures": [f"{CLASSES[config.architecture]}ForCausalLM"],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": rope_fields(config.rope),
        "sliding_window": config.window,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def transformers_model(config: ModelConfig, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The class of transformers with these weights, in float32, evaluating."""
    name = CLASSES[config.architecture]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields = config_fields(config) | {"attn_implementation": "eager"}
        model: PreTrainedModel = getattr(transformers, f"{name}ForCausalLM")(
            getattr(transformers, f"{name}Config")(**fields)
        )
    state = {n if n.startswith("lm_head") else f"model.{n}": weight for n, weight in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    model.tie_weights()
    return model.eval()
