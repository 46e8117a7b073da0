"""Tokens from logits in torch, without a word to the host: what `kernels.sampling` and `kernels.draw` do, for all rows
at once. Noise is that of `kernels.noise`."""

from __future__ import annotations

import torch

from pavane.kernels.batch import NO_TOKEN

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def torch_uniform(seeds: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1), to the bit `kernels.noise.uniform`; int64 [n] both, seeds the bits of a uint64.

    Words of 32 bits live in int64: products wrap, and their upper half is what an unsigned product has.
    """
    low, high = counters & _MASK, torch.zeros_like(counters)
    low_odd, high_odd = (counters >> 32) & _MASK, torch.zeros_like(counters)
    keys = [seeds & _MASK, (seeds >> 32) & _MASK]
    for _ in range(_ROUNDS):
        first, second = low * _MULTIPLIERS[0], high * _MULTIPLIERS[1]
        low, low_odd, high, high_odd = (
            ((second >> 32) & _MASK) ^ low_odd ^ keys[0],
            second & _MASK,
            ((first >> 32) & _MASK) ^ high_odd ^ keys[1],
            first & _MASK,
        )
        keys = [(key + weyl) & _MASK for key, weyl in zip(keys, _WEYL, strict=True)]
    return ((low >> 5).double() * (1 << 26) + (low_odd >> 6).double()) / (1 << 53)


def torch_sample(
    logits: torch.Tensor,
    forced: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    top_k: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    counters: torch.Tensor,
    own: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See Ops.sample; log-probabilities are those of the logits `own`."""
    peaks, likeliest = logits.max(dim=1)
    divisor = torch.where(temperature == 0, 1.0, temperature)
    weights = ((logits - peaks[:, None]) / divisor[:, None]).softmax(dim=1)
    drawn = _draw(weights, torch_uniform(seeds, counters), top_p, top_k, min_p)
    chosen = torch.where(temperature == 0, likeliest, drawn)
    able = peaks.isfinite()
    chosen = torch.where(forced == NO_TOKEN, torch.where(able, chosen, NO_TOKEN), forced)
    peaks = own.max(dim=1).values
    worth = own.gather(1, chosen.clamp(min=0)[:, None])[:, 0].double() - peaks
    worth = worth - (own - peaks[:, None]).exp().sum(dim=1, dtype=torch.float64).log()
    none = chosen == NO_TOKEN
    worth = torch.where(peaks.isfinite() & ~none, worth, -torch.inf)
    return chosen.int(), torch.where(none & (peaks.isnan() | peaks.isposinf()), torch.nan, worth).float()


def _draw(
    weights: torch.Tensor, noise: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """As `kernels.draw.draw`, per row; int64 [n]."""
    size = weights.shape[1]
    ranked = weights.sort(dim=1, descending=True).values
    limit = torch.where((top_k > 0) & (top_k < size), top_k, size).long()[:, None]
    counted = torch.arange(size, device=weights.device) < limit
    mass = torch.where(counted, ranked, 0).double().cumsum(dim=1)
    target = top_p.double()[:, None] * mass[:, -1:]
    nucleus = torch.searchsorted(mass, target)
    nucleus = torch.where(top_p[:, None] < 1, torch.minimum(nucleus, limit - 1), limit - 1)
    floor = torch.maximum(ranked.gather(1, nucleus), min_p[:, None] * ranked[:, :1])
    kept = torch.where(weights >= floor, weights, 0).double().cumsum(dim=1)
    place = torch.searchsorted(kept, noise[:, None] * kept[:, -1:], right=True)
    # The last token that adds to the sum, should rounding carry the target past it.
    last = torch.searchsorted(kept, kept[:, -1:].contiguous())
    return torch.minimum(place, last)[:, 0]
