"""Sampling against a plain definition in float64, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.wishes import Wish, asked, draw, random_logits, slow_distribution, slow_draw

from pavane.kernels.sampling import sample

torch.set_num_threads(1)


def assert_drawn_as_defined(logits: torch.Tensor, wishes: list[Wish]) -> None:
    allowed = [slow_draw(row, wish) for row, wish in zip(logits, wishes, strict=True)]
    for got, tokens, wish in zip(draw(logits, wishes), allowed, wishes, strict=True):
        assert got in tokens, wish
    assert sum(len(tokens) == 1 for tokens in allowed) >= 0.9 * len(wishes), "the test decides too little"


FILTERS = [
    Wish(),
    Wish(temperature=0.3),
    Wish(temperature=2.5),
    Wish(top_k=1),
    Wish(top_k=7),
    Wish(top_k=5000),
    Wish(top_p=0.05),
    Wish(top_p=0.6),
    Wish(top_p=0.99),
    Wish(min_p=0.1),
    Wish(min_p=1.0),
    Wish(temperature=0.7, top_k=40, top_p=0.9),
    Wish(temperature=1.5, top_k=20, top_p=0.5, min_p=0.05),
    Wish(top_p=0.8, min_p=0.3),
    Wish(temperature=0.8, top_k=300, top_p=0.95),
    Wish(top_k=300),
    Wish(temperature=3.0, top_k=600, top_p=0.7, min_p=0.01),
]


@pytest.mark.parametrize("vocab", [2, 97, 256, 257, 700])
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 4.0])
def test_tokens_are_drawn_as_defined(vocab: int, spread: float) -> None:
    wishes = [replace(wish, seed=1000 * n + i, counter=i) for n, wish in enumerate(FILTERS) for i in range(4)]
    assert_drawn_as_defined(random_logits(len(wishes), vocab, spread, vocab), wishes)


def test_every_filter_alone_in_the_batch_is_drawn_as_defined() -> None:
    for n, wish in enumerate(FILTERS):
        wishes = [replace(wish, seed=n, counter=i) for i in range(8)]
        assert_drawn_as_defined(random_logits(8, 400, 2.0, n), wishes)


def kept_tokens(probs: list[float], wish: Wish, draws: int = 2000) -> set[int]:
    """All tokens that are ever drawn from `probs`."""
    logits = torch.tensor(probs).log().expand(draws, -1)
    return set(draw(logits, [replace(wish, seed=5, counter=i) for i in range(draws)]))


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        (Wish(), {0, 1, 2, 3, 4}),
        (Wish(top_k=2), {1, 3}),
        (Wish(top_k=3), {1, 2, 3, 4}),  # 2 and 4 are equally likely
        (Wish(top_p=0.39), {1}),
        (Wish(top_p=0.41), {1, 3}),
        (Wish(top_p=0.72), {1, 2, 3, 4}),
        (Wish(top_k=2, top_p=0.6), {1, 3}),  # 0.6 of the 0.7 that top-k left
        (Wish(top_k=2, top_p=0.5), {1}),
        (Wish(min_p=0.5), {1, 3}),
        (Wish(min_p=0.3), {1, 2, 3, 4}),
        (Wish(temperature=0.5, min_p=0.5), {1, 3}),  # 0.5625 of the likeliest, squared
        (Wish(temperature=0.5, min_p=0.6), {1}),
        (Wish(top_p=0.99, min_p=0.5), {1, 3}),
        (Wish(top_k=2, min_p=0.01), {1, 3}),
    ],
)
def test_the_kept_tokens_of_a_distribution_made_by_hand(wish: Wish, kept: set[int]) -> None:
    assert kept_tokens([0.04, 0.4, 0.13, 0.3, 0.13], wish) == kept


def test_filters_that_reach_beyond_the_candidates_keep_what_they_should() -> None:
    vocab = 600
    falling = [2.0 - i / vocab for i in range(vocab)]  # rather flat, no ties
    probs = [x / sum(falling) for x in falling]
    kept = kept_tokens(probs, Wish(top_k=300), draws=12_000)
    assert kept == set(range(300))
    whole = kept_tokens(probs, Wish(top_p=0.9), draws=20_000)
    expected = slow_distribution(torch.tensor(probs).log(), Wish(top_p=0.9))
    assert whole == {token for token, p in enumerate(expected) if p}
    assert len(whole) > 256
    assert kept_tokens([1 / vocab] * vocab, Wish(top_k=3, top_p=0.5), draws=20_000) == set(range(vocab))


@pytest.mark.parametrize(
    "wish",
    [
        Wish(),
        Wish(temperature=0.6),
        Wish(temperature=1.7),
        Wish(top_k=12),
        Wish(top_p=0.8),
        Wish(min_p=0.2),
        Wish(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05),
    ],
)
@pytest.mark.parametrize("along", ["counters", "seeds"])
def test_tokens_come_as_often_as_they_are_likely(wish: Wish, along: str) -> None:
    draws = 40_000
    logits = random_logits(1, 40, 1.5, 9)[0]
    wishes = [
        replace(wish, **({"seed": 11, "counter": i} if along == "counters" else {"seed": i, "counter": 11}))
        for i in range(draws)
    ]
    seen = np.bincount(draw(logits.expand(draws, -1), wishes), minlength=40)
    expected = np.array(slow_distribution(logits, wish)) * draws
    assert (seen[expected == 0] == 0).all()
    likely = expected >= 10
    chi_square = ((seen - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = max(1, likely.sum() - 1)
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def kept_of_many(probs: np.ndarray, wish: Wish) -> np.ndarray:
    """The definition of the filters in float64, for a large vocabulary; bool per token."""
    ranked = np.sort(probs)[::-1]
    if wish.top_k:
        ranked = ranked[: wish.top_k]
    before = np.cumsum(ranked) - ranked
    nucleus = ranked[(before < float(np.float32(wish.top_p)) * ranked.sum()) | (np.arange(len(ranked)) == 0)]
    return probs >= max(nucleus[-1], float(np.float32(wish.min_p)) * probs.max())


@pytest.mark.parametrize("order", ["random", "rising", "falling", "steps"])
@pytest.mark.parametrize("vocab", [4096, 20_001])
def test_a_large_vocabulary_is_filtered_as_defined(vocab: int, order: str) -> None:
    logits = random_logits(1, vocab, 2.0, 7)[0]
    if order != "random":
        logits = logits.sort(descending=order == "falling").values
    if order == "steps":
        logits = logits.round()
    noises = (np.arange(40) + 0.5) / 40
    for wish in [
        *(Wish(top_k=k) for k in (1, 3, 50, 511, 700, 3000)),
        *(Wish(top_p=p) for p in (0.01, 0.5, 0.9, 0.999)),
        Wish(min_p=0.02),
        Wish(top_k=100, top_p=0.8),
        Wish(top_k=2000, top_p=0.95, min_p=0.01),
        Wish(),
    ]:
        probs = logits.double().softmax(dim=0).numpy()
        probs = np.where(kept_of_many(probs, wish), probs, 0)
        mass = np.cumsum(probs) / probs.sum()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pavane.kernels.sampling.uniform", lambda *_: noises)
            tokens = np.array(draw(logits.expand(40, -1), [wish] * 40))
        assert (probs[tokens] > 0).all(), wish
        assert (mass[tokens] > noises - 1e-5).all(), wish
        assert (mass[tokens] - probs[tokens] / probs.sum() < noises + 1e-5).all(), wish


def test_the_same_seed_and_counter_give_the_same_token_in_any_batch() -> None:
    generator = np.random.default_rng(0)
    wishes = [replace(FILTERS[i % len(FILTERS)], seed=i // 5, counter=i % 9) for i in range(60)]
    wishes += [Wish(temperature=0), Wish(forced=3)]
    logits = random_logits(len(wishes), 500, 1.5, 4)
    alone = [sample(logits[i : i + 1], asked([wish])) for i, wish in enumerate(wishes)]
    for _ in range(5):
        order = generator.permutation(len(wishes))[: generator.integers(2, len(wishes))]
        tokens, logprobs, *_ = sample(logits[order], asked([wishes[i] for i in order]))
        assert tokens.tolist() == [int(alone[i].tokens[0]) for i in order]
        assert logprobs.tolist() == [float(alone[i].logprobs[0]) for i in order]


def test_seed_and_counter_both_matter() -> None:
    logits = random_logits(1, 500, 0.5)[0].expand(50, -1)
    assert len(set(draw(logits, [Wish(counter=i) for i in range(50)]))) > 25
    assert len(set(draw(logits, [Wish(seed=i) for i in range(50)]))) > 25
    assert len(set(draw(logits, [Wish(seed=2**63 + i) for i in range(50)]))) > 25


def test_greedy_takes_the_likeliest_and_ignores_filters_and_seed() -> None:
    logits = random_logits(20, 300, 1.0)
    wishes = [Wish(temperature=0, top_k=i, top_p=0.5, min_p=0.1, seed=i) for i in range(20)]
    assert draw(logits, wishes) == logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-38, 1e-44])
def test_a_small_temperature_comes_down_to_greedy(temperature: float) -> None:
    logits = random_logits(50, 300, 3.0)
    tokens = draw(logits, [Wish(temperature=temperature, seed=i) for i in range(50)])
    assert tokens == logits.argmax(dim=1).tolist()


def test_forced_tokens_are_taken_whatever_else_is_asked() -> None:
    logits = random_logits(4, 50, 1.0)
    wishes = [Wish(forced=0), Wish(forced=49, temperature=0), Wish(forced=7, top_k=1), Wish(forced=8, top_p=0.1)]
    assert draw(logits, wishes) == [0, 49, 7, 8]


def test_all_kinds_in_one_batch() -> None:
    logits = random_logits(6, 300, 1.0, 2)
    wishes = [Wish(seed=1), Wish(temperature=0), Wish(forced=5), Wish(top_k=1), Wish(temperature=0), Wish(top_p=0.01)]
    best = logits.argmax(dim=1).tolist()
    got = draw(logits, wishes)
    assert got[0] in slow_draw(logits[0], wishes[0])
    assert got[1:] == [best[1], 5, best[3], best[4], best[5]]


def test_logprobs_are_those_of_the_unmodified_distribution() -> None:
    logits = random_logits(len(FILTERS) + 2, 300, 3.0, 6)
    wishes = [*FILTERS, Wish(temperature=0), Wish(forced=17)]
    tokens, logprobs, *_ = sample(logits, asked(wishes))
    assert logprobs.dtype == np.float32
    assert tokens.dtype == np.int32
    expected = logits.double().log_softmax(dim=1)[torch.arange(len(wishes)), torch.from_numpy(tokens).long()]
    np.testing.assert_allclose(logprobs, expected.numpy(), atol=2e-6)


def test_logprobs_are_the_same_to_the_bit_in_any_batch_and_with_any_number_of_threads() -> None:
    logits = random_logits(60, 49_152, 4.0)
    wishes = [Wish(forced=i) for i in range(60)]
    together = sample(logits, asked(wishes)).logprobs
    torch.set_num_threads(2)
    try:
        alone = [sample(logits[i : i + 1], asked([wish]))[1] for i, wish in enumerate(wishes)]
    finally:
        torch.set_num_threads(1)
    assert np.concatenate(alone).tolist() == together.tolist()


def test_noise_next_to_one_takes_the_last_kept_token(monkeypatch: pytest.MonkeyPatch) -> None:
    highest = 1 - 2.0**-53
    monkeypatch.setattr("pavane.kernels.sampling.uniform", lambda seeds, _: np.full(len(seeds), highest))
    logits = random_logits(1, 1000, 2.0)
    for wish in (Wish(), Wish(top_k=3), Wish(top_p=0.5), Wish(min_p=0.2)):
        probs = slow_distribution(logits[0], wish)
        assert draw(logits, [wish]) == [max(token for token, p in enumerate(probs) if p)]


def test_noise_zero_takes_the_first_kept_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavane.kernels.sampling.uniform", lambda seeds, _: np.zeros(len(seeds)))
    logits = random_logits(1, 1000, 2.0)
    for wish in (Wish(top_k=3), Wish(top_p=0.5), Wish(min_p=0.2)):
        probs = slow_distribution(logits[0], wish)
        assert draw(logits, [wish]) == [min(token for token, p in enumerate(probs) if p)]
