"""Rotary frequencies against those of transformers, and the table."""

import math

import pytest
import torch
from support.theirs import config_fields
from support.tiny import tiny_config
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pavane.kernels.rope import RopeParameters, RopeTable, rope_frequencies, rotate

YARN = RopeParameters(1e6, "yarn", factor=4.0, original_max_position=32768, attention_factor=1.138629436111989)
SCALED = {
    "linear": RopeParameters(1e4, "linear", factor=3.0),
    "Llama 3.1": RopeParameters(5e5, "llama3", factor=8.0, original_max_position=8192),
    "Llama 3.2": RopeParameters(5e5, "llama3", factor=32.0, original_max_position=8192),
    "bands of its own": RopeParameters(
        1e4, "llama3", factor=2.0, original_max_position=512, low_freq_factor=2.0, high_freq_factor=32.0
    ),
    "Qwen 2.5": YARN,
    "short YaRN": RopeParameters(1e4, "yarn", factor=16.0, original_max_position=64, attention_factor=0.7),
    "YaRN of other turns": RopeParameters(
        1e4, "yarn", factor=2.0, original_max_position=4096, beta_fast=64.0, beta_slow=2.0
    ),
    "YaRN not rounded": RopeParameters(1e4, "yarn", factor=2.0, original_max_position=4096, truncate=False),
}


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("name", SCALED)
def test_scaled_frequencies_are_those_of_transformers(name: str, head_dim: int) -> None:
    rope = SCALED[name]
    fields = config_fields(tiny_config(rope=rope, head_dim=head_dim, max_position=131072))
    theirs, their_scale = ROPE_INIT_FUNCTIONS[rope.type](LlamaConfig(**fields), torch.device("cpu"))
    frequencies, scale = rope_frequencies(rope, head_dim)
    assert (frequencies.dtype, frequencies.shape) == (torch.float64, (head_dim // 2,))
    torch.testing.assert_close(frequencies, theirs.double(), rtol=1e-5, atol=0)
    assert scale == their_scale


def test_unscaled_frequencies() -> None:
    frequencies, scale = rope_frequencies(RopeParameters(1e4), 8)
    assert frequencies.tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001], rel=1e-15)
    assert scale == 1.0


def test_divisors_come_before_scaling() -> None:
    frequencies, _ = rope_frequencies(RopeParameters(1e4, "linear", factor=2.0, divisors=(1.0, 1.0, 4.0, 8.0)), 8)
    assert frequencies.tolist() == pytest.approx([0.5, 0.05, 0.00125, 0.0000625], rel=1e-15)


def test_the_table_turns_and_scales() -> None:
    frequencies, scale = rope_frequencies(YARN, 4)
    table = RopeTable(frequencies, 50, scale, torch.float64)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=torch.float64)
    for position in (-50, -1, 0, 7, 100):
        got = rotate(x, *table.at(torch.tensor([position])))[0, 0].tolist()
        for i, (a, b) in enumerate([(1.0, 3.0), (2.0, 4.0)]):
            angle = position * float(frequencies[i])
            assert got[i] == pytest.approx(scale * (a * math.cos(angle) - b * math.sin(angle)), abs=1e-12)
            assert got[i + 2] == pytest.approx(scale * (b * math.cos(angle) + a * math.sin(angle)), abs=1e-12)
