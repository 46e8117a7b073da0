"""Which weights the filters keep, without sorting: bisection over the bits of the least one.

Weights are float32 in (0, 1], so that they are ordered as their bits are, taken as integers. Sums are float64.
"""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel

HIGHEST = tl.constexpr(0x3F800001)  # the bits after those of 1.0


@kernel
def bits_of(weight: tl.tensor) -> tl.tensor:
    return weight.to(tl.int32, bitcast=True)


@kernel
def at_least(weights: tl.tensor, n: tl.tensor, bits: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """How many of `weights` [n] are not below the one with these bits, and what they are together."""
    lane = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], dtype=tl.int32)
    mass = tl.zeros([BLOCK], dtype=tl.float64)
    for first in range(0, n, BLOCK):
        w = tl.load(weights + first + lane, mask=first + lane < n, other=0.0)
        kept = bits_of(w) >= bits
        count += kept.to(tl.int32)
        mass += tl.where(kept, w, 0.0).to(tl.float64)
    return tl.sum(count, axis=0), tl.sum(mass, axis=0)


@kernel
def kth_of_block(weights: tl.tensor, k: tl.tensor) -> tl.tensor:
    """Bits that at least k of a block's weights reach, and no more than k unless some are equal; 0 if fewer than k are
    above 0."""
    low, high = 0, HIGHEST
    count = k + 1
    bits = bits_of(weights)
    while (high - low > 1) & (count != k):
        middle = low + (high - low) // 2
        count = tl.sum((bits >= middle).to(tl.int32), axis=0)
        if count >= k:
            low = middle
        else:
            high = middle
    return low


@kernel
def top_k(weights: tl.tensor, n: tl.tensor, k: tl.tensor, low: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """(bits, mass): what is not below `bits` is the k largest and their equals; `mass` is the sum of k of them, or of
    all if there are fewer. At least k weights reach `low`, or n < k."""
    high = HIGHEST
    count, mass = at_least(weights, n, low, BLOCK)
    while (high - low > 1) & (count > k):
        middle = low + (high - low) // 2
        reach, sum_of = at_least(weights, n, middle, BLOCK)
        if reach >= k:
            low, count, mass = middle, reach, sum_of
        else:
            high = middle
    if count > k:  # then `low` is the k-th largest itself, and it has equals
        mass -= (count - k).to(tl.float64) * low.to(tl.float32, bitcast=True).to(tl.float64)
    return low, mass


@kernel
def top_p(weights: tl.tensor, n: tl.tensor, target: tl.tensor, low: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The bits of the largest weight that, with all that are not below it, sums to `target` or more, or bits that keep
    the same. What reaches `low` must sum to that."""
    high, over = HIGHEST, 0
    count, _ = at_least(weights, n, low, BLOCK)
    while (high - low > 1) & (count - over > 1):
        middle = low + (high - low) // 2
        reach, mass = at_least(weights, n, middle, BLOCK)
        if mass >= target:
            low, count = middle, reach
        else:
            high, over = middle, reach
    return low
