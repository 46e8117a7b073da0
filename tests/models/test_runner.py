"""The runner between model and sampler."""

from dataclasses import replace

import numpy as np
import pytest
from support.harness import INVARIANT, tiny_runner
from support.samples import greedy
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import NO_TOKEN, Batch, MoveIn, MoveOut, Moves


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


@pytest.mark.parametrize("backend", INVARIANT)
def test_a_call_goes_on_with_keys_that_were_elsewhere_meanwhile(backend: str) -> None:
    """The same logits to the bit, though another call had their slots in between, and they came back into others."""
    config = tiny_config(head_dim=16)
    weights = tiny_weights(config)

    def row(position: int, slots: list[int], moves: Moves | None = None) -> Batch:
        """A token at `position`, behind those in `slots`, and written to the last of these."""
        return replace(
            step(position, NO_TOKEN),
            tokens=np.array([7 + 5 * position], dtype=np.int32),
            slots=np.array(slots[-1:], dtype=np.int32),
            extents=np.array([(slot, 1) for slot in slots], dtype=np.int32),
            extent_indptr=np.array([0, len(slots)], dtype=np.int32),
            moves=moves,
        )

    alone = tiny_runner(config, weights, 32, backend=backend)
    expected = [alone.execute(row(position, list(range(position + 1)))) for position in range(3)]
    runner = tiny_runner(config, weights, 32, backend=backend, host_pages=2)
    for position in range(2):
        assert runner.execute(row(position, list(range(position + 1)))).moved is None
    extents = np.array([(0, 2)], dtype=np.int32)
    gone = runner.execute(row(5, [1], Moves(out=(MoveOut(b"key", extents),)))).moved
    assert gone is not None
    assert gone.out_tokens == 2
    extents = np.array([(19, 1), (30, 1)], dtype=np.int32)
    result = runner.execute(Batch.only(Moves(back=(MoveIn(1, b"key", 0, extents),))))
    assert result.moved is not None
    assert result.moved.arrived == (1,)
    assert len(result.tokens) == 0
    last = runner.execute(row(2, [19, 30, 1]))
    assert (last.tokens, last.logprobs) == (expected[2].tokens, expected[2].logprobs)
    assert last.logprobs != runner.execute(row(2, [30, 30, 1])).logprobs, "this would not notice wrong keys"
