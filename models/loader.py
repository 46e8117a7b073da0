"""A model file becomes a config, weights under Hugging Face's names, and a tokenizer."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pavane.models.config import ModelConfig, from_gguf_metadata
from pavane.models.errors import ModelError
from pavane.models.gguf_file import GgufTensor, open_gguf
from pavane.models.tokenizer_spec import TokenizerSpec, tokenizer_from_gguf_metadata


@dataclass(frozen=True)
class LoadedModel:
    """Everything that a model file holds.

    `weights` are contiguous CPU tensors named as in Hugging Face's Llama without the "model." prefix, projections as
    (out, in) and rotate-half layout; norm weights are float32, all others of the dtype asked for. "lm_head.weight" is
    there only if `config.tie_word_embeddings` is false.
    """

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    tokenizer: TokenizerSpec
    name: str


@dataclass(frozen=True)
class _Slot:
    """Where one weight comes from: its name in the file, its shape, and its heads if rows are permuted."""

    source: str
    shape: tuple[int, ...]
    permuted_heads: int = 0


def load_model(path: Path, dtype: torch.dtype) -> LoadedModel:
    """Load a GGUF file, tensor by tensor, so that the peak stays near the size of the result.

    Args:
        dtype: floating type of all weights but the norms'.

    Raises:
        ModelError: the file is missing or corrupt, or the model is not supported; the text says what to change.
    """
    file = open_gguf(path)
    config = from_gguf_metadata(file.fields, file.tensors.keys())
    tokenizer = tokenizer_from_gguf_metadata(file.fields)
    if config.num_layers > len(file.tensors):
        raise ModelError(f"llama.block_count = {config.num_layers} is more than the file has; download it again")
    layout = _layout(config)
    _check_tensors(layout, file.tensors)
    weights = {}
    for name, slot in layout.items():
        tensor = file.tensors[slot.source].read(torch.float32 if len(slot.shape) == 1 else dtype)
        weights[name] = _rotate_half_rows(tensor, slot.permuted_heads) if slot.permuted_heads else tensor
    model_name = str(file.fields.get("general.name") or path.stem)
    return LoadedModel(config=config, weights=weights, tokenizer=tokenizer, name=model_name)


def _layout(config: ModelConfig) -> dict[str, _Slot]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layout = {
        "embed_tokens.weight": _Slot("token_embd.weight", (config.vocab_size, hidden)),
        "norm.weight": _Slot("output_norm.weight", (hidden,)),
    }
    if not config.tie_word_embeddings:
        layout["lm_head.weight"] = _Slot("output.weight", (config.vocab_size, hidden))
    block = {
        "input_layernorm": _Slot("attn_norm", (hidden,)),
        "self_attn.q_proj": _Slot("attn_q", (q_size, hidden), config.num_heads),
        "self_attn.k_proj": _Slot("attn_k", (kv_size, hidden), config.num_kv_heads),
        "self_attn.v_proj": _Slot("attn_v", (kv_size, hidden)),
        "self_attn.o_proj": _Slot("attn_output", (hidden, q_size)),
        "post_attention_layernorm": _Slot("ffn_norm", (hidden,)),
        "mlp.gate_proj": _Slot("ffn_gate", (inner, hidden)),
        "mlp.up_proj": _Slot("ffn_up", (inner, hidden)),
        "mlp.down_proj": _Slot("ffn_down", (hidden, inner)),
    }
    for i in range(config.num_layers):
        for name, slot in block.items():
            source = f"blk.{i}.{slot.source}.weight"
            layout[f"layers.{i}.{name}.weight"] = _Slot(source, slot.shape, slot.permuted_heads)
    return layout


def _check_tensors(layout: dict[str, _Slot], tensors: dict[str, GgufTensor]) -> None:
    expected = {slot.source: slot.shape for slot in layout.values()}
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"tensor {name} is missing; the file is incomplete, download it again")
        if tensors[name].shape != shape:
            raise ModelError(
                f"tensor {name} has shape {tensors[name].shape}, but the file's metadata say {shape}; download it again"
            )
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise ModelError(f"tensor {extra[0]} is not supported: nothing would use it; choose another model")


def _rotate_half_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF interleaves the two halves of each head's rows (2i, 2i+1); rotate-half wants (i, i + head_dim/2)."""
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)
