"""The runner: Batch in, tokens out."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import torch

from pavane.kernels.asked import Asked, by_row
from pavane.kernels.batch import Batch, Int32, StepResult
from pavane.kernels.contract import AttentionBackend
from pavane.kernels.moves import Mover
from pavane.kernels.pages import SlotPages
from pavane.kernels.sampling import Sampled, sample
from pavane.kernels.scoring import score
from pavane.models.decoder import Decoder


class ForwardPass(Protocol):
    @property
    def hidden_size(self) -> int: ...

    def logits(self, batch: Batch, tokens: Int32, asked: Asked | None = None) -> torch.Tensor:
        """Runs the layers over the rows of `batch`, whose inputs are `tokens` [n_rows]; float32 logits
        [samples.count, vocab_size] of the rows that have a sample. Fills in what is asked for besides."""
        ...

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """float32 logits [n, vocab_size] of final hidden states, contiguous float32 [n, hidden_size]."""
        ...

    def pages(self) -> SlotPages:
        """See AttentionBackend."""
        ...


class TorchForward:
    """A model in torch, with any attention backend."""

    def __init__(self, model: Decoder, attention: AttentionBackend[Any]) -> None:
        self._model = model
        self._attention = attention
        self.hidden_size = model.config.hidden_size

    def logits(self, batch: Batch, tokens: Int32, asked: Asked | None = None) -> torch.Tensor:
        attention = self._attention
        plan = attention.plan(batch)
        hidden = self._model.forward(
            torch.from_numpy(tokens).long(), lambda layer, q, k, v: attention.attend(layer, q, k, v, plan)
        )
        if asked is not None and asked.states is not None and batch.scores is not None:
            asked.states.copy_(hidden.index_select(0, torch.from_numpy(batch.scores.rows).long()))
        if asked is not None and asked.shares is not None:
            config = self._model.config
            torch.div(plan.shares, config.num_layers * config.num_heads, out=asked.shares)
        rows = torch.from_numpy(batch.samples.rows[: batch.samples.count]).long()
        return self._model.logits(hidden.index_select(0, rows))

    def head(self, states: torch.Tensor) -> torch.Tensor:
        return self._model.logits(states.to(self._model.dtype))

    def pages(self) -> SlotPages:
        return self._attention.pages()


class ModelRunner:
    """One thread calls `execute`, step after step. `mover` has a tier below the slots, if there is one."""

    def __init__(self, model: ForwardPass, mover: Mover | None = None) -> None:
        self._model = model
        self.mover = mover
        self._sampled = np.zeros(0, dtype=np.int32)

    def pages(self) -> SlotPages:
        """See AttentionBackend."""
        return self._model.pages()

    @torch.inference_mode()
    def execute(self, batch: Batch) -> StepResult:
        if self.mover is not None:
            self.mover.begin(batch.moves)
        began = time.perf_counter()
        n = batch.n_rows
        tokens, previous = batch.tokens[:n], batch.previous[:n]
        if (previous >= 0).any():
            tokens = np.where(previous >= 0, self._sampled[previous], tokens)
        asked = Asked.by(batch, self._model.hidden_size)
        logits = self._model.logits(batch, tokens, asked) if n else None
        forward_s = time.perf_counter() - began
        if logits is not None and batch.samples.count:
            sampled = sample(logits, batch.samples)
        else:
            sampled = Sampled(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), None, None)
        # A sample without a token has failed; what was already asked to follow it runs on any token and is dropped.
        self._sampled = sampled.tokens.clip(min=0)
        scored = shares = None
        if batch.scores is not None and asked.states is not None:
            scored = score(self._model.head, asked.states, batch.scores)
        if asked.shares is not None:
            shares = by_row(batch, asked.shares)
        moved = self.mover.report(wait=not n) if self.mover is not None else None
        return StepResult(
            sampled.tokens, sampled.logprobs, forward_s, sampled.top_tokens, sampled.top_logprobs, moved, scored, shares
        )
