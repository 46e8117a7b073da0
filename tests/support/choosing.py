"""A runner with logits of its own, that does to them what the Batch contract says, one sample after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pavane.kernels.batch import NO_MASK, NO_TOKEN, Batch, StepResult
from support.harness import FakeRunner


@dataclass(frozen=True)
class Asked:
    """What the batch said about one sampled token of the message with this seed."""

    index: int
    repetition: float
    seen: frozenset[int]
    bias: dict[int, float]
    allowed: frozenset[int] | None  # None: no mask


class ChoosingRunner(FakeRunner):
    """Takes the likeliest token of edited logits that are a function of (seed, index). Remembers what it was asked."""

    def __init__(self, slots: int, vocab: int = 97) -> None:
        super().__init__(slots, vocab)
        self.asked: dict[int, list[Asked]] = {}

    def logits(self, seed: int, index: int) -> npt.NDArray[np.float64]:
        return np.random.default_rng([seed, index]).normal(0.0, 3.0, self.vocab)

    def execute(self, batch: Batch) -> StepResult:
        super().execute(batch)
        s = batch.samples
        if s.masks_ready is not None:
            s.masks_ready()
        most = int(s.top_logprobs.max(initial=0))
        tokens = np.full(s.count, NO_TOKEN, dtype=np.int32)
        logprobs = np.full(s.count, -np.inf, dtype=np.float32)
        top_tokens = np.full((s.count, most), NO_TOKEN, dtype=np.int32)
        top_logprobs = np.full((s.count, most), -np.inf, dtype=np.float32)
        for i in range(s.count):
            raw = self.logits(int(s.seeds[i]), int(s.counters[i]))
            own = raw - np.log(np.exp(raw).sum())
            n = int(s.top_logprobs[i])
            order = np.argsort(-own)[:n]
            top_tokens[i, : len(order)], top_logprobs[i, : len(order)] = order, own[order]
            token = int(s.forced[i])
            if token == NO_TOKEN:
                token = self._choose(batch, i, raw.copy())
            if token != NO_TOKEN:
                tokens[i], logprobs[i] = token, own[token]
        return StepResult(tokens, logprobs, 0.0, top_tokens if most else None, top_logprobs if most else None)

    def _choose(self, batch: Batch, i: int, logits: npt.NDArray[np.float64]) -> int:
        s = batch.samples
        seen = s.seen_ids[s.seen_indptr[i] : s.seen_indptr[i + 1]]
        logits[seen] = np.where(logits[seen] > 0, logits[seen] / s.repetition[i], logits[seen] * s.repetition[i])
        at = slice(int(s.bias_indptr[i]), int(s.bias_indptr[i + 1]))
        logits[s.bias_ids[at]] += s.bias_values[at]
        allowed = None
        if s.mask_rows[i] != NO_MASK:
            bits = np.unpackbits(s.masks[s.mask_rows[i]].view(np.uint8), bitorder="little")[: self.vocab]
            logits[bits == 0] = -np.inf
            allowed = frozenset(np.flatnonzero(bits).tolist())
        asked = Asked(
            int(s.counters[i]),
            float(s.repetition[i]),
            frozenset(seen.tolist()),
            dict(zip(s.bias_ids[at].tolist(), s.bias_values[at].tolist(), strict=True)),
            allowed,
        )
        self.asked.setdefault(int(s.seeds[i]), []).append(asked)
        return int(logits.argmax()) if np.isfinite(logits).any() else NO_TOKEN
