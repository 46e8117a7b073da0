"""The configuration of a GGUF file.

Whatever the forward pass would silently ignore is refused here: an unknown field of the architecture is an error.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pavane.kernels.rope import RopeParameters
from pavane.models.config import GEMMA_LACKS, ModelConfig
from pavane.models.errors import ModelError
from pavane.models.fields import Fields, group_size


@dataclass(frozen=True)
class GgufArchitecture:
    """What differs between the architectures of GGUF that share this forward pass.

    Attributes:
        covers: models that are converted to it.
        interleaved: the rows of q and k come as pairs (2i, 2i+1), not as halves.
        qk_norm: q and k are normalised per head.
        qkv_bias: it has biases, as far as the file's tensors do not tell.
    """

    covers: str
    interleaved: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False


ARCHITECTURES = {
    "llama": GgufArchitecture("Llama 2 and 3, Mistral, SmolLM2", interleaved=True),
    "qwen2": GgufArchitecture("Qwen 2 and 2.5", qkv_bias=True),
    "qwen3": GgufArchitecture("Qwen 3", qk_norm=True),
}

# Fields that change the forward pass, with the values that mean "not used". None: any, it changes nothing.
_NEUTRAL: dict[str, tuple[object, ...] | None] = {
    "rope.scaling.finetuned": None,
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_attn_factor": (1.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "use_parallel_residual": (False,),
}


def from_gguf_metadata(
    metadata: Mapping[str, object], tensor_names: Collection[str], rope_divisors: tuple[float, ...] = ()
) -> ModelConfig:
    """Read and check the configuration of a GGUF file.

    Args:
        metadata: the fields, as plain Python values.
        tensor_names: the names of the file's tensors, which say whether embeddings are tied and whether there are
            biases; empty for a file of metadata alone.
        rope_divisors: the values of the tensor rope_freqs.weight, if there is one.

    Raises:
        ModelError: names the field or tensor that is missing, malformed or not supported.
    """
    name = metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise ModelError(f"general.architecture = {name!r} is not supported, {_missing_for(name)}")
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError(f"general.type = {kind!r} is not a model; give the model's own GGUF file")
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelError(f"split.count = {metadata['split.count']!r}: merge the parts with `llama-gguf-split --merge`")

    prefix = f"{name}."
    fields = Fields({key.removeprefix(prefix): v for key, v in metadata.items() if key.startswith(prefix)}, prefix)
    max_position = fields.positive_int("context_length")
    rope = _rope(fields, max_position)
    hidden_size = fields.positive_int("embedding_length")
    num_heads = fields.positive_int("attention.head_count")
    # The defaults are those of the GGUF specification.
    num_kv_heads = fields.positive_int("attention.head_count_kv", default=num_heads)
    group_size(fields, "attention.head_count", "attention.head_count_kv", num_heads, num_kv_heads)
    head_dim = _head_dim(fields, hidden_size, num_heads)
    config = ModelConfig(
        architecture=str(name),
        vocab_size=_vocab_size(fields, metadata.get("tokenizer.ggml.tokens")),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int("feed_forward_length"),
        num_layers=fields.positive_int("block_count"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.positive_float("attention.layer_norm_rms_epsilon"),
        rope=replace(rope, divisors=_checked(rope_divisors, head_dim)),
        max_position=max_position,
        tie_word_embeddings="output.weight" not in tensor_names,
        qkv_bias="blk.0.attn_q.bias" in tensor_names if tensor_names else architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        window=_window(fields),
    )
    for key, value in fields.unread().items():
        neutral = _NEUTRAL.get(key, ())
        if neutral is not None and value not in neutral:
            allowed = f"only {' or '.join(map(repr, neutral))}; " if neutral else ""
            raise fields.refuse(key, f"{allowed}choose a model without this field")
    return config


def _missing_for(name: object) -> str:
    if name in ("gemma2", "gemma3"):
        return GEMMA_LACKS
    known = ", ".join(f"{key!r} ({architecture.covers})" for key, architecture in ARCHITECTURES.items())
    return f"only {known}; choose a model of those"


def _rope(fields: Fields, max_position: int) -> RopeParameters:
    """Missing fields mean what they mean to llama.cpp: type linear, factor 1 (also written 0), the trained context."""
    theta = fields.positive_float("rope.freq_base", default=10000.0)
    factor = 1.0
    for key in ("rope.scale_linear", "rope.scaling.factor"):
        if fields.get(key) not in (None, 0.0):
            factor = fields.positive_float(key)
    attention_factor = fields.positive_float("rope.scaling.attn_factor", default=1.0)
    original = fields.positive_int("rope.scaling.original_context_length", default=max_position)
    fast = fields.positive_float("rope.scaling.yarn_beta_fast", default=32.0)
    slow = fields.positive_float("rope.scaling.yarn_beta_slow", default=1.0)
    kind = fields.get("rope.scaling.type")
    if factor < 1.0:
        raise fields.refuse("rope.scaling.factor", "only 1.0 or more; choose a model whose context is not shortened")
    if kind == "yarn":
        if theta <= 1.0:
            raise fields.refuse("rope.freq_base", "only more than 1 with YaRN; download the file again")
        return RopeParameters(
            theta,
            "yarn",
            factor=factor,
            original_max_position=original,
            beta_fast=fast,
            beta_slow=slow,
            attention_factor=attention_factor * (1.0 + 0.1 * math.log(factor)),
        )
    if kind not in (None, "none", "linear"):
        raise fields.refuse("rope.scaling.type", "only 'none', 'linear' or 'yarn'; choose a model without it")
    if attention_factor != 1.0:
        raise fields.refuse("rope.scaling.attn_factor", "only 1.0 unless rope.scaling.type is 'yarn'")
    if factor == 1.0:
        return RopeParameters(theta)
    if kind == "none":
        raise fields.refuse("rope.scaling.factor", "only 1.0 where rope.scaling.type is 'none'; convert it again")
    return RopeParameters(theta, "linear", factor=factor)


def _checked(divisors: tuple[float, ...], head_dim: int) -> tuple[float, ...]:
    if divisors and len(divisors) != head_dim // 2:
        raise ModelError(f"tensor rope_freqs.weight has {len(divisors)} values, but a head has {head_dim // 2} pairs")
    for value in divisors:
        if not (math.isfinite(value) and value > 0):
            raise ModelError(f"tensor rope_freqs.weight has the value {value}, not a positive number")
    return divisors


def _window(fields: Fields) -> int | None:
    if fields.get("attention.sliding_window") in (None, 0):
        return None
    return fields.positive_int("attention.sliding_window")


def _vocab_size(fields: Fields, tokens: object) -> int:
    if not isinstance(tokens, list):
        raise ModelError("tokenizer.ggml.tokens is missing; convert the model again with its tokenizer")
    vocab_size = fields.positive_int("vocab_size", default=len(tokens))
    if vocab_size != len(tokens):
        raise ModelError(
            f"{fields.name('vocab_size')} = {vocab_size}, but tokenizer.ggml.tokens has {len(tokens)} entries; "
            "convert the model again"
        )
    return vocab_size


def _head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    if fields.get("attention.key_length") is None and hidden_size % num_heads:
        raise ModelError(
            f"{fields.name('embedding_length')} = {hidden_size} is no multiple of "
            f"{fields.name('attention.head_count')} = {num_heads}; download the file again"
        )
    head_dim = fields.positive_int("attention.key_length", default=hidden_size // num_heads)
    if head_dim % 2:
        raise ModelError(f"the size of a head is {head_dim}, but rotary embeddings need an even one")
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.positive_int(key, default=head_dim) != head_dim:
            raise fields.refuse(key, f"only the size of a head ({head_dim})")
    return head_dim
