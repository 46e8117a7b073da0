"""Tiny models through scheduler, cache and torch backend, against transformers with the same weights in float32."""

import warnings
from functools import cache

import pytest
import torch
from support.harness import Harness, decode, prefill, tiny_runner
from support.tiny import tiny_config, tiny_weights
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from pavane.models.config import ModelConfig
from pavane.models.llama import LlamaModel
from pavane.scheduler.spec import State

torch.set_num_threads(1)

CONFIGS = {
    "grouped": tiny_config(),
    "one key-value head": tiny_config(num_kv_heads=1),
    "as many key-value heads": tiny_config(num_kv_heads=6),
    "untied head": tiny_config(tie_word_embeddings=False),
    "theta of Llama 3": tiny_config(rope_theta=500_000.0, num_kv_heads=3, tie_word_embeddings=False),
    "wide heads": tiny_config(hidden_size=40, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=56),
    "narrow heads": tiny_config(hidden_size=64, num_heads=4, num_kv_heads=4, head_dim=4, rms_norm_eps=1e-3),
}
MISTRAL = {
    "mistral": tiny_config(
        hidden_size=64, num_heads=8, num_kv_heads=2, intermediate_size=224, rope_theta=1e6, tie_word_embeddings=False
    ),
    "mistral with wide heads": tiny_config(
        hidden_size=40, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=140, tie_word_embeddings=False
    ),
}
ALL = [(name, "llama") for name in CONFIGS] + [(name, "mistral") for name in MISTRAL]


@cache
def case(name: str, family: str) -> tuple[ModelConfig, dict[str, torch.Tensor], PreTrainedModel]:
    config = CONFIGS.get(name) or MISTRAL[name]
    weights = tiny_weights(config, seed=len(name))
    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attn_implementation": "eager",
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "llama":
            theirs: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**fields))
        else:
            theirs = MistralForCausalLM(MistralConfig(sliding_window=None, **fields))
    state = {n if n.startswith("lm_head") else f"model.{n}": weight for n, weight in weights.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    theirs.tie_weights()
    return config, weights, theirs.eval()


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


@pytest.mark.parametrize(("name", "family"), ALL)
@pytest.mark.parametrize("budget", [5, 200])
@pytest.mark.parametrize("one_pass", [False, True])
def test_a_chat_has_the_log_probabilities_of_transformers(name: str, family: str, budget: int, one_pass: bool) -> None:
    config, weights, theirs = case(name, family)
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


@pytest.mark.parametrize(("name", "family"), ALL)
def test_many_prompts_in_one_batch_have_the_log_probabilities_of_transformers(name: str, family: str) -> None:
    config, weights, theirs = case(name, family)
    harness = Harness(tiny_runner(config, weights, 2000), 2000, token_budget=40)
    lines = {f"c{i}": (tokens(length, 10 + i), tokens(9, 50 + i)) for i, length in enumerate([1, 2, 7, 16, 33, 90])}
    harness.submit(*(decode(n, line, forced=tuple(out), logprobs=True) for n, (line, out) in lines.items()))
    harness.run()
    for n, (line, out) in lines.items():
        expected = their_logprobs(theirs, line + out, len(line), len(line) + 9)
        assert_close(harness.outcome(n).logprobs, expected)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_greedy_tokens_are_those_of_transformers(name: str, family: str) -> None:
    config, weights, theirs = case(name, family)
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


@pytest.mark.parametrize(("name", "family"), ALL)
@torch.inference_mode()
def test_logits_of_all_tokens_equal_those_of_transformers(name: str, family: str) -> None:
    """The forward pass by itself, with attention as the textbook has it."""
    config, weights, theirs = case(name, family)
    ours = LlamaModel(config, dict(weights))
    line = tokens(50, 3)
    causal = torch.ones(50, 50, dtype=torch.bool).tril()
    half = config.head_dim // 2
    angles = torch.arange(50)[:, None] / config.rope_theta ** (torch.arange(half) / half)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turn
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = rotated(q).transpose(0, 1), rotated(k).transpose(0, 1), v.transpose(0, 1)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, causal, enable_gqa=True)
        return out.transpose(0, 1).reshape(50, -1)

    got = ours.logits(ours.forward(torch.tensor(line), attend))
    torch.testing.assert_close(got.double(), their_logits(theirs, line), atol=1e-3, rtol=0)


def test_the_weights_are_taken_out_of_the_dictionary() -> None:
    config = tiny_config(tie_word_embeddings=False)
    weights = tiny_weights(config)
    LlamaModel(config, weights)
    assert weights == {}
