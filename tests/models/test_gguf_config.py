from typing import Any

import pytest

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig
from pavane.models.errors import ModelError
from pavane.models.gguf_config import from_gguf_metadata

FIELDS: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 48,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
    "llama.rope.dimension_count": 8,
    "llama.vocab_size": 3,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def test_every_field_is_read() -> None:
    assert from_gguf_metadata(FIELDS, ["output.weight"]) == ModelConfig(
        architecture="llama",
        vocab_size=3,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope=RopeParameters(500000.0),
        max_position=128,
        tie_word_embeddings=False,
        qkv_bias=False,
        qk_norm=False,
        window=None,
    )


def test_defaults_of_the_format() -> None:
    optional = ("attention.head_count_kv", "rope.freq_base", "rope.dimension_count", "vocab_size")
    fields = {key: value for key, value in FIELDS.items() if key.removeprefix("llama.") not in optional}
    config = from_gguf_metadata(fields, [])
    assert (config.num_kv_heads, config.rope.theta, config.head_dim, config.vocab_size) == (4, 10000.0, 8, 3)
    assert config.tie_word_embeddings


def test_a_head_size_of_its_own() -> None:
    lengths = dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), 16)
    config = from_gguf_metadata(FIELDS | {f"llama.{key}": value for key, value in lengths.items()}, [])
    assert config.head_dim == 16


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens",
    ],
)
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(ModelError, match=key):
        from_gguf_metadata({k: v for k, v in FIELDS.items() if k != key}, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "qwen2moe"),
        ("general.architecture", ["llama"]),
        ("general.type", "adapter"),
        ("split.count", 2),
        ("llama.rope.scaling.type", "longrope"),
        ("llama.rope.scaling.factor", 0.5),
        ("llama.rope.scaling.factor", -2.0),
        ("llama.rope.scaling.attn_factor", 1.2),
        ("llama.rope.scaling.yarn_ext_factor", 0.5),
        ("llama.rope.scaling.yarn_log_multiplier", 0.1),
        ("llama.attention.sliding_window", -1),
        ("llama.attention.sliding_window", [512, 0]),
        ("llama.attention.sliding_window_pattern", [True, False]),
        ("llama.expert_count", 8),
        ("llama.rope.dimension_count", 4),
        ("llama.attention.value_length", 16),
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.head_count_kv", [2, 1]),
        ("llama.feed_forward_length", [48, 32]),
        ("llama.attention.head_count", 5),
        ("llama.attention.head_count", True),
        ("llama.block_count", 0),
        ("llama.vocab_size", 4),
        ("llama.rope.freq_base", float("nan")),
        ("llama.attention.layer_norm_rms_epsilon", 0.0),
        ("llama.attention.scale", 0.5),
        ("llama.logit_scale", 16.0),
        ("llama.some_new_field", "x"),
    ],
)
def test_what_the_forward_pass_would_ignore_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=key):
        from_gguf_metadata(FIELDS | {key: value}, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", "none"),
        ("llama.rope.scaling.type", "linear"),
        ("llama.rope.scaling.factor", 0.0),
        ("llama.rope.scaling.finetuned", True),
        ("llama.expert_count", 0),
        ("llama.attention.sliding_window", 0),
    ],
)
def test_fields_that_say_not_used_are_fine(key: str, value: object) -> None:
    assert from_gguf_metadata(FIELDS | {key: value}, []) == from_gguf_metadata(FIELDS, [])


def of(architecture: str, **more: object) -> dict[str, Any]:
    fields = {key.replace("llama.", f"{architecture}."): value for key, value in FIELDS.items()}
    return fields | {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in more.items()}


@pytest.mark.parametrize(
    ("architecture", "tensors", "qkv_bias", "qk_norm"),
    [
        ("llama", ["output.weight"], False, False),
        ("llama", ["blk.0.attn_q.bias"], True, False),
        ("qwen2", ["blk.0.attn_q.bias"], True, False),
        ("qwen2", ["output.weight"], False, False),
        ("qwen2", [], True, False),
        ("qwen3", ["output.weight"], False, True),
    ],
)
def test_what_the_architectures_add(architecture: str, tensors: list[str], qkv_bias: bool, qk_norm: bool) -> None:
    config = from_gguf_metadata(of(architecture), tensors)
    assert (config.architecture, config.qkv_bias, config.qk_norm) == (architecture, qkv_bias, qk_norm)
    assert config.rope == RopeParameters(500000.0)


def test_gemma_is_refused_with_what_is_missing() -> None:
    with pytest.raises(ModelError, match=r"'gemma3' is not supported, what is missing: soft caps .* windows and RoPE"):
        from_gguf_metadata(of("gemma3"), [])


def test_a_window_is_kept_to_be_compared_with_the_positions_served() -> None:
    assert from_gguf_metadata(FIELDS | {"llama.attention.sliding_window": 64}, []).window == 64


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rope.scaling.factor": 4.0}, RopeParameters(5e5, "linear", factor=4.0)),
        ({"rope.scale_linear": 4.0}, RopeParameters(5e5, "linear", factor=4.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, RopeParameters(5e5, "linear", factor=2.0)),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
            RopeParameters(5e5, "yarn", factor=4.0, original_max_position=128, attention_factor=1.138629436111989),
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
                "rope.scaling.attn_factor": 0.5,
                "rope.scaling.yarn_beta_fast": 16.0,
                "rope.scaling.yarn_beta_slow": 2.0,
            },
            RopeParameters(
                5e5,
                "yarn",
                factor=4.0,
                original_max_position=32,
                beta_fast=16.0,
                beta_slow=2.0,
                attention_factor=0.5693147180559945,
            ),
        ),
    ],
)
def test_scaled_rotary_frequencies(fields: dict[str, object], expected: RopeParameters) -> None:
    metadata = FIELDS | {f"llama.{key}": value for key, value in fields.items()}
    assert from_gguf_metadata(metadata, []).rope == expected


def test_a_factor_against_the_type_is_refused() -> None:
    fields = FIELDS | {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}
    with pytest.raises(ModelError, match=r"llama.rope.scaling.factor = 4.0"):
        from_gguf_metadata(fields, [])


def test_divisors_of_the_frequencies() -> None:
    assert from_gguf_metadata(FIELDS, [], (1.0, 1.0, 4.0, 8.0)).rope.divisors == (1.0, 1.0, 4.0, 8.0)
    with pytest.raises(ModelError, match=r"rope_freqs.weight has 3 values, but a head has 4 pairs"):
        from_gguf_metadata(FIELDS, [], (1.0, 1.0, 4.0))
    with pytest.raises(ModelError, match=r"rope_freqs.weight has the value 0.0"):
        from_gguf_metadata(FIELDS, [], (1.0, 1.0, 4.0, 0.0))
