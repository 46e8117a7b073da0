"""GGUF files of tiny models, as the converters of llama.cpp lay them out."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Quant

from pavane.models.config import ModelConfig

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def vocabulary(size: int) -> list[str]:
    """Tokens of a byte-level BPE; the first is a control token."""
    return ["<|end|>", *(chr(0x100 + i) for i in range(size - 1))]


def stored(config: ModelConfig, weights: dict[str, torch.Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors by GGUF's names; llama's rows of q and k with the two halves of each head interleaved."""
    tensors = {}
    for name, weight in weights.items():
        *path, last, suffix = name.split(".")
        array = weight.numpy()
        if config.architecture == "llama" and last in ("q_proj", "k_proj"):
            heads = config.num_heads if last == "q_proj" else config.num_kv_heads
            array = array.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(array.shape)
        prefix = f"blk.{path[1]}." if path else ""
        tensors[f"{prefix}{NAMES[last]}.{suffix}"] = array
    return tensors


def write_gguf(
    path: Path,
    config: ModelConfig,
    tensors: dict[str, npt.NDArray[Any]],
    kinds: dict[str, Quant] | None = None,
    **fields: float | str,
) -> Path:
    """`kinds` are the types of tensors given as raw blocks; `fields` are the architecture's, with __ for a dot."""
    architecture = config.architecture
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    for key, value in fields.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = vocabulary(config.vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges([f"{tokens[1]} {tokens[2]}"])
    writer.add_eos_token_id(0)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
