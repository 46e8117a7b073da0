"""What one row asks of the sampler, and what it must get: plain definitions in float64, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pavane.kernels.batch import NO_MASK, NO_TOKEN, Int32, Samples
from pavane.kernels.noise import uniform
from pavane.kernels.sampling import sample
from support.samples import greedy


@dataclass(frozen=True)
class Wish:
    """What one row asks for."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    counter: int = 0
    forced: int = NO_TOKEN
    repetition: float = 1.0
    seen: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: frozenset[int] | None = None
    top_logprobs: int = 0


def asked(wishes: list[Wish], vocab: int = 0) -> Samples:
    """`vocab` is needed for masks only."""
    masks: list[list[int]] = []
    mask_rows = []
    for wish in wishes:
        mask_rows.append(NO_MASK if wish.allowed is None else len(masks))
        if wish.allowed is not None:
            masks.append([sum(1 << i for i in range(32) if 32 * w + i in wish.allowed) for w in range(-(-vocab // 32))])
    return replace(
        greedy(list(range(len(wishes)))),
        forced=np.array([w.forced for w in wishes], dtype=np.int32),
        temperature=np.array([w.temperature for w in wishes], dtype=np.float32),
        top_p=np.array([w.top_p for w in wishes], dtype=np.float32),
        top_k=np.array([w.top_k for w in wishes], dtype=np.int32),
        min_p=np.array([w.min_p for w in wishes], dtype=np.float32),
        seeds=np.array([w.seed for w in wishes], dtype=np.uint64),
        counters=np.array([w.counter for w in wishes], dtype=np.int64),
        repetition=np.array([w.repetition for w in wishes], dtype=np.float32),
        seen_indptr=_indptr([len(w.seen) for w in wishes]),
        seen_ids=np.array([i for w in wishes for i in w.seen], dtype=np.int32),
        bias_indptr=_indptr([len(w.bias) for w in wishes]),
        bias_ids=np.array([i for w in wishes for i in w.bias], dtype=np.int32),
        bias_values=np.array([v for w in wishes for v in w.bias.values()], dtype=np.float32),
        mask_rows=np.array(mask_rows, dtype=np.int32),
        masks=np.array(masks, dtype=np.uint32).reshape(len(masks), -(-vocab // 32)),
        top_logprobs=np.array([w.top_logprobs for w in wishes], dtype=np.int32),
    )


def _indptr(lengths: list[int]) -> Int32:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def draw(logits: torch.Tensor, wishes: list[Wish]) -> list[int]:
    return sample(logits, asked(wishes, logits.shape[1])).tokens.tolist()


def random_logits(rows: int, vocab: int, spread: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def slow_edits(logits: torch.Tensor, wish: Wish) -> list[float]:
    """The logits that the choice is made from."""
    out = [float(x) for x in logits]
    penalty = float(np.float32(wish.repetition))
    for token in wish.seen:
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    for token, value in wish.bias.items():
        out[token] += float(np.float32(value))
    if wish.allowed is not None:
        out = [x if token in wish.allowed else -math.inf for token, x in enumerate(out)]
    return out


def slow_distribution(logits: torch.Tensor, wish: Wish, slack: float = 0.0) -> list[float]:
    """The distribution to draw from, by token id; the filters' thresholds are scaled by 1 + slack."""
    scaled = [x / float(np.float32(wish.temperature)) for x in slow_edits(logits, wish)]
    peak = max(scaled)
    weights = [math.exp(x - peak) for x in scaled]
    total = sum(weights)
    probs = [w / total for w in weights]
    ranked = sorted(range(len(probs)), key=lambda token: -probs[token])
    kept = ranked[: wish.top_k] if wish.top_k else ranked
    if wish.top_p < 1:
        left = sum(probs[token] for token in kept)
        nucleus: list[int] = []
        mass = 0.0
        for token in kept:
            if nucleus and mass >= float(np.float32(wish.top_p)) * left * (1 + slack):
                break
            nucleus.append(token)
            mass += probs[token]
        kept = nucleus
    floor = probs[kept[-1]]  # ties with the last one kept are kept
    if wish.min_p:
        floor = max(floor, min(1.0, float(np.float32(wish.min_p)) * (1 + slack)) * max(probs))
    cut = [p if p >= floor * (1 - 1e-12) else 0.0 for p in probs]
    total = sum(cut)
    return [p / total for p in cut]


def slow_draw(logits: torch.Tensor, wish: Wish) -> set[int]:
    """The token to draw; more than one where rounding in float32 may decide."""
    noise = float(uniform(np.array([wish.seed], dtype=np.uint64), np.array([wish.counter], dtype=np.int64))[0])
    allowed = set()
    for slack in (-1e-5, 0.0, 1e-5):
        probs = slow_distribution(logits, wish, slack)
        for shift in (-2e-6, 0.0, 2e-6):
            mass, last = 0.0, 0
            for token, p in enumerate(probs):
                if p:
                    last = token
                mass += p
                if noise + shift < mass:
                    break
            allowed.add(last)
    return allowed
