"""One token of a row by temperature, top-k, top-p and min-p: `kernels/draw.py`'s definition, one program per row.

So a row's token does not depend on what else is in the batch. Weights are softmax(logits / temperature) up to a factor;
what may be kept is gathered once, and everything after that reads only what was gathered.
"""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel
from pavane.kernels.gpu.fused.threshold import at_least, bits_of, kth_of_block, top_k, top_p


@kernel
def weight_of(logits: tl.tensor, at: tl.tensor, size: tl.tensor, peak: tl.tensor, temperature: tl.tensor) -> tl.tensor:
    """exp((logit - peak) / temperature), 0 beyond the vocabulary; 1 for the peak."""
    value = tl.load(logits + at, mask=at < size, other=float("-inf"))
    return tl.exp((value - peak) / temperature)


@kernel
def gather(
    logits: tl.tensor,
    size: tl.tensor,
    peak: tl.tensor,
    temperature: tl.tensor,
    bits: tl.tensor,
    weights: tl.tensor,
    ids: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Stores weights above 0 that are not below the one with these bits, and their tokens, in the order of tokens.
    Returns how many there are."""
    lane = tl.arange(0, BLOCK)
    n = 0
    for first in range(0, size, BLOCK):
        w = weight_of(logits, first + lane, size, peak, temperature)
        kept = ((bits_of(w) >= bits) & (w > 0)).to(tl.int32)
        place = n + tl.cumsum(kept, axis=0) - 1
        tl.store(weights + place, w, mask=kept != 0)
        tl.store(ids + place, first + lane, mask=kept != 0)
        n += tl.sum(kept, axis=0)
    tl.debug_barrier()  # what one thread stored, others load from here on
    return n


@kernel
def reach(weights: tl.tensor, n: tl.tensor, bits: tl.tensor, target: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Where the running sum of the weights not below `bits` passes `target`; at the latest at the last of them."""
    lane = tl.arange(0, BLOCK)
    before = target * 0
    place, last, first = -1, 0, 0
    while (place < 0) & (first < n):
        i = first + lane
        w = tl.load(weights + i, mask=i < n, other=0.0)
        kept = bits_of(w) >= bits
        w = tl.where(kept, w, 0.0).to(tl.float64)
        mass = tl.sum(w, axis=0)
        last = tl.maximum(last, tl.max(tl.where(kept, i, 0), axis=0))
        if before + mass > target:
            passed = kept & (before + tl.cumsum(w, axis=0) > target)
            hit = tl.min(tl.where(passed, i, n), axis=0)
            place = tl.where(hit < n, hit, place)
        before += mass
        first += BLOCK
    return tl.where(place >= 0, place, last)


@kernel
def draw(
    logits: tl.tensor,
    size: tl.tensor,
    peak: tl.tensor,
    peaks: tl.tensor,
    temperature: tl.tensor,
    k: tl.tensor,
    p: tl.tensor,
    min_p: tl.tensor,
    noise: tl.tensor,
    weights: tl.tensor,
    ids: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The token in whose part of what the filters keep `noise` falls. `peaks` [BLOCK]: the largest logit of each class
    of tokens that are equal modulo BLOCK; `weights`, `ids` [size]: scratch of this row."""
    first = (k > 0) & (k < size)
    floor = bits_of(min_p)  # the peak's weight is 1
    low = tl.maximum(floor, 1)
    total = noise * 0
    if first:
        low = 1
        if k <= BLOCK:  # each of the k largest class maxima is a weight itself
            low = tl.maximum(low, kth_of_block(tl.exp((peaks - peak) / temperature), k))
    elif p < 1:
        # All that is lighter weighs less than 1 - p together, so the nucleus is found before it.
        lane = tl.arange(0, BLOCK)
        mass = tl.zeros([BLOCK], dtype=tl.float64)
        for begin in range(0, size, BLOCK):
            mass += weight_of(logits, begin + lane, size, peak, temperature).to(tl.float64)
        total = tl.sum(mass, axis=0)
        # A little less, so that rounding cannot cut into it.
        bound = ((1 - p.to(tl.float64)) * total / size * 0.999).to(tl.float32)
        low = tl.maximum(low, bits_of(bound))
    n = gather(logits, size, peak, temperature, low, weights, ids, BLOCK)
    if first:
        low, total = top_k(weights, n, k, low, BLOCK)
    if p < 1:
        low = top_p(weights, n, p.to(tl.float64) * total, low, BLOCK)
    low = tl.maximum(low, floor)
    _, total = at_least(weights, n, low, BLOCK)
    return tl.load(ids + reach(weights, n, low, noise * total, BLOCK))
