"""GGUF files: names, shapes and row order become those of Hugging Face."""

import math
from pathlib import Path

import torch

from pavane.models.config import ModelConfig, Window, weight_shapes
from pavane.models.errors import ModelError
from pavane.models.gguf_config import ARCHITECTURES, from_gguf_metadata
from pavane.models.gguf_file import GgufFile, GgufTensor, open_gguf
from pavane.models.gguf_quants import Blocks, readable
from pavane.models.loaded import LoadedModel
from pavane.models.memory import check_fits
from pavane.models.tokenizer_spec import tokenizer_from_gguf_metadata

_ROPE_FREQS = "rope_freqs.weight"

_SOURCES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def load_gguf(path: Path, dtype: torch.dtype, *, keep_blocks: bool = False) -> LoadedModel:
    """Load a GGUF file, tensor by tensor, so that the peak stays near the size of the result.

    Args:
        keep_blocks: leave matrices whose blocks the kernels read as they are.

    Raises:
        ModelError: the file is missing or corrupt, or the model is not supported; the text says what to change.
    """
    file = open_gguf(path)
    config = read_config(file)
    tokenizer = tokenizer_from_gguf_metadata(file.fields)
    if config.num_layers > len(file.tensors):
        raise ModelError(
            f"{config.architecture}.block_count = {config.num_layers} is more than the file has; download it again"
        )
    shapes = weight_shapes(config)
    _check_tensors({_source(name): shape for name, shape in shapes.items()}, file.tensors)
    interleaved = ARCHITECTURES[config.architecture].interleaved
    used = [file.tensors[_source(name)] for name in shapes]
    sizes = [t.data.nbytes if _is_kept(t, keep_blocks) else math.prod(t.shape) * dtype.itemsize for t in used]
    check_fits("the model's weights take", sum(sizes), "choose a smaller model, or one with fewer bits per weight")
    weights, blocks = {}, {}
    for name, shape in shapes.items():
        tensor = file.tensors[_source(name)]
        order = None
        if interleaved and (".q_proj." in name or ".k_proj." in name):
            order = _rotate_half_order(shape[0], shape[0] // config.head_dim)
        if _is_kept(tensor, keep_blocks):
            kept = Blocks(tensor.name, tensor.quantisation, shape, tensor.data)
            blocks[name] = kept if order is None else kept.rows(order)
        else:
            dense = tensor.read(torch.float32 if len(shape) == 1 else dtype)
            weights[name] = dense if order is None else dense[order]
    return LoadedModel(
        config, weights, tokenizer, gguf_name(file, path), files=(path,), window=gguf_window(config), blocks=blocks
    )


def _is_kept(tensor: GgufTensor, keep_blocks: bool) -> bool:
    return keep_blocks and len(tensor.shape) == 2 and readable(tensor.quantisation)


def read_config(file: GgufFile) -> ModelConfig:
    """Raises ModelError."""
    divisors = file.tensors.get(_ROPE_FREQS)
    values = tuple(divisors.read(torch.float32).flatten().tolist()) if divisors else ()
    return from_gguf_metadata(file.fields, file.tensors.keys(), values)


def gguf_window(config: ModelConfig) -> Window | None:
    if config.window is None:
        return None
    return Window(config.window, f"{config.architecture}.attention.sliding_window = {config.window} in all layers")


def gguf_name(file: GgufFile, path: Path) -> str:
    return str(file.fields.get("general.name") or path.stem)


def _source(name: str) -> str:
    """ "layers.3.self_attn.q_proj.bias" is "blk.3.attn_q.bias"."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("layers."):
        return f"{_SOURCES[stem]}.{suffix}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_SOURCES[part]}.{suffix}"


def _check_tensors(expected: dict[str, tuple[int, ...]], tensors: dict[str, GgufTensor]) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"tensor {name} is missing; the file is incomplete, download it again")
        if tensors[name].shape != shape:
            raise ModelError(
                f"tensor {name} has shape {tensors[name].shape}, but the file's metadata say {shape}; download it again"
            )
    extra = sorted(tensors.keys() - expected.keys() - {_ROPE_FREQS})
    if extra:
        raise ModelError(f"tensor {extra[0]} is not supported: nothing would use it; choose another model")


def _rotate_half_order(rows: int, heads: int) -> torch.Tensor:
    """The rows of each head come as (2i, 2i+1) and go as (i, i + head_dim/2)."""
    return torch.arange(rows).view(heads, rows // heads // 2, 2).transpose(1, 2).reshape(-1)
