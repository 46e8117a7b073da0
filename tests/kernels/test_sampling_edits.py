"""Penalties, biases and masks against their plain definition, alone and with every filter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wishes import Wish, asked, draw, random_logits, slow_distribution, slow_edits

from pavane.kernels.batch import NO_TOKEN
from pavane.kernels.sampling import sample

torch.set_num_threads(1)

EDITS = [
    Wish(repetition=1.3, seen=(0, 3, 11, 39)),
    Wish(repetition=0.5, seen=tuple(range(20))),
    Wish(bias={0: 2.0, 7: -1.5, 39: 0.25}),
    Wish(bias=dict.fromkeys(range(0, 40, 3), -math.inf)),
    Wish(allowed=frozenset({1, 2, 30, 31, 32, 33, 39})),
    Wish(repetition=1.5, seen=(1, 30, 35), bias={30: 1.0, 31: -0.5}, allowed=frozenset(range(25, 40))),
]
FILTERS = [
    Wish(),
    Wish(temperature=0.6),
    Wish(top_k=5),
    Wish(top_p=0.7),
    Wish(min_p=0.1),
    Wish(temperature=1.4, top_k=9, top_p=0.8, min_p=0.02),
]


def both(edit: Wish, filters: Wish) -> Wish:
    return replace(filters, repetition=edit.repetition, seen=edit.seen, bias=edit.bias, allowed=edit.allowed)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("filters", FILTERS)
def test_tokens_come_as_often_as_they_are_likely_after_the_edits(edit: Wish, filters: Wish) -> None:
    draws = 4000
    wish = both(edit, filters)
    logits = random_logits(1, 40, 1.5, 3)[0]
    seen = np.bincount(draw(logits.expand(draws, -1), [replace(wish, seed=i) for i in range(draws)]), minlength=40)
    expected = np.array(slow_distribution(logits, wish)) * draws
    assert (seen[expected == 0] == 0).all()
    likely = expected >= 10
    chi_square = ((seen - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = max(1, int(likely.sum()) - 1)
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@st.composite
def rows(draw_: st.DrawFn) -> tuple[torch.Tensor, Wish]:
    vocab = draw_(st.sampled_from([2, 5, 31, 32, 33, 64]))
    ids = st.integers(0, vocab - 1)
    logits = random_logits(1, vocab, draw_(st.sampled_from([0.5, 2.0, 6.0])), draw_(st.integers(0, 10_000)))[0]
    for token in draw_(st.lists(ids, max_size=3)):
        logits[token] = -math.inf
    values = st.one_of(st.floats(-5, 5, width=32), st.just(-math.inf))
    wish = Wish(
        temperature=draw_(st.sampled_from([0.25, 0.7, 1.0, 1.0, 3.0])),
        top_k=draw_(st.sampled_from([0, 0, 1, 2, 7, 40, 1000])),
        top_p=draw_(st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.9, 0.99])),
        min_p=draw_(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])),
        repetition=draw_(st.sampled_from([1.0, 0.5, 1.2, 2.0])),
        seen=tuple(draw_(st.lists(ids, max_size=8, unique=True))),
        bias=draw_(st.dictionaries(ids, values, max_size=6)),
        allowed=draw_(st.none() | st.frozensets(ids, min_size=1)),
    )
    return logits, wish


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rows())
def test_every_token_has_its_share_of_the_noise(case: tuple[torch.Tensor, Wish]) -> None:
    """Noise in the middle of each kept token's share must give that token: so the kept set is the defined one, and
    what is kept is as likely as defined."""
    logits, wish = case
    changed = slow_edits(logits, wish)
    greedy = draw(logits[None], [replace(wish, temperature=0)])[0]
    if max(changed) == -math.inf:
        assert greedy == NO_TOKEN
        assert draw(logits[None], [wish]) == [NO_TOKEN]
        return
    assert changed[greedy] == pytest.approx(max(changed), rel=1e-6)
    low, probs, high = (slow_distribution(logits, wish, slack) for slack in (-1e-5, 0.0, 1e-5))
    if [p > 0 for p in low] != [p > 0 for p in high]:  # rounding may decide whether the last one is kept
        return
    ends = np.cumsum(probs)
    wide = [token for token, p in enumerate(probs) if p > 1e-4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pavane.kernels.sampling.uniform", lambda *_: np.array([ends[t] - probs[t] / 2 for t in wide]))
        assert draw(logits.expand(len(wide), -1), [wish] * len(wide)) == wide


def test_greedy_takes_the_likeliest_of_what_the_edits_leave() -> None:
    logits = torch.tensor([1.0, 4.0, 3.0, -1.0, 2.0]).expand(8, -1)
    wishes = [
        Wish(repetition=2.0, seen=(1,)),
        Wish(repetition=2.0, seen=(1, 2)),  # 2 like token 4: the lowest id
        Wish(bias={3: 6.0}),
        Wish(bias={1: -math.inf}),
        Wish(allowed=frozenset({0, 3})),
        Wish(bias={1: -2.0, 2: -1.0}),  # three equals: the lowest id
        Wish(repetition=4.0, seen=(1, 2), bias={1: 2.0}),  # 3, 0.75 and 2: the bias comes after the penalty
        Wish(allowed=frozenset()),
    ]
    assert draw(logits, [replace(wish, temperature=0) for wish in wishes]) == [2, 1, 3, 2, 0, 1, 1, NO_TOKEN]


def test_a_penalty_makes_negative_logits_less_likely_too() -> None:
    logits = torch.tensor([[-1.0, -1.5]])
    assert draw(logits, [Wish(temperature=0, repetition=2.0, seen=(0,))]) == [1]


def test_logits_stay_as_they_are_and_logprobs_are_the_models_own() -> None:
    logits = random_logits(len(EDITS) * 2, 40, 2.0, 1)
    before = logits.clone()
    wishes = [replace(edit, temperature=t) for edit in EDITS for t in (0.0, 0.8)]
    got = sample(logits, asked(wishes, 40))
    assert torch.equal(logits, before)
    expected = logits.double().log_softmax(dim=1)[torch.arange(len(wishes)), torch.from_numpy(got.tokens).long()]
    np.testing.assert_allclose(got.logprobs, expected.numpy(), atol=2e-6)


def test_a_sample_without_a_token_fails_alone() -> None:
    logits = random_logits(9, 300, 1.0, 8)
    logits[3] = -math.inf
    logits[4, 17] = math.nan
    logits[5, 17] = math.inf
    nothing = frozenset[int]()
    wishes = [
        Wish(seed=1, top_p=0.9),
        Wish(allowed=nothing),
        Wish(temperature=0, allowed=nothing),
        Wish(top_k=3),
        Wish(),
        Wish(temperature=0.5, top_p=0.4, top_logprobs=2),
        Wish(temperature=0, bias=dict.fromkeys(range(300), -math.inf)),
        Wish(forced=7, allowed=nothing),
        Wish(temperature=0.5, seed=2),
    ]
    got = sample(logits, asked(wishes, 300))
    assert [token == NO_TOKEN for token in got.tokens] == [i in (1, 2, 3, 4, 5, 6) for i in range(9)]
    assert got.tokens[7] == 7
    assert (got.logprobs[[1, 2, 3, 6]] == -math.inf).all(), "all is forbidden"
    assert np.isnan(got.logprobs[[4, 5]]).all(), "these are no numbers"
    assert np.isfinite(got.logprobs[[0, 7, 8]]).all()
    for i in (0, 7, 8):
        alone = sample(logits[i : i + 1], asked([wishes[i]], 300))
        assert (alone.tokens[0], alone.logprobs[0]) == (got.tokens[i], got.logprobs[i])
    assert got.top_tokens is not None
    assert (got.top_tokens == NO_TOKEN).all()


def test_a_forced_token_that_the_model_holds_impossible() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0], [-math.inf] * 3])
    got = sample(logits, asked([Wish(forced=1), Wish(forced=2)]))
    assert got.tokens.tolist() == [1, 2]
    assert got.logprobs.tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("temperature", [0.0, 1e-44, 1e-5, 1.0, 100.0])
def test_large_values_give_a_token_and_no_nan(temperature: float) -> None:
    top = float(np.finfo(np.float32).max)
    logits = torch.tensor([top, -top, -math.inf, 3.0, 0.0]).repeat(6, 1)
    wishes = [
        Wish(bias={0: top}),
        Wish(bias={3: top, 0: -math.inf}),
        Wish(bias={2: top, 0: -math.inf}),
        Wish(repetition=1e-30, seen=(0, 1, 2, 3)),
        Wish(bias={0: -top, 3: -100.0}),
        Wish(allowed=frozenset({1, 2})),
    ]
    got = sample(logits, asked([replace(wish, temperature=temperature) for wish in wishes], 5))
    assert got.tokens[[0, 1]].tolist() == [0, 3]
    assert got.tokens[5] == 1
    assert 2 not in got.tokens
    assert (got.tokens >= 0).all()
    assert not np.isnan(got.logprobs).any()


@pytest.mark.parametrize(("width", "allowed"), [(3, {64, 69}), (5, {64, 69}), (2, {63})])
def test_bits_beyond_the_vocabulary_are_ignored_and_tokens_beyond_the_mask_are_forbidden(
    width: int, allowed: set[int]
) -> None:
    masks = np.zeros((2, width), dtype=np.uint32)
    masks[1] = 0
    for token in (*allowed, 70, 95):
        if token < 32 * width:
            masks[1, token // 32] |= np.uint32(1 << token % 32)
    samples = asked([Wish(seed=i) for i in range(60)])
    samples = replace(samples, masks=masks, mask_rows=np.ones(60, dtype=np.int32))
    assert set(sample(torch.zeros(60, 70), samples).tokens.tolist()) == allowed


def test_masks_are_awaited_before_they_are_read() -> None:
    samples = asked([Wish(temperature=0, allowed=frozenset()), Wish(temperature=0)], 40)
    calls = []

    def fill() -> None:
        calls.append(1)
        samples.masks[0] = 0
        samples.masks[0, 1] = 1

    logits = random_logits(2, 40, 1.0)
    assert sample(logits, replace(samples, masks_ready=fill)).tokens.tolist() == [32, int(logits[1].argmax())]
    assert len(calls) == 1


def test_masks_that_cannot_be_made_fail_the_step() -> None:
    def fail() -> None:
        raise RuntimeError("no grammar")

    samples = replace(asked([Wish(allowed=frozenset({1}))], 40), masks_ready=fail)
    with pytest.raises(RuntimeError, match="no grammar"):
        sample(random_logits(1, 40, 1.0), samples)
