"""The forward pass in C++: every format of weights against the same roundings in float64, and its instruction sets."""

import os
import subprocess
import sys
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.batches import chat_batch
from support.harness import INVARIANT
from support.tiny import tiny_config, tiny_weights

from pavane.kernels import reference
from pavane.kernels.batch import Batch
from pavane.kernels.kv import BlockedKVStore
from pavane.kernels.native_build import LEVELS, _features
from pavane.kernels.native_decoder import ROUND_FROM
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.errors import ModelError
from pavane.models.gguf_quants import Blocks
from pavane.models.native import native_decoder

pytestmark = pytest.mark.skipif("decoder" not in INVARIANT, reason="no C++ compiler")
Weights = dict[str, torch.Tensor]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]} | {
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]
}  # fmt: skip
"""Where the float16 numbers of a block lie."""


def random_blocks(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Blocks:
    quantisation = gguf.GGMLQuantizationType[name]
    size, octets = gguf.GGML_QUANT_SIZES[quantisation]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // size, octets), dtype=np.uint8)
    scale = 0.01 if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1") else 0.001 if name == "Q8_0" else 0.0002
    for at in HALVES[name]:
        halves = (scale * rng.uniform(0.5, 1.5, (len(blocks), 1))).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return Blocks("w", quantisation, shape, blocks.reshape(shape[0], -1))


@pytest.mark.parametrize("name", HALVES)
def test_blocks_are_read_exactly(name: str) -> None:
    blocks = random_blocks(name, (5, 512), np.random.default_rng(1))
    expected = torch.from_numpy(gguf.dequantize(blocks.data, blocks.quantisation))
    assert torch.equal(blocks.to(torch.float32), expected)


def test_scales_that_are_not_finite_are_refused() -> None:
    blocks = random_blocks("Q8_0", (4, 64), np.random.default_rng(1))
    blocks.data[2, :2] = np.array([np.inf], dtype=np.float16).view(np.uint8)
    with pytest.raises(ModelError, match="tensor w has scales that are not finite"):
        blocks.integers()


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def expected_logits(config: ModelConfig, w: Weights, tokens: list[int]) -> torch.Tensor:
    """Of every token, in float64 but for the roundings to bfloat16 before products and in the cache."""
    frequencies = rope_frequencies(config.rope, config.head_dim)[0]
    positions = torch.arange(len(tokens))
    visible = positions[:, None] >= positions

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * weight

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        y = rounded(x) @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    x = w["embed_tokens.weight"][tokens]
    for i in range(config.num_layers):
        p = f"layers.{i}."
        normed = norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (linear(normed, f"{p}self_attn.{n}_proj").view(len(tokens), -1, config.head_dim) for n in "qkv")
        if config.qk_norm:
            q, k = norm(q, w[p + "self_attn.q_norm.weight"]), norm(k, w[p + "self_attn.k_norm.weight"])
        k = reference.rope(rounded(reference.rope(k, positions, frequencies)), -positions, frequencies)
        scaled = rounded(reference.rope(q, positions, frequencies) * config.head_dim**-0.5)
        q = reference.rope(scaled * config.head_dim**0.5, -positions, frequencies)
        attended = reference.attend(q, k, rounded(v), positions, positions, visible, frequencies)
        x = x + linear(attended.reshape(len(tokens), -1), p + "self_attn.o_proj")
        normed = norm(x, w[p + "post_attention_layernorm.weight"])
        gate, up = linear(normed, p + "mlp.gate_proj"), linear(normed, p + "mlp.up_proj")
        x = x + linear(torch.nn.functional.silu(gate) * up, p + "mlp.down_proj")
    head = "embed_tokens" if config.tie_word_embeddings else "lm_head"
    return linear(norm(x, w["norm.weight"]), head)


def check(
    config: ModelConfig, weights: Weights, blocks: dict[str, Blocks], *, counts: tuple[int, ...] = (13, 16, 1, 2, 1, 1)
) -> None:
    """A prompt in two chunks, then tokens one by one; or one chunk of so many rows that the weights are rounded."""
    whole = {name: tensor.double() for name, tensor in weights.items()}
    whole |= {name: kept.to(torch.float64) for name, kept in blocks.items()}
    invariant = max(counts) < ROUND_FROM
    if not invariant:
        whole |= {name: rounded(whole[name]) for name in blocks if name != "embed_tokens.weight"}
    tokens = np.random.default_rng(3).integers(0, config.vocab_size, sum(counts)).tolist()
    expected = expected_logits(config, whole, tokens)
    store = BlockedKVStore(config.num_layers, config.num_kv_heads, 64, config.head_dim, torch.bfloat16)
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], config.max_position)
    decoder = native_decoder(config, dict(weights), blocks, store, rope, batch_invariant=invariant)
    got, done = [], 0
    for count in counts:
        batch = chat_batch([tokens[done : done + count]], [done])
        got.append(decoder.logits(batch, batch.tokens).clone())
        done += count
    scale = expected.abs().max()
    error = (torch.cat(got) - expected).abs() / scale
    assert error[0].max() < 2e-3
    # Later tokens differ by float32 sums, and by values that these push over the border between two bfloat16 numbers.
    assert error.median() < 1e-3
    assert error.max() < 3e-2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "tie_word_embeddings": False},
        {"qk_norm": True, "head_dim": 24, "intermediate_size": 100},
        {"hidden_size": 70, "num_heads": 7, "num_kv_heads": 1, "head_dim": 10, "vocab_size": 33},
    ],
)
def test_models_in_bfloat16(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    matrices = {name: rounded(w) if w.dim() == 2 else w for name, w in tiny_weights(config).items()}
    check(config, matrices, {})


@pytest.mark.parametrize("counts", [(13, 16, 1, 2, 1, 1), (ROUND_FROM + 3,)], ids=["exact", "rounded"])
@pytest.mark.parametrize("name", HALVES)
def test_models_of_quantised_blocks(name: str, counts: tuple[int, ...]) -> None:
    config = tiny_config(
        hidden_size=256,
        intermediate_size=512,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        num_layers=2,
        vocab_size=50,
        tie_word_embeddings=False,
    )
    rng = np.random.default_rng(2)
    weights = tiny_weights(config)
    blocks = {n: random_blocks(name, tuple(w.shape), rng) for n, w in weights.items() if w.dim() == 2}
    check(config, {n: w for n, w in weights.items() if n not in blocks}, blocks, counts=counts)


def logits(batches: list[Batch], threads: int) -> list[npt.NDArray[Any]]:
    config = tiny_config(head_dim=16)
    store = BlockedKVStore(config.num_layers, config.num_kv_heads, 800, config.head_dim, torch.bfloat16)
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], config.max_position)
    decoder = native_decoder(config, tiny_weights(config), {}, store, rope, batch_invariant=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [decoder.logits(batch, batch.tokens).numpy().copy() for batch in batches]
    finally:
        torch.set_num_threads(before)


def test_a_row_is_the_same_to_the_bit_alone_and_among_others() -> None:
    rng = np.random.default_rng(4)
    calls = [rng.integers(0, 97, n).tolist() for n in (1, 30, 2, 7, 19, 12)]
    together = logits([chat_batch(calls, [0] * len(calls), stride=100)], 2)[0]
    ends = np.cumsum([len(call) for call in calls])
    for call, end in zip(calls, ends, strict=True):
        alone = logits([chat_batch([call], [0])], 1)[0]
        assert np.array_equal(alone, together[end - len(call) : end])
        in_pieces = logits([chat_batch([[token]], [i]) for i, token in enumerate(call)], 1)
        assert np.array_equal(np.concatenate(in_pieces), alone)


@pytest.mark.parametrize("level", [level.name for level in LEVELS["x86_64"][1:] if level.needs <= _features()])
def test_the_other_instruction_sets(level: str) -> None:
    """The same tests in a process of their own, which loads the kernels of another level."""
    if os.environ.get("PAVANE_NATIVE_LEVEL"):
        return
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "bfloat16 or blocks or alone"]
    environment = {**os.environ, "PAVANE_NATIVE_LEVEL": level}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "skipped" not in done.stdout
