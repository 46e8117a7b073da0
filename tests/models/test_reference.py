"""The float64 reference of message graphs against transformers in float64: plain chat, masks, moved keys, gradients."""

import pytest
import torch
from support.theirs import transformers_model
from support.tiny import tiny_config, tiny_weights
from transformers import DynamicCache, PreTrainedModel

from pavane.kernels.reference import attend, rope
from pavane.kernels.rope import RopeParameters, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.reference import Encoding, Placed, ReferenceModel

torch.set_num_threads(1)
CONFIG = tiny_config(num_layers=2)
UNTIED = tiny_config(num_layers=2, tie_word_embeddings=False, num_kv_heads=1, rope=RopeParameters(500_000.0))
BIASED = tiny_config(
    num_layers=2,
    architecture="qwen2",
    qkv_bias=True,
    rope=RopeParameters(1e4, "yarn", factor=4.0, original_max_position=128, beta_fast=8.0, attention_factor=1.2),
)
NORMED = tiny_config(
    num_layers=2,
    architecture="qwen3",
    qk_norm=True,
    rope=RopeParameters(5e5, "llama3", factor=8.0, original_max_position=64),
)
EACH = pytest.mark.parametrize("config", [CONFIG, UNTIED, BIASED, NORMED])


def theirs(config: ModelConfig) -> PreTrainedModel:
    return transformers_model(config, tiny_weights(config)).double()


def ours(config: ModelConfig) -> ReferenceModel:
    return ReferenceModel(config, tiny_weights(config))


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    # transformers computes the angles of RoPE and its norms in float32.
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


@EACH
@torch.inference_mode()
def test_plain_tokens_have_the_logits_of_transformers(config: ModelConfig) -> None:
    line = tokens(40, 0)
    encoding = ours(config).encode(line, 0)
    assert len(encoding) == 40
    assert_same(encoding.logits, theirs(config)(torch.tensor([line])).logits[0])


@EACH
@torch.inference_mode()
def test_a_chain_of_messages_is_the_concatenation(config: ModelConfig) -> None:
    model, line = ours(config), tokens(30, 1)
    whole = model.encode(line, 0)
    visible: list[Placed] = []
    for begin, end in ((0, 9), (9, 10), (10, 24), (24, 30)):
        part = model.encode(line[begin:end], begin, visible)
        torch.testing.assert_close(part.logits, whole.logits[begin:end], atol=1e-10, rtol=0)
        visible.append(Placed(part, begin))


@EACH
@torch.inference_mode()
def test_a_graph_in_place_is_transformers_with_a_mask(config: ModelConfig) -> None:
    """Gaps, overlaps and siblings that do not see each other: one sequence with its own positions and mask."""
    model = ours(config)
    lines = [tokens(6, 2), tokens(8, 3), tokens(5, 4), tokens(9, 5), tokens(4, 6)]
    starts = [0, 6, 3, 20, 40]
    sees: list[list[int]] = [[], [0], [], [1, 2], [3, 0]]
    encodings: list[Encoding] = []
    for line, start, parents in zip(lines, starts, sees, strict=True):
        encodings.append(model.encode(line, start, [Placed(encodings[p], starts[p]) for p in parents]))
    owner = torch.tensor([m for m, line in enumerate(lines) for _ in line])
    positions = torch.tensor([start + i for start, line in zip(starts, lines, strict=True) for i in range(len(line))])
    listed = torch.zeros(5, 5, dtype=torch.bool)
    for message, parents in enumerate(sees):
        listed[message, parents] = True
    n = len(owner)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    mask = listed[owner[:, None], owner[None]] | ((owner[:, None] == owner[None]) & causal)
    bias = torch.zeros(n, n, dtype=torch.float64).masked_fill(~mask, -1e30)
    expected = theirs(config)(
        torch.tensor([[t for line in lines for t in line]]),
        attention_mask=bias[None, None],
        position_ids=positions[None],
    ).logits[0]
    assert_same(torch.cat([e.logits for e in encodings]), expected)


def turned(keys: torch.Tensor, by: int, frequencies: torch.Tensor) -> torch.Tensor:
    """R(by) of rotated keys [1, heads, n, d], by complex numbers."""
    half = keys.shape[-1] // 2
    angles = by * frequencies
    pairs = torch.complex(keys[..., :half].contiguous(), keys[..., half:].contiguous())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


