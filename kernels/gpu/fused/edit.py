"""What samples do to their logits before a token is chosen, as `kernels/edits.py` does: penalty, biases, mask."""

from __future__ import annotations

import triton.language as tl

from pavane.kernels.gpu.fused.jit import launched

HIGHEST = tl.constexpr(3.4028234663852886e38)


@launched(
    counts=["words"],
    anywhere=[
        "rows", "repetition", "seen_indptr", "seen_ids", "bias_indptr", "bias_ids", "bias_values", "mask_rows", "masks",
    ],
)  # fmt: skip
def edit_kernel(
    logits: tl.tensor,
    size: tl.tensor,
    rows: tl.tensor,
    repetition: tl.tensor,
    seen_indptr: tl.tensor,
    seen_ids: tl.tensor,
    bias_indptr: tl.tensor,
    bias_ids: tl.tensor,
    bias_values: tl.tensor,
    mask_rows: tl.tensor,
    masks: tl.tensor,
    words: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Edit i, of the row rows[i]: see Edits. What is too large for a float32 becomes the largest."""
    i = tl.program_id(0)
    logits += tl.load(rows + i).to(tl.int64) * size
    lane = tl.arange(0, BLOCK)
    penalty = tl.load(repetition + i)
    end = tl.load(seen_indptr + i + 1)
    for first in range(tl.load(seen_indptr + i), end, BLOCK):
        inside = first + lane < end
        at = logits + tl.load(seen_ids + first + lane, mask=inside, other=0)
        value = tl.load(at, mask=inside, other=0.0)
        value = tl.where(value > 0, tl.div_rn(value, penalty + tl.zeros_like(value)), value * penalty)
        tl.store(at, tl.minimum(value, HIGHEST), mask=inside)
    tl.debug_barrier()  # a token may be among the seen ones and have a bias
    end = tl.load(bias_indptr + i + 1)
    for first in range(tl.load(bias_indptr + i), end, BLOCK):
        inside = first + lane < end
        at = logits + tl.load(bias_ids + first + lane, mask=inside, other=0)
        value = tl.load(at, mask=inside, other=0.0) + tl.load(bias_values + first + lane, mask=inside, other=0.0)
        tl.store(at, tl.minimum(value, HIGHEST), mask=inside)
    mask = tl.load(mask_rows + i).to(tl.int64)
    if mask >= 0:
        tl.debug_barrier()
        for first in range(0, size, BLOCK):
            token = first + lane
            word = tl.load(masks + mask * words + token // 32, mask=token // 32 < words, other=0)
            forbidden = ((word >> (token % 32)) & 1) == 0
            tl.store(logits + token, float("-inf"), mask=forbidden & (token < size))
