"""The Batch contract: its counts, and that padding is padding."""

from dataclasses import fields, replace

import numpy as np
import pytest
from support.padding import padded
from support.samples import greedy

from pavane.kernels.batch import NO_TOKEN, Batch


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def example() -> Batch:
    """Three rows of two calls that share an encoding in slots 0-3: rows 0 and 1 are one causal run, row 2 a decode."""
    return Batch(
        n_rows=3,
        tokens=ints(5, 6, 7),
        previous=ints(NO_TOKEN, NO_TOKEN, 0),
        positions=ints(4, 5, 9),
        slots=ints(8, 9, 12),
        n_segments=3,
        extents=np.array([(0, 4), (8, 2), (10, 1), (12, 1)], dtype=np.int32),
        extent_indptr=ints(0, 1, 2, 4),
        row_indptr=ints(0, 3, 5, 6),
        pair_rows=ints(0, 1, 2, 0, 1, 2),
        pair_deltas=ints(0, 0, 3, 0, 0, 0),
        own=ints(0, 2, 1),
        samples=replace(
            greedy([2]),
            temperature=np.ones(1, dtype=np.float32),
            seeds=np.array([2**64 - 1], dtype=np.uint64),
            seen_indptr=ints(0, 2),
            seen_ids=ints(6, 7),
            bias_indptr=ints(0, 1),
            bias_ids=ints(5),
            bias_values=np.array([-np.inf], dtype=np.float32),
            mask_rows=ints(0),
            masks=np.array([[2**32 - 1, 1]], dtype=np.uint32),
        ),
    )


def test_pairs_are_counted() -> None:
    assert example().n_pairs == 6
    assert replace(example(), n_segments=1).n_pairs == 3


def test_keys_read_with_and_without_sharing() -> None:
    assert example().kv_tokens() == (4 + 2 + 2, 4 * 3 + 2 * 2 + 2 * 1)


@pytest.mark.parametrize("extra", [0, 3])
def test_keys_read_call_by_call(extra: int) -> None:
    assert padded(example(), extra).kv_tokens_by_call() == 4 * 2 + 2 + 2  # two rows of one call read together
    apart = replace(  # the second row of the first call is a decode of a third one
        example(),
        n_segments=4,
        extents=np.array([(0, 4), (8, 1), (10, 1), (12, 1), (9, 1)], dtype=np.int32),
        extent_indptr=ints(0, 1, 2, 4, 5),
        row_indptr=ints(0, 3, 4, 5, 6),
        pair_rows=ints(0, 1, 2, 0, 2, 1),
        own=ints(0, 1, 1, 1),
    )
    assert padded(apart, extra).kv_tokens_by_call() == apart.kv_tokens()[1] == 4 * 3 + 1 + 2 + 1


def slow_kv_tokens(batch: Batch) -> tuple[int, int]:
    once = summed = 0
    for s in range(batch.n_segments):
        length = sum(int(n) for _, n in batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]])
        once += length
        summed += length * int(batch.row_indptr[s + 1] - batch.row_indptr[s])
    return once, summed


@pytest.mark.parametrize("extra", [0, 1, 7])
def test_padding_changes_no_count(extra: int) -> None:
    batch = padded(example(), extra)
    assert (batch.n_rows, batch.n_segments, batch.n_pairs, batch.samples.count) == (3, 3, 6, 1)
    assert batch.kv_tokens() == example().kv_tokens() == slow_kv_tokens(batch)


def test_random_batches_count_the_keys_they_read() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        segments = int(generator.integers(1, 6))
        extents, rows = generator.integers(1, 4, segments), generator.integers(1, 5, segments)
        batch = replace(
            example(),
            n_segments=segments,
            extents=generator.integers(1, 30, (extents.sum(), 2)).astype(np.int32),
            extent_indptr=np.concatenate([[0], extents.cumsum()]).astype(np.int32),
            row_indptr=np.concatenate([[0], rows.cumsum()]).astype(np.int32),
        )
        assert batch.kv_tokens() == slow_kv_tokens(batch)
        assert padded(batch, 5).kv_tokens() == slow_kv_tokens(batch)


@pytest.mark.parametrize("extra", [1, 7])
def test_padding_makes_every_array_longer_and_keeps_what_it_had(extra: int) -> None:
    plain, longer = example(), padded(example(), extra)
    checked = 0
    for before, after in ((plain, longer), (plain.samples, longer.samples)):
        for field in fields(before):  # type: ignore[arg-type]
            array = getattr(before, field.name)
            if isinstance(array, np.ndarray):
                wider = getattr(after, field.name)
                assert len(wider) == len(array) + extra, field.name
                assert wider.dtype == array.dtype, field.name
                assert (wider[: len(array)] == array).all(), field.name
                checked += 1
    assert checked == 27
    assert len(plain.tokens) == 3, "the batch itself stays as it is"


def test_a_step_without_samples_can_be_padded() -> None:
    batch = padded(replace(example(), samples=greedy([])), 2)
    assert batch.samples.count == 0
    assert len(batch.samples.seeds) == 2
    assert batch.samples.bias_indptr.tolist() == [0, 0, 0]
    assert batch.samples.masks.shape == (2, 0)
