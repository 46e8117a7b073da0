from typing import Any

import pytest

from pavane.models.config import ModelConfig, from_gguf_metadata
from pavane.models.errors import ModelError

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
        rope_theta=500000.0,
        max_position=128,
        tie_word_embeddings=False,
    )


def test_defaults_of_the_format() -> None:
    optional = ("attention.head_count_kv", "rope.freq_base", "rope.dimension_count", "vocab_size")
    fields = {key: value for key, value in FIELDS.items() if key.removeprefix("llama.") not in optional}
    config = from_gguf_metadata(fields, [])
    assert (config.num_kv_heads, config.rope_theta, config.head_dim, config.vocab_size) == (4, 10000.0, 8, 3)
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
        ("general.architecture", "qwen2"),
        ("general.type", "adapter"),
        ("split.count", 2),
        ("llama.rope.scaling.type", "linear"),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.scaling.factor", 8.0),
        ("llama.rope.scale_linear", 2.0),
        ("llama.attention.sliding_window", 4096),
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
    [("llama.rope.scaling.type", "none"), ("llama.expert_count", 0), ("llama.attention.sliding_window", 0)],
)
def test_fields_that_say_not_used_are_fine(key: str, value: object) -> None:
    assert from_gguf_metadata(FIELDS | {key: value}, []) == from_gguf_metadata(FIELDS, [])


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.1.rope_factors_long.weight"])
def test_tensors_that_would_be_ignored_are_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        from_gguf_metadata(FIELDS, [name])
