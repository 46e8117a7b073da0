"""Tiny models through scheduler, cache and torch backend, against transformers with the same weights in float32."""

from functools import cache

import pytest
import torch
from support.harness import Harness, decode, prefill, tiny_runner
from support.theirs import transformers_model
from support.tiny import tiny_config, tiny_weights
from transformers import PreTrainedModel

from pavane.kernels.rope import RopeParameters, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.decoder import Decoder
from pavane.scheduler.spec import State

torch.set_num_threads(1)

YARN = RopeParameters(
    10_000.0, "yarn", factor=4.0, original_max_position=128, attention_factor=1.138629436111989, beta_fast=8.0
)
LLAMA3 = RopeParameters(
    5e5, "llama3", factor=8.0, original_max_position=64, low_freq_factor=1.0, high_freq_factor=4.0
)  # fmt: skip

CONFIGS = {
    "grouped": tiny_config(),
    "one key-value head": tiny_config(num_kv_heads=1),
    "as many key-value heads": tiny_config(num_kv_heads=6),
    "untied head": tiny_config(tie_word_embeddings=False),
    "theta of Llama 3": tiny_config(rope=RopeParameters(5e5), num_kv_heads=3, tie_word_embeddings=False),
    "wide heads": tiny_config(hidden_size=40, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=56),
    "narrow heads": tiny_config(hidden_size=64, num_heads=4, num_kv_heads=4, head_dim=4, rms_norm_eps=1e-3),
    "Llama 3.1": tiny_config(rope=LLAMA3, head_dim=16, tie_word_embeddings=False),
    "linear": tiny_config(rope=RopeParameters(10_000.0, "linear", factor=3.0)),
    "Mistral": tiny_config(
        architecture="mistral",
        hidden_size=64,
        num_heads=8,
        intermediate_size=224,
        rope=RopeParameters(1e6),
        tie_word_embeddings=False,
    ),
    "Mistral with wide heads": tiny_config(
        architecture="mistral", hidden_size=40, num_heads=4, head_dim=32, tie_word_embeddings=False
    ),
    "Qwen 2": tiny_config(architecture="qwen2", qkv_bias=True, rope=RopeParameters(1e6)),
    "Qwen 2.5 with YaRN": tiny_config(
        architecture="qwen2", qkv_bias=True, rope=YARN, head_dim=16, tie_word_embeddings=False
    ),
    "Qwen 3": tiny_config(architecture="qwen3", qk_norm=True, rope=RopeParameters(1e6), head_dim=16),
    "Qwen 3 with YaRN": tiny_config(
        architecture="qwen3", qk_norm=True, rope=YARN, head_dim=16, num_kv_heads=3, tie_word_embeddings=False
    ),
}
ALL = pytest.mark.parametrize("name", CONFIGS)


@cache
def case(name: str) -> tuple[ModelConfig, dict[str, torch.Tensor], PreTrainedModel]:
    config = CONFIGS[name]
    weights = tiny_weights(config, seed=len(name))
    return config, weights, transformers_model(config, weights)


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def their_logits(theirs: PreTrainedModel, line: list[int]) -> torch.Tensor:
    logits: torch.Tensor = theirs(torch.tensor([line])).logits[0]
    return logits.double()


def their_logprobs(theirs: PreTrainedModel, line: list[int], begin: int, end: int) -> torch.Tensor:
    rows = their_logits(theirs, line)[begin - 1 : end - 1].log_softmax(dim=-1)
    return rows.gather(1, torch.tensor(line[begin:end])[:, None])[:, 0]


def assert_close(got: tuple[float, ...], expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected, atol=1e-3, rtol=0)


