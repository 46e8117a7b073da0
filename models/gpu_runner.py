"""The runner of a GPU: what a step decides goes there in one copy, and its tokens come back in one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.asked import by_row
from pavane.kernels.batch import Batch, Float32, RunnerLostError, Scored, StepResult
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.ops import Ops
from pavane.kernels.gpu.sampling import Chosen, choose, finish, sample_arrays, wishes_of
from pavane.kernels.moves import Mover
from pavane.kernels.pages import SlotPages
from pavane.kernels.sampling import Sampled
from pavane.kernels.scoring import score
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_graphs import Graphs, Record, input_tokens


class Forward(NamedTuple):
    """What the layers gave, on the device."""

    hidden: torch.Tensor  # [rows, hidden_size], before the norm
    samples: dict[str, torch.Tensor]  # of `sample_arrays`
    shares: torch.Tensor | None  # on the CPU; see AttentionPlan


class GpuModel:
    """Weights, KV and attention on a device; `check` raises RuntimeError if the device does not answer any more.
    Decode steps run as captured graphs if there is a way to `record` them."""

    def __init__(
        self, decoder: GpuDecoder, attention: FlashInferAttention, ops: Ops, device: torch.device,
        check: Callable[[], None], record: Record | None = None,
    ) -> None:  # fmt: skip
        self.decoder = decoder
        self.attention = attention
        self.ops = ops
        self.device = device
        self.check = check
        self._graphs = Graphs(decoder, attention, record) if record is not None else None

    def pages(self) -> SlotPages:
        return self.attention.pages()

    def forward(self, batch: Batch, last: torch.Tensor) -> Forward:
        """`last` int32: the samples of the step before."""
        captured = self._graphs.forward(batch, last) if self._graphs is not None else None
        if captured is not None:
            return Forward(*captured, None)
        n = batch.n_rows
        also = {"tokens": batch.tokens[:n], "previous": batch.previous[:n]} | sample_arrays(batch.samples)
        attention = self.attention
        plan = attention.plan(batch, also)
        tokens = input_tokens(plan.also, last)
        hidden = self.decoder.forward(tokens, lambda i, q, k, v: attention.attend(i, q, k, v, plan))
        return Forward(hidden, plan.also, plan.shares)


class GpuRunner:
    """See ModelRunner. Runs out of memory with MemoryError, and with RunnerLostError if the device is lost."""

    def __init__(self, model: GpuModel, slots: int, mover: Mover | None = None) -> None:
        self.slots = slots
        self.mover = mover
        self.model = model
        self._last = torch.empty(0, dtype=torch.int32, device=model.device)
        self._back = torch.empty(0, dtype=torch.int32)

    def pages(self) -> SlotPages:
        """See AttentionBackend."""
        return self.model.pages()

    def logits(self, batch: Batch) -> torch.Tensor:
        """Runs the layers; float32 logits [samples.count, vocab_size] on the device."""
        done = self.model.forward(batch, self._last)
        return self.model.decoder.logits(done.hidden.index_select(0, done.samples["sample_rows"]))

    def execute(self, batch: Batch) -> StepResult:
        try:
            with torch.inference_mode():
                return self._execute(batch)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"the GPU has no memory for a step of {batch.n_rows} rows and {batch.n_pairs} pairs; use a smaller "
                "--max-num-batched-tokens, or a smaller --gpu-memory-utilization, which leaves more beside the KV"
            ) from error
        except RuntimeError as error:
            try:
                self.model.check()
            except RuntimeError:
                raise RunnerLostError(f"the GPU does not answer any more: {error}") from error
            raise

    def _execute(self, batch: Batch) -> StepResult:
        if self.mover is not None:
            self.mover.begin(batch.moves)
        began = time.perf_counter()
        none = np.zeros(0, dtype=np.int32)
        sampled = Sampled(none, none.view(np.float32), None, None)
        scored = shares = None
        forward_s = 0.0
        if batch.n_rows:
            done = self.model.forward(batch, self._last)
            chosen = self._choose(batch, done) if batch.samples.count else None
            scored, shares = self._scored(batch, done.hidden), self._shares(batch, done.shares)
            if chosen is not None:
                sampled = finish(chosen, batch.samples, *self._fetched(chosen))
                self._last = chosen.tokens
            else:
                self._wait()
            forward_s = time.perf_counter() - began  # the device works while the host goes on: known at the end
        moved = self.mover.report(wait=not batch.n_rows) if self.mover is not None else None
        if moved is not None and (moved.failed or moved.lost):
            self.model.check()
        return StepResult(
            sampled.tokens, sampled.logprobs, forward_s, sampled.top_tokens, sampled.top_logprobs, moved, scored, shares
        )

    def _choose(self, batch: Batch, done: Forward) -> Chosen:
        model = self.model
        logits = model.decoder.logits(done.hidden.index_select(0, done.samples["sample_rows"]))
        return choose(model.ops, logits, batch.samples, wishes_of(done.samples))

    def _fetched(self, chosen: Chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and log-probabilities on the CPU: the one place where a step waits for the device."""
        n = len(chosen.tokens)
        if len(self._back) < 2 * n:
            self._back = torch.empty(4 * n, dtype=torch.int32, pin_memory=chosen.tokens.is_cuda)
        self._back[:n].copy_(chosen.tokens, non_blocking=True)
        self._back[n : 2 * n].copy_(chosen.logprobs.view(torch.int32), non_blocking=True)
        self._wait()
        return self._back[:n], self._back[n : 2 * n].view(torch.float32)

    def _wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def _scored(self, batch: Batch, hidden: torch.Tensor) -> Scored | None:
        if batch.scores is None:
            return None
        rows = torch.from_numpy(batch.scores.rows).to(self.model.device)
        decoder, device = self.model.decoder, self.model.device

        def head(states: torch.Tensor) -> torch.Tensor:
            return decoder.logits(states.to(device, decoder.dtype)).cpu()

        return score(head, hidden.index_select(0, rows).float().cpu(), batch.scores)

    def _shares(self, batch: Batch, shares: torch.Tensor | None) -> Float32 | None:
        config = self.model.decoder.config
        return None if shares is None else by_row(batch, shares / (config.num_layers * config.num_heads))
