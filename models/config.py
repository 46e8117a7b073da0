"""The hyperparameters of a model, and which values of them can be served.

Whatever the forward pass would silently ignore is refused here: an unknown `llama.*` field is an error.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pavane.models.errors import ModelError


@dataclass(frozen=True)
class ModelConfig:
    """A decoder with RMSNorm, rotary embeddings (rotate-half layout), grouped-query attention and a SwiGLU MLP.

    Attributes:
        max_position: positions that the model was trained for, in tokens.
        rope_theta: base of the rotary frequencies theta**(-2i/head_dim).
        tie_word_embeddings: the output projection is the embedding matrix.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position: int
    tie_word_embeddings: bool


# GGUF's "llama" covers Llama 2 and 3, Mistral, SmolLM2 and others of the same forward pass.
_ARCHITECTURES = ("llama",)

_READ = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
}

# Fields that change the forward pass, with the values that mean "not used".
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (False,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.sliding_window": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "use_parallel_residual": (False,),
}


def from_gguf_metadata(fields: Mapping[str, object], tensor_names: Collection[str]) -> ModelConfig:
    """Read and check the configuration of a GGUF file.

    Args:
        fields: the metadata, as plain Python values.
        tensor_names: the names of the file's tensors, which say whether embeddings are tied.

    Raises:
        ModelError: names the field or tensor that is missing, malformed or not supported.
    """
    architecture = fields.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"general.architecture = {architecture!r} is not supported, only {', '.join(map(repr, _ARCHITECTURES))} "
            "(Llama 2 and 3, Mistral, SmolLM2); choose a model of that architecture"
        )
    _refuse_unsupported(fields, tensor_names)

    hidden_size = _positive_int(fields, "llama.embedding_length")
    num_heads = _positive_int(fields, "llama.attention.head_count")
    # The defaults are those of the GGUF specification.
    num_kv_heads = _positive_int(fields, "llama.attention.head_count_kv", default=num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(
            f"llama.attention.head_count = {num_heads} is no multiple of llama.attention.head_count_kv = "
            f"{num_kv_heads}; download the file again"
        )
    vocab_size = _vocab_size(fields)
    return ModelConfig(
        architecture=str(architecture),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=_positive_int(fields, "llama.feed_forward_length"),
        num_layers=_positive_int(fields, "llama.block_count"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(fields, hidden_size, num_heads),
        rms_norm_eps=_positive_float(fields, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=_positive_float(fields, "llama.rope.freq_base", default=10000.0),
        max_position=_positive_int(fields, "llama.context_length"),
        tie_word_embeddings="output.weight" not in tensor_names,
    )


def _refuse_unsupported(fields: Mapping[str, object], tensor_names: Collection[str]) -> None:
    kind = fields.get("general.type", "model")
    if kind != "model":
        raise ModelError(f"general.type = {kind!r} is not a model; give the model's own GGUF file")
    if fields.get("split.count", 1) not in (0, 1):
        raise ModelError(f"split.count = {fields['split.count']!r}: merge the parts with `llama-gguf-split --merge`")
    for key, value in fields.items():
        suffix = key.removeprefix("llama.")
        if suffix == key or suffix in _READ:
            continue
        if suffix not in _NEUTRAL:
            raise ModelError(f"{key} = {value!r} is not supported; choose a model without this field")
        if value not in _NEUTRAL[suffix]:
            allowed = " or ".join(map(repr, _NEUTRAL[suffix]))
            raise ModelError(f"{key} = {value!r} is not supported, only {allowed}; choose a model without it")
    for name in tensor_names:
        if "rope_freqs" in name or "rope_factors" in name:
            raise ModelError(f"tensor {name} (scaled rotary frequencies) is not supported; choose a model without it")
        if name.endswith(".bias"):
            raise ModelError(f"tensor {name} is not supported: no bias is added; choose a model without biases")


def _vocab_size(fields: Mapping[str, object]) -> int:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ModelError("tokenizer.ggml.tokens is missing; convert the model again with its tokenizer")
    vocab_size = _positive_int(fields, "llama.vocab_size", default=len(tokens))
    if vocab_size != len(tokens):
        raise ModelError(
            f"llama.vocab_size = {vocab_size}, but tokenizer.ggml.tokens has {len(tokens)} entries; "
            "convert the model again"
        )
    return vocab_size


def _head_dim(fields: Mapping[str, object], hidden_size: int, num_heads: int) -> int:
    if "llama.attention.key_length" not in fields and hidden_size % num_heads:
        raise ModelError(
            f"llama.embedding_length = {hidden_size} is no multiple of llama.attention.head_count = {num_heads}; "
            "download the file again"
        )
    head_dim = _positive_int(fields, "llama.attention.key_length", default=hidden_size // num_heads)
    if head_dim % 2:
        raise ModelError(f"the size of a head is {head_dim}, but rotary embeddings need an even one")
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        value = _positive_int(fields, key, default=head_dim)
        if value != head_dim:
            raise ModelError(f"{key} = {value} is not supported, only the size of a head ({head_dim})")
    return head_dim


def _positive_int(fields: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = _required(fields, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{key} = {value!r} is not supported, only one positive integer; choose another model")
    return value


def _positive_float(fields: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = _required(fields, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ModelError(f"{key} = {value!r} must be a positive number; download the file again")
    return float(value)


def _required(fields: Mapping[str, object], key: str, default: object) -> object:
    value = fields.get(key, default)
    if value is None:
        raise ModelError(f"{key} is missing; the file is incomplete, download it or convert the model again")
    return value
