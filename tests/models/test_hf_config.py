"""config.json: what transformers' configuration classes read from it, and what is refused by name."""

import math
from typing import Any

import pytest
from support.theirs import config_fields
from support.tiny import tiny_config
from transformers import MistralConfig, Qwen2Config

from pavane.kernels.rope import RopeParameters
from pavane.models.errors import ModelError
from pavane.models.hf_config import from_hf_config

LLAMA = config_fields(tiny_config(tie_word_embeddings=False, rope=RopeParameters(5e5)))
QWEN2 = config_fields(tiny_config(architecture="qwen2"))
QWEN3 = config_fields(tiny_config(architecture="qwen3"))
MISTRAL = config_fields(tiny_config(architecture="mistral"))


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(tie_word_embeddings=False, head_dim=16, num_kv_heads=6),
        tiny_config(architecture="mistral", window=64),
        tiny_config(architecture="qwen2", qkv_bias=True),
        tiny_config(architecture="qwen3", qk_norm=True),
        tiny_config(rope=RopeParameters(1e4, "linear", factor=2.0)),
        tiny_config(rope=RopeParameters(5e5, "llama3", factor=8.0, original_max_position=64)),
        tiny_config(rope=RopeParameters(1e6, "yarn", factor=4.0, original_max_position=64, attention_factor=1.1)),
    ],
)
def test_every_field_is_read(config: Any) -> None:
    assert from_hf_config(config_fields(config))[0] == config


def without(fields: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}


def test_fields_that_are_left_out() -> None:
    fields = without(LLAMA, "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "rope_parameters")
    config, window = from_hf_config(fields)
    assert (config.num_kv_heads, config.head_dim, config.rms_norm_eps) == (6, 8, 1e-6)
    assert (config.tie_word_embeddings, config.rope, window) == (False, RopeParameters(1e4), None)
    assert from_hf_config(without(QWEN3, "head_dim"))[0].head_dim == 128
    with pytest.raises(ModelError, match=r"config.json: num_key_value_heads is missing"):
        from_hf_config(without(MISTRAL, "num_key_value_heads"))


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({"rope_theta": 5e5}, RopeParameters(5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeParameters(5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, RopeParameters(1e4, "linear", factor=4.0)),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
            RopeParameters(5e5, "llama3", factor=32.0, original_max_position=64),
        ),
        (
            {
                "rope_theta": 1e6,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            },
            RopeParameters(1e6, "yarn", factor=4.0, original_max_position=512, attention_factor=1.138629436111989),
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 1.0}},
            RopeParameters(
                1e4,
                "yarn",
                factor=4.0,
                original_max_position=512,
                attention_factor=(1.0 + 0.1 * 2.0 * math.log(4.0)) / (1.0 + 0.1 * math.log(4.0)),
            ),
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 128, "truncate": False}},
            RopeParameters(
                1e4,
                "yarn",
                factor=4.0,
                original_max_position=128,
                truncate=False,
                attention_factor=1.138629436111989,
            ),
        ),
    ],
)
def test_the_old_spelling_of_rotary_embeddings(old: dict[str, Any], expected: RopeParameters) -> None:
    assert from_hf_config(without(LLAMA, "rope_parameters") | old)[0].rope == expected


def test_yarn_extends_the_positions() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert from_hf_config(without(QWEN2, "rope_parameters") | {"rope_scaling": scaling})[0].max_position == 2048


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"architectures = \['GPT2LMHeadModel'\]"),
        ({"architectures": None}, r"architectures = None"),
        ({"architectures": ["Gemma2ForCausalLM"]}, r"architectures .* what is missing: soft caps"),
        ({"architectures": ["Gemma3ForCausalLM"]}, r"architectures .* windows and RoPE that differ by layer"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config .* a GGUF file"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"mlp_bias": "yes"}, "mlp_bias = 'yes'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5 is no multiple of config.json: num_key_value_heads = 2"),
        ({"num_key_value_heads": True}, "num_key_value_heads = True"),
        ({"head_dim": 7}, "head_dim = 7"),
        ({"head_dim": None, "hidden_size": 50}, "hidden_size = 50 is no multiple"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            "rope_parameters.partial_rotary_factor = 0.25",
        ),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters.rope_type = 'dynamic'"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling.type = 'dynamic'",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0]}},
            "rope_parameters.rope_type = 'longrope'",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}},
            r"rope_parameters.mrope_section = \[1, 2\]",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "rope_parameters.factor = 0.5"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.low_freq_factor is missing"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
            "rope_parameters.high_freq_factor = 4",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}},
            "rope_parameters.rope_theta = 1.0",
        ),
        ({"rope_parameters": [1.0]}, r"rope_parameters = \[1.0\]"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling and rope_parameters are both there"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=f"config.json: {words}"):
        from_hf_config(LLAMA | fields)


@pytest.mark.parametrize(
    ("base", "fields", "size", "which"),
    [
        (MISTRAL, {"sliding_window": 100}, 100, "layers 0 to 2"),
        (without(MISTRAL, "sliding_window"), {}, 4096, "layers 0 to 2"),
        (MISTRAL, {"sliding_window": None}, None, ""),
        (LLAMA, {"sliding_window": 100}, None, ""),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": False}, None, ""),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True}, None, ""),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 1}, 100, "layers 1 to 2"),
        (QWEN3, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 2}, 100, "layer 2"),
        (QWEN3, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 3}, None, ""),
        (
            QWEN3,
            {
                "sliding_window": 100,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            100,
            "layers 0, 2",
        ),
    ],
)
def test_windows(base: dict[str, Any], fields: dict[str, Any], size: int | None, which: str) -> None:
    config, window = from_hf_config(base | fields)
    assert config.window == size
    assert (window.source if window else None) == (f"config.json: sliding_window = {size} in {which}" if size else None)


def test_windows_left_out_are_those_of_transformers() -> None:
    assert MistralConfig().sliding_window == 4096
    theirs = Qwen2Config(use_sliding_window=True, num_hidden_layers=30)
    config, window = from_hf_config(
        without(QWEN2, "sliding_window") | {"use_sliding_window": True, "num_hidden_layers": 30}
    )
    assert config.window == theirs.sliding_window
    assert [i for i, kind in enumerate(theirs.layer_types or []) if kind == "sliding_attention"] == [28, 29]
    assert window is not None
    assert "layers 28 to 29" in window.source