@ALL
@pytest.mark.parametrize("budget", [5, 200])
@pytest.mark.parametrize("one_pass", [False, True])
def test_a_chat_has_the_log_probabilities_of_transformers(name: str, budget: int, one_pass: bool) -> None:
    config, weights, theirs = case(name)
    harness = Harness(tiny_runner(config, weights, 600), 600, token_budget=budget)
    system, user, header, answer = tokens(30, 1), tokens(11, 2), tokens(3, 3), tokens(20, 4)
    again, header2, answer2 = tokens(7, 5), tokens(2, 6), tokens(15, 7)
    harness.submit(
        prefill("system", system),
        prefill("user", user, "system"),
        decode("answer", header, "system", "user", forced=tuple(answer), logprobs=True, one_pass=one_pass),
        prefill("again", again, "system", "user", "answer"),
        decode(
            "answer2", header2, "system", "user", "answer", "again",
            forced=tuple(answer2), logprobs=True, one_pass=one_pass,
        ),
    )  # fmt: skip
    harness.run()
    line = [*system, *user, *header, *answer, 1, 2, *again, *header2, *answer2]
    begin = len(system) + len(user) + len(header)
    assert_close(harness.outcome("answer").logprobs, their_logprobs(theirs, line, begin, begin + 20))
    assert_close(harness.outcome("answer2").logprobs, their_logprobs(theirs, line, len(line) - 15, len(line)))


@ALL
def test_many_prompts_in_one_batch_have_the_log_probabilities_of_transformers(name: str) -> None:
    config, weights, theirs = case(name)
    harness = Harness(tiny_runner(config, weights, 2000), 2000, token_budget=40)
    lines = {f"c{i}": (tokens(length, 10 + i), tokens(9, 50 + i)) for i, length in enumerate([1, 2, 7, 16, 33, 90])}
    harness.submit(*(decode(n, line, forced=tuple(out), logprobs=True) for n, (line, out) in lines.items()))
    harness.run()
    for n, (line, out) in lines.items():
        expected = their_logprobs(theirs, line + out, len(line), len(line) + 9)
        assert_close(harness.outcome(n).logprobs, expected)


@ALL
def test_greedy_tokens_are_those_of_transformers(name: str) -> None:
    config, weights, theirs = case(name)
    harness = Harness(tiny_runner(config, weights, 600), 600)
    prompts = {f"c{i}": tokens(4 + 9 * i, 20 + i) for i in range(4)}
    harness.submit(*(decode(n, line, temperature=0.0, max_tokens=24) for n, line in prompts.items()))
    harness.run()
    for n, prompt in prompts.items():
        outcome = harness.outcome(n)
        assert outcome.state is State.DONE
        begin, end = outcome.content
        assert end - begin == 24
        rows = their_logits(theirs, list(outcome.tokens[:end]))[begin - 1 : end - 1]
        best = rows.topk(2, dim=-1)
        for token, likeliest, (first, second) in zip(
            outcome.tokens[begin:end], best.indices[:, 0].tolist(), best.values.tolist(), strict=True
        ):
            assert token == likeliest or first - second < 1e-3
        assert list(outcome.tokens[:begin]) == prompt


@ALL
@torch.inference_mode()
def test_logits_of_all_tokens_equal_those_of_transformers(name: str) -> None:
    """The forward pass by itself, with attention as the textbook has it."""
    config, weights, theirs = case(name)
    ours = Decoder(config, dict(weights))
    line = tokens(50, 3)
    causal = torch.ones(50, 50, dtype=torch.bool).tril()
    half = config.head_dim // 2
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    angles = torch.arange(50)[:, None] * frequencies
    turn = torch.polar(torch.full_like(angles, scale), angles)[:, None].to(torch.complex64)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turn
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = rotated(q).transpose(0, 1), rotated(k).transpose(0, 1), v.transpose(0, 1)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, causal, enable_gqa=True)
        return out.transpose(0, 1).reshape(50, -1)

    got = ours.logits(ours.forward(torch.tensor(line), attend))
    torch.testing.assert_close(got.double(), their_logits(theirs, line), atol=1e-4, rtol=0)


def test_the_weights_are_taken_out_of_the_dictionary() -> None:
    config = tiny_config(tie_word_embeddings=False, qkv_bias=True, qk_norm=True)
    weights = tiny_weights(config)
    Decoder(config, weights)
    assert weights == {}
