"""One token from the weights of a row: top-k, top-p, min-p, then inverse transform sampling.

A vocabulary is large and what decides is small: sums are taken over blocks and only the block that matters is added up
element by element, and only what may be kept is sorted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from pavane.kernels.batch import Float32

BLOCK = 256
_CLASSES = 1024
_TINY = float(np.finfo(np.float32).smallest_subnormal)


def block_sums(weights: torch.Tensor) -> Float32:
    """Sums over blocks of BLOCK elements of each row of `weights`, [rows, ceil(elements / BLOCK)], all float32."""
    rows, size = weights.shape
    whole = size // BLOCK * BLOCK
    sums = torch.sum(weights[:, :whole].reshape(rows, size // BLOCK, BLOCK), dim=2)
    if whole < size:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    out: Float32 = sums.numpy()
    return out


def draw(weights: Float32, sums: Float32, noise: float, top_k: int, top_p: float, min_p: float) -> int:
    """The token in whose part of what the filters keep of `weights` [vocabulary] `noise` in [0, 1) falls; `sums` are
    those of the row's blocks."""
    total = float(sums.sum(dtype=np.float64))
    floor = float(np.float32(min_p) * weights.max()) if min_p > 0 else 0.0
    first = 0 < top_k < len(weights)
    if first:
        bound = below_largest(weights, top_k)
    elif top_p < 1:
        # All that is lighter weighs less than 1 - top_p together, so the nucleus is found before it.
        bound = max((1 - top_p) * total / len(weights), floor)
    else:
        bound = floor
    if bound == 0 and not first:
        return _reach(weights, sums, noise * total, "right")
    ids = np.flatnonzero(weights >= max(bound, _TINY))
    kept = weights[ids]
    if first or top_p < 1:
        ranked = np.sort(kept)[::-1]
        if first:
            ranked = ranked[:top_k]
            total = float(ranked.sum(dtype=np.float64))
        last = _reach(ranked, _sums(ranked), top_p * total, "left") if top_p < 1 else -1
        floor = max(floor, float(ranked[last]))
    if floor > bound:
        places = np.flatnonzero(kept >= floor)
        ids, kept = ids[places], kept[places]
    sums = _sums(kept)
    return int(ids[_reach(kept, sums, noise * float(sums.sum(dtype=np.float64)), "right")])


def below_largest(values: Float32, k: int) -> float:
    """A lower bound of the k-th largest value, and for most inputs not far from it."""
    classes = max(_CLASSES, 2 * k)
    whole = len(values) // classes * classes
    if whole < 4 * classes:
        return -np.inf
    # Each of the k largest maxima of interleaved classes is a value itself.
    maxima = values[:whole].reshape(-1, classes).max(axis=0)
    return float(np.partition(maxima, -k)[-k])


def _sums(values: Float32) -> Float32:
    return np.add.reduceat(values, np.arange(0, len(values), BLOCK))


def _reach(values: Float32, sums: Float32, target: float, side: Literal["left", "right"]) -> int:
    """Where the running sum of `values`, whose blocks have `sums`, reaches (left) or passes (right) `target`; at the
    latest at the last element that adds to it, since the target may have been rounded up."""
    block, before = _step(sums, target, side)
    place, _ = _step(values[block * BLOCK : (block + 1) * BLOCK], target - before, side)
    return block * BLOCK + place


def _step(values: Float32, target: float, side: Literal["left", "right"]) -> tuple[int, float]:
    mass = values.cumsum(dtype=np.float64)
    place = int(min(mass.searchsorted(target, side), mass.searchsorted(mass[-1])))
    return place, float(mass[place - 1]) if place else 0.0