@EACH
@torch.inference_mode()
def test_moved_parents_are_the_keys_of_transformers_rotated(config: ModelConfig) -> None:
    model, other = ours(config), theirs(config)
    first, second, child = tokens(12, 7), tokens(7, 8), tokens(6, 9)
    a = model.encode(first, 0)
    b = model.encode(second, 12, [Placed(a, 0)])
    # Reordered: the second stands before the first, with a gap.
    got = model.encode(child, 30, [Placed(b, 0), Placed(a, 9)])
    stored = other(torch.tensor([first + second]), use_cache=True).past_key_values
    moved = DynamicCache()
    frequencies, _ = rope_frequencies(config.rope, config.head_dim)
    for i in range(config.num_layers):
        keys, values = stored.layers[i].keys, stored.layers[i].values
        order = [turned(keys[:, :, 12:], -12, frequencies), turned(keys[:, :, :12], 9, frequencies)]
        moved.update(torch.cat(order, dim=2), torch.cat([values[:, :, 12:], values[:, :, :12]], dim=2), i)
    expected = other(
        torch.tensor([child]),
        past_key_values=moved,
        position_ids=torch.arange(30, 36)[None],
        attention_mask=torch.cat([torch.zeros(6, 19), torch.full((6, 6), -1e30).triu(1)], dim=1)[None, None].double(),
    ).logits[0]
    assert_same(got.logits, expected)
    in_place = model.encode(child, 30, [Placed(a, 0), Placed(b, 12)])
    assert (in_place.logits - got.logits).abs().max() > 0.01, "moving changed nothing: the test could not fail"


@torch.inference_mode()
def test_only_distances_matter() -> None:
    model, line, parent = ours(CONFIG), tokens(5, 1), model_parent()
    here = model.encode(line, 20, [Placed(parent, 4)])
    there = model.encode(line, 320, [Placed(parent, 304)])
    torch.testing.assert_close(here.logits, there.logits, atol=1e-9, rtol=0)


def model_parent() -> Encoding:
    return ours(CONFIG).encode(tokens(9, 2), 3)


@torch.inference_mode()
def test_the_order_of_the_listed_parents_is_only_their_placement() -> None:
    model, line, parent = ours(CONFIG), tokens(5, 1), model_parent()
    other = ours(CONFIG).encode(tokens(4, 3), 0)
    one = model.encode(line, 30, [Placed(parent, 4), Placed(other, 15)])
    two = model.encode(line, 30, [Placed(other, 15), Placed(parent, 4)])
    torch.testing.assert_close(one.logits, two.logits, atol=1e-10, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    config = tiny_config(num_layers=1, vocab_size=11, hidden_size=12, intermediate_size=8, num_heads=2, num_kv_heads=1)
    weights = {name: weight.double() for name, weight in tiny_weights(config).items()}

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        model = ReferenceModel(config, weights)
        parent = model.encode([3, 1, 4, 1], 0)
        return model.encode([5, 9, 2], 30, [Placed(parent, 7)]).logits.log_softmax(dim=-1)[:, 6].sum()

    tracked = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss(tracked).backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for name, weight in tracked.items():
        assert weight.grad is not None, name
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        up = loss({**weights, name: weights[name] + step * direction})
        down = loss({**weights, name: weights[name] - step * direction})
        expected = ((up - down) / (2 * step)).item()
        assert (weight.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-7), name


# ---- attention by itself


FREQUENCIES = 1e4 ** (-torch.arange(4, dtype=torch.float64) / 4)


def test_attention_is_that_of_torch_with_complex_rotations() -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(5, 6, 8, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 9, 2, 8, generator=generator, dtype=torch.float64)
    q_at, k_at = torch.randint(0, 400, (5,), generator=generator), torch.randint(0, 400, (9,), generator=generator)
    visible = torch.rand(5, 9, generator=generator) < 0.6
    visible[:, 0] = True

    def rotated(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        turns = [turned(x[i][None, :, None], int(p), FREQUENCIES)[0, :, 0] for i, p in enumerate(at)]
        return torch.stack(turns).transpose(0, 1)

    expected = torch.nn.functional.scaled_dot_product_attention(
        rotated(q, q_at), rotated(k, k_at), v.transpose(0, 1), visible, enable_gqa=True
    ).transpose(0, 1)
    torch.testing.assert_close(attend(q, k, v, q_at, k_at, visible, FREQUENCIES), expected, atol=1e-12, rtol=0)


def test_rotations_add_up() -> None:
    x = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    one, two = torch.tensor([0, 7, 300, -5]), torch.tensor([11, -7, 41, 5])
    f, _ = rope_frequencies(RopeParameters(1e4), 16)
    torch.testing.assert_close(rope(rope(x, one, f), two, f), rope(x, one + two, f), atol=1e-12, rtol=0)
    torch.testing.assert_close(rope(x, one * 0, f), x, atol=0, rtol=0)
