"""Distributions judged by the token that is known to follow, and compared with others over the whole vocabulary.

A distribution is kept as the hidden state it follows from, which is some hundred times smaller than its logits: those
of both sides are made again, a few rows at a time, so that memory is bounded whatever is scored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pavane.kernels.batch import Scored, Scores

HEAD_ROWS = 64  # whose logits exist at a time, of either side
EXACT_ROWS = 8  # ... in float64


def score(head: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, scores: Scores) -> Scored:
    """`states`, float32 [scores.count, hidden_size], are the final hidden states of its rows; `head` makes float32
    logits [n, vocabulary] of such states.

    Sums are taken in float64: KL is a small difference of large numbers. What rounding leaves below 0 is 0.
    """
    logprobs = torch.empty(scores.count)
    top_tokens = torch.empty(scores.count, dtype=torch.int32)
    kl = torch.full((scores.count,), float("nan"))
    tokens = torch.from_numpy(scores.tokens).long()
    references = torch.from_numpy(scores.references).long()
    kept_states = torch.from_numpy(scores.states)
    for first in range(0, scores.count, HEAD_ROWS):
        chunk = slice(first, first + HEAD_ROWS)
        own, wanted = head(states[chunk]), references[chunk]
        top_tokens[chunk] = own.argmax(dim=1)
        compared = bool((wanted >= 0).any())
        reference = head(kept_states[wanted.clamp(min=0)]) if compared else own
        for rows in torch.split(torch.arange(len(own)), EXACT_ROWS):
            log_p = own[rows].double().log_softmax(dim=1)
            logprobs[first + rows] = log_p.gather(1, tokens[first + rows, None])[:, 0].float()
            if compared:
                log_r = reference[rows].double().log_softmax(dim=1)
                divergence = (log_r.exp() * (log_r - log_p)).sum(dim=1).clamp(min=0).float()
                kl[first + rows] = divergence.where(wanted[rows] >= 0, torch.nan)
    keep = torch.from_numpy(np.flatnonzero(scores.keep))
    return Scored(logprobs.numpy(), top_tokens.numpy(), kl.numpy(), states[keep].numpy())
