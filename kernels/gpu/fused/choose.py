"""The token of each row: forced, likeliest or drawn; and what it is worth under the model's own distribution."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.draw import draw
from pavane.kernels.gpu.fused.jit import kernel, launched
from pavane.kernels.gpu.fused.noise import uniform


@kernel
def class_peaks(logits: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """(peaks, places, mass) [BLOCK]: the largest logit of each class of tokens that are equal modulo BLOCK, the lowest
    token that has it, and the sum of exp(logit - peak), float64. NaN counts as infinity."""
    lane = tl.arange(0, BLOCK)
    peaks = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    places = tl.zeros([BLOCK], dtype=tl.int32)
    mass = tl.zeros([BLOCK], dtype=tl.float64)
    for first in range(0, size, BLOCK):
        value = tl.load(logits + first + lane, mask=first + lane < size, other=float("-inf"))
        value = tl.where(value == value, value, float("inf"))
        higher = value > peaks
        high = tl.where(higher, value, peaks)
        base = tl.where(tl.abs(high) == float("inf"), 0.0, high)
        mass = mass * tl.exp(peaks - base).to(tl.float64) + tl.exp(value - base).to(tl.float64)
        places = tl.where(higher, first + lane, places)
        peaks = high
    return peaks, places, mass


@launched(
    anywhere=["forced", "temperature", "top_k", "top_p", "min_p", "seeds", "counters"],
)
def choose_kernel(
    logits: tl.tensor,
    size: tl.tensor,
    forced: tl.tensor,
    temperature: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    seeds: tl.tensor,
    counters: tl.tensor,
    weights: tl.tensor,
    ids: tl.tensor,
    tokens: tl.tensor,
    logprobs: tl.tensor,
    own: tl.tensor,
    BLOCK: tl.constexpr,
    EDITED: tl.constexpr,
) -> None:
    """One row; see Ops.sample. `weights`, `ids`: scratch as large as the logits. With
    EDITED log-probabilities are those of `own`, the logits as they came."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * size
    peaks, places, mass = class_peaks(logits, size, BLOCK)
    peak = tl.max(peaks, axis=0)
    token = tl.load(forced + row)
    worth = float("-inf")
    if tl.abs(peak) < float("inf"):
        likeliest = tl.min(tl.where(peaks == peak, places, size), axis=0)
        total = tl.sum(mass * tl.exp(peaks - peak).to(tl.float64), axis=0)
        if token < 0:
            heat = tl.load(temperature + row)
            if heat == 0:
                token = likeliest
            else:
                k, p, floor = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
                noise = uniform(tl.load(seeds + row), tl.load(counters + row))
                weights += row * size
                ids += row * size
                token = draw(logits, size, peak, peaks, heat, k, p, floor, noise, weights, ids, BLOCK)
        if not EDITED:
            worth = (tl.load(logits + token).to(tl.float64) - peak - tl.log(total)).to(tl.float32)
    if EDITED:
        own += row * size
        peaks, places, mass = class_peaks(own, size, BLOCK)
        peak = tl.max(peaks, axis=0)
        if (tl.abs(peak) < float("inf")) & (token >= 0):
            total = tl.sum(mass * tl.exp(peaks - peak).to(tl.float64), axis=0)
            worth = (tl.load(own + token).to(tl.float64) - peak - tl.log(total)).to(tl.float32)
    if (token < 0) & (peak == float("inf")):
        worth = float("nan")
    tl.store(tokens + row, token)
    tl.store(logprobs + row, worth)
