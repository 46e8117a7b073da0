"""Samples that ask for nothing special, to be changed with dataclasses.replace."""

import numpy as np

from pavane.kernels.batch import NO_MASK, NO_TOKEN, Samples


def greedy(rows: list[int]) -> Samples:
    """The likeliest token after each of `rows`."""
    n = len(rows)
    return Samples(
        count=n,
        rows=np.array(rows, dtype=np.int32),
        forced=np.full(n, NO_TOKEN, dtype=np.int32),
        temperature=np.zeros(n, dtype=np.float32),
        top_p=np.ones(n, dtype=np.float32),
        top_k=np.zeros(n, dtype=np.int32),
        min_p=np.zeros(n, dtype=np.float32),
        seeds=np.zeros(n, dtype=np.uint64),
        counters=np.zeros(n, dtype=np.int64),
        repetition=np.ones(n, dtype=np.float32),
        seen_indptr=np.zeros(n + 1, dtype=np.int32),
        seen_ids=np.zeros(0, dtype=np.int32),
        bias_indptr=np.zeros(n + 1, dtype=np.int32),
        bias_ids=np.zeros(0, dtype=np.int32),
        bias_values=np.zeros(0, dtype=np.float32),
        mask_rows=np.full(n, NO_MASK, dtype=np.int32),
        masks=np.zeros((0, 0), dtype=np.uint32),
        masks_ready=None,
        top_logprobs=np.zeros(n, dtype=np.int32),
    )
