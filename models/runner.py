"""The runner: Batch in, tokens out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from pavane.kernels.batch import Batch, StepResult
from pavane.kernels.contract import AttentionBackend
from pavane.kernels.sampling import Sampled, sample
from pavane.models.llama import LlamaModel


class ModelRunner:
    """One thread calls `execute`, step after step."""

    def __init__(self, model: LlamaModel, attention: AttentionBackend[Any]) -> None:
        self._model = model
        self._attention = attention
        self._sampled = np.zeros(0, dtype=np.int32)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> StepResult:
        began = time.perf_counter()
        n = batch.n_rows
        tokens, previous = batch.tokens[:n], batch.previous[:n]
        if (previous >= 0).any():
            tokens = np.where(previous >= 0, self._sampled[previous], tokens)
        plan = self._attention.plan(batch)
        attention = self._attention
        hidden = self._model.forward(
            torch.from_numpy(tokens).long(), lambda layer, q, k, v: attention.attend(layer, q, k, v, plan)
        )
        count = batch.samples.count
        if count:
            rows = torch.from_numpy(batch.samples.rows[:count]).long()
            logits = self._model.logits(hidden.index_select(0, rows))
            forward_s = time.perf_counter() - began
            sampled = sample(logits, batch.samples)
        else:
            forward_s = time.perf_counter() - began
            sampled = Sampled(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), None, None)
        # A sample without a token has failed; what was already asked to follow it runs on any token and is dropped.
        self._sampled = sampled.tokens.clip(min=0)
        return StepResult(sampled.tokens, sampled.logprobs, forward_s, sampled.top_tokens, sampled.top_logprobs)
