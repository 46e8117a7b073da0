"""Scores by the runner, on every path of the forward pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.batches import chat_batch
from support.harness import INVARIANT, tiny_runner
from support.samples import greedy
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import NO_REFERENCE, Batch, Scores

CONFIG = tiny_config(head_dim=16, tie_word_embeddings=False)
WEIGHTS = tiny_weights(CONFIG)


def scored(batch: Batch, rows: list[int], states: np.ndarray | None = None) -> Batch:
    """`batch` without samples, all `rows` scored by the token in the next one; kept, or compared with `states`."""
    n = len(rows)
    return replace(
        batch,
        samples=greedy([]),
        scores=Scores(
            count=n,
            rows=np.array(rows, dtype=np.int32),
            tokens=batch.tokens[np.array(rows) + 1],
            keep=np.full(n, states is None),
            references=np.full(n, NO_REFERENCE, dtype=np.int32) if states is None else np.arange(n, dtype=np.int32),
            states=np.zeros((0, 0), dtype=np.float32) if states is None else states,
        ),
    )


@pytest.mark.parametrize("backend", INVARIANT)
@pytest.mark.parametrize("count", [20, 90])
def test_scores_are_those_of_the_logits(backend: str, count: int) -> None:
    rng = np.random.default_rng(count)
    left, right = (rng.integers(0, 97, count).tolist() for _ in range(2))
    rows = list(range(3, count - 1))
    logits = []
    for tokens in (left, right):
        runner = tiny_runner(CONFIG, WEIGHTS, 128, backend=backend)
        batch = chat_batch([tokens], [0])
        logits.append(runner._model.logits(batch, batch.tokens).double().clone())
    log_l, log_r = (raw.log_softmax(dim=1)[rows] for raw in logits)
    runner = tiny_runner(CONFIG, WEIGHTS, 128, backend=backend)
    first = runner.execute(scored(chat_batch([left], [0]), rows)).scored
    assert first is not None
    assert np.isnan(first.kl).all()
    second = runner.execute(scored(chat_batch([right], [0]), rows, first.states)).scored
    assert second is not None
    next_right = torch.tensor(right)[torch.tensor(rows) + 1]
    assert np.abs(second.logprobs - log_r.gather(1, next_right[:, None])[:, 0].numpy()).max() < 2e-5
    np.testing.assert_allclose(second.kl, (log_l.exp() * (log_l - log_r)).sum(dim=1).numpy(), rtol=1e-3, atol=1e-5)
    assert np.array_equal(second.top_tokens, log_r.argmax(dim=1).numpy())
    assert second.states.shape == (0, CONFIG.hidden_size)
    again = runner.execute(scored(chat_batch([left], [0]), rows, first.states)).scored
    assert again is not None
    assert again.kl.max() < 1e-7


def test_a_step_may_sample_some_rows_and_score_others() -> None:
    for backend in INVARIANT:
        runner = tiny_runner(CONFIG, WEIGHTS, 64, backend=backend)
        batch = chat_batch([[5, 6, 7], [8, 9, 10, 11]], [0, 0], stride=20)
        alone = runner.execute(replace(batch, samples=greedy([2])))
        both = runner.execute(replace(scored(batch, [3, 4]), samples=greedy([2])))
        assert both.tokens.tolist() == alone.tokens.tolist()
        assert both.scored is not None
        assert len(both.scored.logprobs) == 2
        assert alone.scored is None
