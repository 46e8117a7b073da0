"""The configuration in a Hugging Face folder: what the class that config.json names would do, or an error.

Fields that those classes do not read change nothing and are passed over; so are dropout and the like.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pavane.kernels.rope import RopeParameters
from pavane.models.config import GEMMA_LACKS, ModelConfig, Window
from pavane.models.errors import ModelError
from pavane.models.fields import Fields, group_size
from pavane.models.hf_rope import rope_from_config


@dataclass(frozen=True)
class _Architecture:
    """What differs between the classes of transformers that share this forward pass.

    Attributes:
        refused: flags that would add biases which the forward pass has not.
        head_dim: of a config without it; None: hidden_size / num_attention_heads.
    """

    name: str
    qkv_bias: bool = False
    qk_norm: bool = False
    refused: tuple[str, ...] = ()
    head_dim: int | None = None


_ARCHITECTURES = {
    "LlamaForCausalLM": _Architecture("llama", refused=("attention_bias", "mlp_bias")),
    "MistralForCausalLM": _Architecture("mistral"),
    "Qwen2ForCausalLM": _Architecture("qwen2", qkv_bias=True),
    "Qwen3ForCausalLM": _Architecture("qwen3", qk_norm=True, refused=("attention_bias",), head_dim=128),
}
_GEMMA = ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")


def from_hf_config(values: Mapping[str, object]) -> tuple[ModelConfig, Window | None]:
    """Read and check the fields of a config.json.

    Raises:
        ModelError: names the field that is missing, malformed or not supported.
    """
    fields = Fields(values, "config.json: ")
    architecture = _architecture(fields)
    for key in architecture.refused:
        if fields.flag(key, default=False):
            where = "attention's output projection" if key == "attention_bias" else "the MLP"
            raise fields.refuse(key, f"only false (there are no biases in {where}); choose another model")
    if fields.get("quantization_config") is not None:
        raise fields.refuse("quantization_config", "choose the model's unquantised folder or a GGUF file of it")
    if fields.get("hidden_act") not in (None, "silu"):
        raise fields.refuse("hidden_act", "only 'silu'; choose another model")

    hidden_size = fields.positive_int("hidden_size")
    num_heads = fields.positive_int("num_attention_heads")
    # Left out, it means something else to each class but Llama's; null means the same to all.
    same = architecture.name == "llama" or fields.given("num_key_value_heads", 0) is None
    num_kv_heads = fields.positive_int("num_key_value_heads", default=num_heads if same else None)
    group_size(fields, "num_attention_heads", "num_key_value_heads", num_heads, num_kv_heads)
    num_layers = fields.positive_int("num_hidden_layers")
    max_position = fields.positive_int("max_position_embeddings")
    rope = rope_from_config(fields, max_position)
    window = _window(fields, architecture.name, num_layers)
    config = ModelConfig(
        architecture=architecture.name,
        vocab_size=fields.positive_int("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(fields, architecture, hidden_size, num_heads),
        rms_norm_eps=fields.positive_float("rms_norm_eps", default=1e-6),
        rope=rope,
        max_position=_extended(rope, max_position),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        window=window.size if window else None,
    )
    return config, window


def _architecture(fields: Fields) -> _Architecture:
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if name in _GEMMA:
        raise fields.refuse("architectures", GEMMA_LACKS)
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise fields.refuse("architectures", f"only one of {', '.join(_ARCHITECTURES)}; choose another model")
    auto_map = fields.get("auto_map")
    if isinstance(auto_map, dict) and "AutoModelForCausalLM" in auto_map:
        raise fields.refuse("auto_map", "the model brings code of its own, which is never run; choose another model")
    return _ARCHITECTURES[name]


def _head_dim(fields: Fields, architecture: _Architecture, hidden_size: int, num_heads: int) -> int:
    default = architecture.head_dim
    if default is None and fields.get("head_dim") is None:
        if hidden_size % num_heads:
            raise ModelError(
                f"{fields.name('hidden_size')} = {hidden_size} is no multiple of num_attention_heads = {num_heads}; "
                "download the file again"
            )
        default = hidden_size // num_heads
    head_dim = fields.positive_int("head_dim", default)
    if head_dim % 2:
        raise ModelError(f"{fields.name('head_dim')} = {head_dim}, but rotary embeddings need an even one")
    return head_dim


def _extended(rope: RopeParameters, max_position: int) -> int:
    """With YaRN the config may still tell the context that the model was trained for, before it was extended."""
    return max(max_position, int(rope.factor * rope.original_max_position)) if rope.type == "yarn" else max_position


def _window(fields: Fields, architecture: str, num_layers: int) -> Window | None:
    """As the configuration classes of transformers resolve their fields, defaults included."""
    qwen = architecture.startswith("qwen")
    known = {"full_attention", "sliding_attention"} if qwen else {"full_attention"}
    types = fields.get("layer_types")
    if types is not None and (not isinstance(types, list) or len(types) != num_layers or set(types) - known):
        raise fields.refuse("layer_types", f"only {num_layers} of {' or '.join(sorted(known))}; choose another model")
    layers: list[int] = []
    windowed = architecture == "mistral" or (qwen and fields.flag("use_sliding_window", default=False))
    if windowed and fields.given("sliding_window", 4096) is not None:
        first = fields.given("max_window_layers", 28) if qwen else 0
        if not isinstance(first, int):
            raise fields.refuse("max_window_layers", "only a number of layers; download the file again")
        layers = [i for i in range(num_layers) if (types[i] == "sliding_attention" if types and qwen else i >= first)]
    if not layers:
        return None
    size = fields.positive_int("sliding_window", default=4096)
    which = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    if len(layers) != layers[-1] - layers[0] + 1:
        which = f"layers {', '.join(map(str, layers))}"
    return Window(size, f"{fields.name('sliding_window')} = {size} in {which}")
