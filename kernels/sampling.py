"""Tokens from logits: greedy, sampled with noise that belongs to the message, or forced."""

from __future__ import annotations

import numpy as np
import torch

from pavane.kernels.batch import NO_TOKEN, Float32, Int32, Samples
from pavane.kernels.noise import uniform

_CANDIDATES = 256  # sorted first; a row whose nucleus is larger is sorted whole


def sample(logits: torch.Tensor, samples: Samples) -> tuple[Int32, Float32]:
    """Takes one token per row of `logits`, float32 [samples.count, vocabulary].

    The filters apply in the order temperature, top-k, top-p (over what top-k left), min-p (relative to the likeliest
    token). Tokens as likely as the last one kept are kept too. The noise picks from the kept tokens in the order of
    their ids, so that the choice does not depend on how the filters were computed. Returns the tokens and their
    log-probabilities under softmax(logits), both [samples.count].
    """
    n = samples.count
    tokens = torch.from_numpy(samples.forced[:n]).long()
    free = tokens == NO_TOKEN
    temperature = torch.from_numpy(samples.temperature[:n])
    greedy = free & (temperature == 0)
    if bool(greedy.any()):
        tokens = torch.where(greedy, logits.argmax(dim=1), tokens)
    drawn = (free & (temperature > 0)).nonzero()[:, 0]
    if len(drawn):
        tokens[drawn] = _draw(logits, temperature, samples, drawn)
    # Row by row, unlike logsumexp, whose rounding depends on the number of rows and threads.
    logprobs = logits.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
    return tokens.numpy().astype(np.int32), logprobs.numpy()


def _draw(logits: torch.Tensor, temperature: torch.Tensor, samples: Samples, rows: torch.Tensor) -> torch.Tensor:
    index = rows.numpy()
    logits = logits[rows]
    # From the peak down, so that no temperature above 0 makes an infinity of the likeliest token.
    probs = ((logits - logits.amax(dim=1, keepdim=True)) / temperature[rows, None]).softmax(dim=1)
    top_k, top_p, min_p = samples.top_k[index], samples.top_p[index], samples.min_p[index]
    if bool((top_k > 0).any() or (top_p < 1).any() or (min_p > 0).any()):
        floor = _floor(probs, torch.from_numpy(top_k), torch.from_numpy(top_p), torch.from_numpy(min_p))
        probs = probs.masked_fill(probs < floor[:, None], 0)
    mass = probs.double().cumsum(dim=1)
    noise = torch.from_numpy(uniform(samples.seeds[index], samples.counters[index]))[:, None]
    picked = torch.searchsorted(mass, noise * mass[:, -1:], right=True)[:, 0]
    # noise < 1, but its product with the mass may round up to the mass itself: the last token that has any.
    last = probs.shape[1] - 1 - (probs > 0).flip(1).int().argmax(dim=1)
    return torch.minimum(picked, last)


def _floor(probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """The probability of the least likely token to keep; [rows]."""
    size = probs.shape[1]
    width = min(_CANDIDATES, size)
    ordered = probs.topk(width, dim=1).values
    limit = torch.where(top_k > 0, top_k.clamp(max=size), size)
    floor = torch.where((limit >= size) & (top_p >= 1), 0.0, _floor_of_sorted(ordered, limit, top_p))
    whole = ((limit < size) & (limit > width)) | ((limit >= size) & (top_p < 1) & (ordered.sum(dim=1) < top_p))
    if bool(whole.any()):
        floor[whole] = _floor_of_sorted(probs[whole].sort(dim=1, descending=True).values, limit[whole], top_p[whole])
    return torch.maximum(floor, min_p * ordered[:, 0])


def _floor_of_sorted(ordered: torch.Tensor, limit: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    place = torch.arange(ordered.shape[1])
    within = place < limit[:, None]
    kept = torch.where(within, ordered, 0.0)
    # Total over what top-k left: all of it, or (without top-k) the whole distribution.
    total = torch.where(limit <= ordered.shape[1], kept.sum(dim=1), 1.0)
    before = kept.cumsum(dim=1) - kept
    keep = within & ((before < (top_p * total)[:, None]) | (place == 0))
    last = keep.sum(dim=1) - 1
    return ordered.gather(1, last[:, None])[:, 0]
