"""Scores of rows against plain float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pavane.kernels.batch import NO_REFERENCE, Scores
from pavane.kernels.scoring import HEAD_ROWS, score

VOCABULARY, HIDDEN = 301, 24
HEAD = torch.randn(HIDDEN, VOCABULARY, generator=torch.Generator().manual_seed(1))


def head(states: torch.Tensor) -> torch.Tensor:
    assert 0 < len(states) <= HEAD_ROWS, "logits of more rows than may exist at a time"
    return states @ HEAD


def scores(count: int, references: list[int], kept: torch.Tensor) -> Scores:
    rng = np.random.default_rng(count)
    return Scores(
        count=count,
        rows=np.arange(count, dtype=np.int32),
        tokens=rng.integers(0, VOCABULARY, count).astype(np.int32),
        keep=rng.integers(0, 2, count).astype(bool),
        references=np.array(references, dtype=np.int32),
        states=kept.numpy(),
    )


@pytest.mark.parametrize("count", [1, 7, HEAD_ROWS, HEAD_ROWS + 1, 3 * HEAD_ROWS - 5])
@pytest.mark.parametrize("mixed", [False, True])
def test_rows_are_compared_with_their_references(count: int, mixed: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    own, kept = (torch.randn(count, HIDDEN, generator=generator) for _ in range(2))
    order = torch.randperm(count, generator=generator).tolist()
    references = [NO_REFERENCE if mixed and i % 3 == 0 else place for i, place in enumerate(order)]
    wanted = scores(count, references, kept)
    got = score(head, own, wanted)
    log_p = (own.double() @ HEAD.double()).log_softmax(dim=1)
    log_r = (kept[order].double() @ HEAD.double()).log_softmax(dim=1)
    kl = (log_r.exp() * (log_r - log_p)).sum(dim=1)
    compared = np.array(references) != NO_REFERENCE
    assert np.abs(got.logprobs - log_p[torch.arange(count), wanted.tokens].numpy()).max() < 1e-4
    assert np.array_equal(got.top_tokens, log_p.argmax(dim=1).numpy())
    assert np.isnan(got.kl[~compared]).all()
    np.testing.assert_allclose(got.kl[compared], kl.numpy()[compared], rtol=1e-4, atol=1e-5)
    assert np.array_equal(got.states, own.numpy()[wanted.keep])


def test_equal_states_diverge_by_nothing_and_close_ones_never_by_less() -> None:
    own = 30 * torch.randn(100, HIDDEN, generator=torch.Generator().manual_seed(2))
    same = score(head, own, scores(100, list(range(100)), own))
    assert (same.kl == 0).all()
    near = score(head, own, scores(100, list(range(100)), own + 1e-6 * own.roll(1)))
    assert (near.kl >= 0).all()
    assert near.kl.max() < 1e-6


def test_logits_that_are_no_numbers_give_none() -> None:
    own = torch.randn(3, HIDDEN)
    spoilt = own.clone()
    spoilt[1] = torch.nan
    wanted = scores(3, [0, 1, 2], own)
    got = score(head, spoilt, wanted)
    assert np.isnan(got.logprobs).tolist() == np.isnan(got.kl).tolist() == [False, True, False]
    theirs = score(head, own, replace(wanted, states=spoilt.numpy()))
    assert np.isnan(theirs.kl).tolist() == [False, True, False]
    assert not np.isnan(theirs.logprobs).any()
