"""The noise of `kernels/noise.py`, bit by bit: Philox4x32-10 keyed by the seed, counted by the index in the message."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import kernel


@kernel
def uniform(seed: tl.tensor, counter: tl.tensor) -> tl.tensor:
    """float64 in [0, 1) with 53 random bits, of a 64-bit seed and a 64-bit counter."""
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = ((counter >> 32) & 0xFFFFFFFF).to(tl.uint32)
    x0, x1, _, _ = tl.philox(seed, low, high, low * 0, low * 0)
    return ((x0 >> 5).to(tl.float64) * 67108864.0 + (x1 >> 6).to(tl.float64)) * (1.0 / 9007199254740992.0)
