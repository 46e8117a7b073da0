"""What a row gets does not depend on the others, on padding or on threads; likeliest tokens; what sampling costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.wishes import Wish, asked, random_logits

from pavane.kernels.batch import NO_TOKEN
from pavane.kernels.sampling import Sampled, sample

torch.set_num_threads(1)

KINDS = [
    Wish(temperature=0),
    Wish(forced=5, top_logprobs=2),
    Wish(),
    Wish(temperature=0.7),
    Wish(temperature=1.3, top_k=9),
    Wish(top_p=0.8),
    Wish(top_p=0.999, top_logprobs=7),
    Wish(min_p=0.05),
    Wish(temperature=0.7, top_k=40, top_p=0.9, min_p=0.01),
    Wish(top_k=600),
    Wish(repetition=1.2, seen=(1, 4, 90)),
    Wish(temperature=0, bias={3: 5.0, 60: -math.inf}, top_logprobs=3),
    Wish(temperature=0.5, allowed=frozenset(range(40, 97, 2)), top_p=0.95),
    Wish(allowed=frozenset()),
]


def row(got: Sampled, i: int) -> tuple[object, ...]:
    """All that sample i was given, to the bit; padding of the likeliest tokens left out."""
    top: list[object] = []
    if got.top_tokens is not None and got.top_logprobs is not None:
        kept = got.top_tokens[i] != NO_TOKEN
        top = [got.top_tokens[i][kept].tolist(), got.top_logprobs[i][kept].tobytes()]
        top = top if kept.any() else []
    return int(got.tokens[i]), got.logprobs[i].tobytes(), *top


@pytest.mark.parametrize("vocab", [97, 256, 700, 4099, 16_384, 49_152])
def test_a_row_is_the_same_to_the_bit_alone_and_among_others(vocab: int) -> None:
    generator = np.random.default_rng(vocab)
    wishes = [replace(kind, seed=i, counter=n) for n in range(2) for i, kind in enumerate(KINDS)]
    logits = random_logits(len(wishes), vocab, 3.0, 4)
    alone = [row(sample(logits[i : i + 1], asked([wish], vocab)), 0) for i, wish in enumerate(wishes)]
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            order = generator.permutation(len(wishes))[: generator.integers(2, len(wishes))].tolist()
            together = sample(logits[order], asked([wishes[i] for i in order], vocab))
            single = row(sample(logits[order[:1]], asked([wishes[order[0]]], vocab)), 0)
        finally:
            torch.set_num_threads(1)
        assert [row(together, i) for i in range(len(order))] == [alone[i] for i in order]
        assert single == alone[order[0]]


def test_elements_beyond_the_counts_are_ignored() -> None:
    vocab = 300
    wishes = [replace(kind, seed=i) for i, kind in enumerate(KINDS)]
    logits = random_logits(len(wishes), vocab, 1.0)
    exact = asked(wishes, vocab)
    longer = {}
    for field in fields(exact):
        value = getattr(exact, field.name)
        if isinstance(value, np.ndarray):
            rubbish = np.full((3, *value.shape[1:]), 123_456_789, dtype=value.dtype)
            longer[field.name] = np.concatenate([value, rubbish])
    got, expected = sample(logits, replace(exact, **longer)), sample(logits, exact)  # type: ignore[arg-type]
    assert [row(got, i) for i in range(len(wishes))] == [row(expected, i) for i in range(len(wishes))]
    assert got.top_tokens is not None
    assert got.top_tokens.shape == (len(wishes), 7)


@pytest.mark.parametrize("vocab", [5, 97, 5000])
def test_the_likeliest_tokens_are_those_of_a_full_sort(vocab: int) -> None:
    wanted = [0, 1, 2, 5, 20, 9]
    logits = random_logits(len(wanted), vocab, 2.0, 5)
    logits[4] = logits[4].round()  # many equals: lower ids first
    wishes = [Wish(temperature=0.5, top_logprobs=n, bias={0: 9.0}) for n in wanted]
    got = sample(logits, asked(wishes))
    assert got.top_tokens is not None
    assert got.top_logprobs is not None
    assert got.top_tokens.shape == got.top_logprobs.shape == (len(wanted), 20)
    assert (got.top_tokens.dtype, got.top_logprobs.dtype) == (np.int32, np.float32)
    own = logits.double().log_softmax(dim=1).numpy()
    for i, n in enumerate(wanted):
        ids = np.argsort(-logits[i].numpy(), kind="stable")[:n]
        assert got.top_tokens[i, : len(ids)].tolist() == ids.tolist()
        assert (got.top_tokens[i, len(ids) :] == NO_TOKEN).all()
        np.testing.assert_allclose(got.top_logprobs[i, : len(ids)], own[i, ids], atol=2e-6)
        assert (got.top_logprobs[i, len(ids) :] == -np.inf).all()


def test_logprobs_are_as_exact_as_float32_however_large_the_vocabulary() -> None:
    logits = random_logits(4, 151_936, 3.0, 2)
    got = sample(logits, asked([Wish(temperature=0), Wish(forced=7), Wish(forced=100_000), Wish(seed=4)]))
    own = logits.double().log_softmax(dim=1)[torch.arange(4), torch.from_numpy(got.tokens).long()]
    np.testing.assert_allclose(got.logprobs, own.numpy(), rtol=2e-7)


def test_the_chosen_token_is_worth_the_same_among_the_likeliest() -> None:
    logits = random_logits(20, 3000, 4.0, 6)
    got = sample(logits, asked([Wish(temperature=0, top_logprobs=1)] * 20))
    assert got.top_tokens is not None
    assert got.top_logprobs is not None
    assert got.top_tokens[:, 0].tolist() == got.tokens.tolist()
    assert got.top_logprobs[:, 0].tolist() == got.logprobs.tolist()


def test_nobody_asks_for_likeliest_tokens() -> None:
    got = sample(random_logits(2, 40, 1.0), asked([Wish(), Wish(temperature=0)]))
    assert got.top_tokens is None
    assert got.top_logprobs is None


def test_no_samples() -> None:
    got = sample(torch.zeros(0, 300), asked([]))
    assert len(got.tokens) == len(got.logprobs) == 0


def fastest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.parametrize("wish", [Wish(), Wish(temperature=0.7, top_k=40, top_p=0.9), Wish(temperature=0.7, top_p=0.9)])
def test_sampling_costs_a_small_part_of_a_sort(wish: Wish) -> None:
    logits = random_logits(8, 49_152, 3.0)
    samples = asked([replace(wish, seed=i) for i in range(8)])
    assert fastest(lambda: sample(logits, samples)) < fastest(lambda: logits.sort(dim=1)) / 2
