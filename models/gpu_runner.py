"""The runner of a GPU: what a step decides goes there in one copy, and its tokens come back in one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class _Done(NamedTuple):
    """Of a step, on the CPU."""

    sampled: Sampled = Sampled(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), None, None)
    scored: Scored | None = None
    shares: Float32 | None = None


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
        self.stream = attention.staging.stream
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
    """A Launcher; see ModelRunner. Runs out of memory with MemoryError, and with RunnerLostError if the device is
    lost."""

    def __init__(self, model: GpuModel, slots: int, mover: Mover | None = None) -> None:
        self.slots = slots
        self.mover = mover
        self.model = model
        self._last = torch.empty(0, dtype=torch.int32, device=model.device)
        self._back: deque[torch.Tensor] = deque()  # page-locked, for tokens and log-probabilities; not in use
        self._ended = 0.0  # the last step that was waited for

    def pages(self) -> SlotPages:
        """See AttentionBackend."""
        return self.model.pages()

    def logits(self, batch: Batch) -> torch.Tensor:
        """Runs the layers; float32 logits [samples.count, vocab_size] on the device."""
        done = self.model.forward(batch, self._last)
        return self.model.decoder.logits(done.hidden.index_select(0, done.samples["sample_rows"]))

    def execute(self, batch: Batch) -> StepResult:
        return self.launch(batch)()

    def launch(self, batch: Batch) -> Callable[[], StepResult]:
        """See Launcher. Steps in which the host has work in between return when that is done: those that report the
        likeliest tokens, scores, or where their attention goes."""
        with self._telling(batch):
            if self.mover is not None:
                self.mover.begin(batch.moves)
            began = time.perf_counter()
            wait = self._launch(batch) if batch.n_rows else _Done

        def finish() -> StepResult:
            with self._telling(batch):
                return self._result(batch, wait(), began)

        return finish

    @contextmanager
    def _telling(self, batch: Batch) -> Iterator[None]:
        """What the device says, as errors of a runner."""
        try:
            with torch.inference_mode():
                yield
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

    def _launch(self, batch: Batch) -> Callable[[], _Done]:
        """What it returns waits for the device."""
        done = self.model.forward(batch, self._last)
        chosen = self._choose(batch, done) if batch.samples.count else None
        scored, shares = self._scored(batch, done.hidden), self._shares(batch, done.shares)
        if chosen is None:
            reached = self.model.stream.mark()
        else:
            back, reached = self._bring_back(chosen)
            self._last = chosen.tokens

        def wait() -> _Done:
            reached()
            if chosen is None:
                return _Done(scored=scored, shares=shares)
            n = len(chosen.tokens)
            sampled = finish(chosen, batch.samples, back[:n], back[n : 2 * n].view(torch.float32))
            self._back.append(back)
            return _Done(sampled, scored, shares)

        if chosen is None or not len(chosen.by_hand):
            return wait
        by_hand = wait()
        return lambda: by_hand

    def _bring_back(self, chosen: Chosen) -> tuple[torch.Tensor, Callable[[], None]]:
        """Tokens and log-probabilities, one after the other: page-locked memory where they will be, and what waits
        until they are."""
        n, stream = len(chosen.tokens), self.model.stream
        back = self._back.popleft() if self._back else torch.empty(0, dtype=torch.int32)
        if len(back) < 2 * n:
            back = torch.empty(4 * n, dtype=torch.int32, pin_memory=chosen.tokens.is_cuda)
        stream.bring(back[:n], chosen.tokens)
        stream.bring(back[n : 2 * n], chosen.logprobs.view(torch.int32))
        return back, stream.mark()

    def _result(self, batch: Batch, done: _Done, began: float) -> StepResult:
        """The step began to run when it was launched, or when the one before it had ended."""
        now = time.perf_counter()
        forward_s = now - max(began, self._ended) if batch.n_rows else 0.0
        self._ended = now
        moved = self.mover.report(wait=not batch.n_rows) if self.mover is not None else None
        if moved is not None and (moved.failed or moved.lost):
            self.model.check()
        tokens, logprobs, top_tokens, top_logprobs = done.sampled
        return StepResult(tokens, logprobs, forward_s, top_tokens, top_logprobs, moved, done.scored, done.shares)

    def _choose(self, batch: Batch, done: Forward) -> Chosen:
        model = self.model
        logits = model.decoder.logits(done.hidden.index_select(0, done.samples["sample_rows"]))
        return choose(model.ops, logits, batch.samples, wishes_of(done.samples))

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
