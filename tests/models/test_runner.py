"""The runner between model and sampler."""

from dataclasses import replace

import numpy as np
from support.harness import tiny_runner
from support.samples import greedy
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import NO_TOKEN, Batch


def step(position: int, previous: int) -> Batch:
    """One row that sees the tokens before it, and one greedy sample of what follows."""

    def ints(*values: int) -> np.ndarray:
        return np.array(values, dtype=np.int32)

    return Batch(
        n_rows=1,
        tokens=ints(3),
        previous=ints(previous),
        positions=ints(position),
        slots=ints(position),
        n_segments=1,
        extents=np.array([(0, position + 1)], dtype=np.int32),
        extent_indptr=ints(0, 1),
        row_indptr=ints(0, 1),
        pair_rows=ints(0),
        pair_deltas=ints(0),
        own=ints(1),
        samples=greedy([0]),
    )


def test_likeliest_tokens_are_passed_on() -> None:
    config = tiny_config()
    batch = step(0, NO_TOKEN)
    asking = replace(batch.samples, top_logprobs=np.array([4], dtype=np.int32))
    result = tiny_runner(config, tiny_weights(config), 8).execute(replace(batch, samples=asking))
    assert result.top_tokens is not None
    assert result.top_logprobs is not None
    assert result.top_tokens.shape == result.top_logprobs.shape == (1, 4)
    assert result.top_tokens[0, 0] == result.tokens[0]


def test_a_step_may_follow_a_sample_that_has_failed() -> None:
    config = tiny_config()
    runner = tiny_runner(config, tiny_weights(config), 8)
    batch = step(0, NO_TOKEN)
    nothing = np.zeros((1, 4), dtype=np.uint32)
    masked = replace(batch.samples, masks=nothing, mask_rows=np.zeros(1, dtype=np.int32))
    failed = runner.execute(replace(batch, samples=masked))
    assert failed.tokens.tolist() == [NO_TOKEN]
    assert failed.logprobs.tolist() == [-np.inf]
    assert runner.execute(step(1, 0)).tokens[0] >= 0
