"""KV between slots and staged pages, bit for bit, and the checksums of pages."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import launched


@launched(anywhere=["slots"])
def carry_kernel(
    stored: tl.tensor,
    layer_stride: tl.tensor,
    slots: tl.tensor,
    staged: tl.tensor,
    token_stride: tl.tensor,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
    OUT: tl.constexpr,
) -> None:
    """One token in one layer: the words of its slot to its place in the pages if OUT, else the other way."""
    token, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    at = tl.arange(0, BLOCK)
    slot = tl.load(slots + token)
    there = stored + layer * layer_stride + slot * WORDS + at
    here = staged + token * token_stride + layer * WORDS + at
    if OUT:
        tl.store(here, tl.load(there, mask=at < WORDS), mask=at < WORDS)
    else:
        tl.store(there, tl.load(here, mask=at < WORDS), mask=at < WORDS)


@launched()
def checksum_kernel(
    words: tl.tensor, weights: tl.tensor, sums: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """One page of `size` words: the sum of words times weights, modulo 2^64."""
    page = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.int64)
    for begin in range(0, size, BLOCK):
        inside = begin + at < size
        word = tl.load(words + page * size + begin + at, mask=inside, other=0)
        total += word * tl.load(weights + begin + at, mask=inside, other=0)
    tl.store(sums + page, tl.sum(total, axis=0))
