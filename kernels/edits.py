"""What a sample does to its logits before a token is chosen: repetition penalty, biases, mask."""

from __future__ import annotations

import numpy as np

from pavane.kernels.batch import NO_MASK, Bool, Float32, Samples

_HIGHEST = np.finfo(np.float32).max
# What a byte of a mask lets its eight tokens keep of their logits; [256, 8].
_CEILINGS = np.array([-np.inf, np.inf], dtype=np.float32)[
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
]


def edited(samples: Samples) -> Bool:
    """Which samples have any of it; [count]."""
    n = samples.count
    out: Bool = (samples.repetition[:n] != 1) & (np.diff(samples.seen_indptr[: n + 1]) > 0)
    out |= np.diff(samples.bias_indptr[: n + 1]) > 0
    out |= samples.mask_rows[:n] != NO_MASK
    return out


def edit(logits: Float32, samples: Samples, i: int) -> None:
    """Changes `logits`, float32 [vocabulary], in place as sample `i` says. Forbidden tokens get -inf.

    The repetition penalty is that of Keskar et al., "CTRL", 2019, with the sign handled as is usual since.
    """
    with np.errstate(over="ignore"):  # what is too large for a float32 is cut to the largest
        penalty = samples.repetition[i]
        seen = samples.seen_ids[samples.seen_indptr[i] : samples.seen_indptr[i + 1]]
        if penalty != 1 and len(seen):
            values = logits[seen]
            logits[seen] = np.minimum(np.where(values > 0, values / penalty, values * penalty), _HIGHEST)
        part = slice(samples.bias_indptr[i], samples.bias_indptr[i + 1])
        ids = samples.bias_ids[part]
        if len(ids):
            logits[ids] = np.minimum(logits[ids] + samples.bias_values[part], _HIGHEST)
    mask = int(samples.mask_rows[i])
    if mask != NO_MASK:
        words = samples.masks[mask].astype("<u4", copy=False)
        ceilings = _CEILINGS.take(words.view(np.uint8), axis=0).reshape(-1)[: len(logits)]
        np.minimum(logits[: len(ceilings)], ceilings, out=logits[: len(ceilings)])
        logits[len(ceilings) :] = -np.inf  # what the model has beyond its tokenizer's vocabulary
