"""Tokens from logits: forced, greedy, or drawn with noise that belongs to the message; and what they were worth.

Every row is computed by itself, in an order of operations that its own wishes decide, so that its token and its
log-probabilities are the same to the bit in any batch and with any number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.batch import NO_TOKEN, Float32, Float64, Int32, Samples
from pavane.kernels.draw import below_largest, block_sums, draw
from pavane.kernels.edits import edit, edited
from pavane.kernels.noise import uniform


class Sampled(NamedTuple):
    """The fields of StepResult that sampling gives."""

    tokens: Int32
    logprobs: Float32
    top_tokens: Int32 | None
    top_logprobs: Float32 | None


def sample(logits: torch.Tensor, samples: Samples) -> Sampled:
    """Takes one token per row of `logits`, float32 [samples.count, vocabulary], which stay as they are.

    The edits of `samples` come first; greedy takes the likeliest of what is left, the lowest id of equals. Else follow
    temperature, top-k, top-p (over what top-k left) and min-p (relative to the likeliest token). Tokens as likely as
    the last one kept are kept too. The noise picks from the kept tokens in the order of their ids, so that the choice
    does not depend on how the filters were computed. Log-probabilities are those under softmax(logits).
    """
    n = samples.count
    rows = np.arange(n)
    raw: Float32 = logits[:n].numpy()
    likeliest = raw.argmax(axis=1)
    peaks = raw[rows, likeliest]
    probs = logits[:n].softmax(dim=1)
    sums = block_sums(probs)
    own: Float32 = probs.numpy()
    # log-softmax of the likeliest token, from which those of all others follow. Over a large vocabulary softmax sums
    # to 1 only up to 1e-5: dividing by what it does sum to makes that 1e-8.
    norms = np.log(own[rows, likeliest] / sums.sum(axis=1, dtype=np.float64))

    tokens = samples.forced[:n].copy()
    free = tokens == NO_TOKEN
    temperature = samples.temperature[:n]
    if samples.masks_ready is not None:
        samples.masks_ready()
    edits = edited(samples)
    changed = np.flatnonzero(free & (edits | (temperature != 0) & (temperature != 1)))
    best, tops = likeliest.copy(), peaks.copy()
    weights, weight_sums = list(own), list(sums)
    if len(changed):
        work = raw[changed]
        for j in np.flatnonzero(edits[changed]).tolist():
            edit(work[j], samples, int(changed[j]))
        best[changed] = work.argmax(axis=1)
        tops[changed] = work[np.arange(len(changed)), best[changed]]
        shaped = _tempered(torch.from_numpy(work), tops[changed], temperature[changed])
        for i, w, s in zip(changed.tolist(), shaped.numpy(), block_sums(shaped), strict=True):
            weights[i], weight_sums[i] = w, s

    able = free & np.isfinite(tops)
    greedy = able & (temperature == 0)
    tokens[greedy] = best[greedy]
    drawn = np.flatnonzero(able & ~greedy)
    if len(drawn):
        noise = uniform(samples.seeds[drawn], samples.counters[drawn])
        filters = [values[drawn].tolist() for values in (samples.top_k, samples.top_p, samples.min_p)]
        for i, u, top_k, top_p, min_p in zip(drawn.tolist(), noise.tolist(), *filters, strict=True):
            tokens[i] = draw(weights[i], weight_sums[i], u, top_k, top_p, min_p)

    logprobs = _worth(raw[rows, tokens], peaks, norms)
    logprobs[(tokens == NO_TOKEN) | ~np.isfinite(peaks)] = -np.inf
    logprobs[(tokens == NO_TOKEN) & (np.isnan(peaks) | (peaks == np.inf))] = np.nan
    return Sampled(tokens, logprobs, *_likeliest(raw, peaks, norms, samples))


def _tempered(logits: torch.Tensor, tops: Float32, temperature: Float32) -> torch.Tensor:
    """softmax(logits / temperature), in place of `logits`; 1 stands for the temperature 0 of a greedy row."""
    divisor = torch.from_numpy(np.where(temperature == 0, np.float32(1), temperature))
    # From the peak down, so that no temperature above 0 makes an infinity of the likeliest token.
    return logits.sub_(torch.from_numpy(tops)[:, None]).div_(divisor[:, None]).softmax(dim=1)


def _worth(logits: Float32, peaks: Float32, norms: Float64) -> Float32:
    """Log-probabilities of tokens from their logits, their rows' highest logits and the log-probabilities of those."""
    with np.errstate(invalid="ignore", over="ignore"):  # logits may be -inf, or too far from their peak for a float32
        return (logits.astype(np.float64) - peaks + norms).astype(np.float32)


def _likeliest(
    raw: Float32, peaks: Float32, norms: Float64, samples: Samples
) -> tuple[Int32, Float32] | tuple[None, None]:
    """The tokens that `samples` wants reported, likeliest first, lower ids before their equals; [samples, most]."""
    wanted = samples.top_logprobs[: samples.count]
    most = int(wanted.max(initial=0))
    if not most:
        return None, None
    tokens = np.full((len(raw), most), NO_TOKEN, dtype=np.int32)
    logprobs = np.full((len(raw), most), -np.inf, dtype=np.float32)
    for i in np.flatnonzero((wanted > 0) & np.isfinite(peaks)).tolist():
        row = raw[i]
        k = min(int(wanted[i]), len(row))
        ids = np.flatnonzero(row >= below_largest(row, k))
        ids = ids[np.argsort(-row[ids], kind="stable")[:k]]
        tokens[i, :k] = ids
        logprobs[i, :k] = _worth(row[ids], peaks[i : i + 1], norms[i : i + 1])
    return tokens, logprobs
