"""Counter-based noise for sampling: a function of (seed, position in the message), never of the batch.

Philox4x32-10 after Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64) * np.arange(_ROUNDS, dtype=np.uint64)[:, None, None]
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(
    seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Four words of 32 bits per element, for 64-bit keys `seeds` and the low 64 bits `counters` of the counter; [n]."""
    even, odd = np.zeros((2, 2, len(seeds)), dtype=np.uint64)  # words 0 and 2, words 1 and 3
    even[0], odd[0] = counters & _MASK, counters >> _HALF
    keys = (np.stack([seeds & _MASK, seeds >> _HALF]) + _WEYL) & _MASK
    for key in keys:
        crossed = (_MULTIPLIERS * even)[::-1]
        even, odd = (crossed >> _HALF) ^ odd ^ key, crossed & _MASK
    return even[0], odd[0], even[1], odd[1]


def uniform(seeds: npt.NDArray[np.uint64], counters: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits per element; [n]."""
    x0, x1, _, _ = philox(seeds, counters.astype(np.uint64))
    return ((x0 >> np.uint64(5)) * np.float64(1 << 26) + (x1 >> np.uint64(6))) / np.float64(1 << 53)
