"""Counter-based noise for sampling: a function of (seed, position in the message), never of the batch.

Philox4x32-10 after Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(
    seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Four words of 32 bits per element, for 64-bit keys `seeds` and the low 64 bits `counters` of the counter; [n]."""
    low, high = counters & _MASK, counters >> _HALF
    x0, x1, x2, x3 = low, high, np.zeros_like(low), np.zeros_like(low)
    k0, k1 = seeds & _MASK, seeds >> _HALF
    for i in range(10):
        if i:
            k0 = (k0 + np.uint64(_WEYL[0])) & _MASK
            k1 = (k1 + np.uint64(_WEYL[1])) & _MASK
        p0, p1 = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (p1 >> _HALF) ^ x1 ^ k0, p1 & _MASK, (p0 >> _HALF) ^ x3 ^ k1, p0 & _MASK
    return x0, x1, x2, x3


def uniform(seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits per element; [n]."""
    x0, x1, _, _ = philox(seeds, counters.astype(np.uint64))
    return ((x0 >> np.uint64(5)) * np.float64(1 << 26) + (x1 >> np.uint64(6))) / np.float64(1 << 53)
