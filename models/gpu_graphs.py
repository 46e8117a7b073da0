"""Steps of few rows as captured graphs: the layers' hundreds of launches become one."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.captured import Bucket
from pavane.kernels.gpu.device_plan import FixedPlan
from pavane.kernels.gpu.sampling import sample_arrays
from pavane.models.gpu_decoder import GpuDecoder

log = logging.getLogger(__name__)

MOST_GRAPHS = 64
# Beyond, steps of other sizes run launch by launch, until they have come so often that capturing them costs less than
# that did: then the graph that was replayed longest ago goes.
WORTH = 32

Record = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Callable[[], None]]]


class _Step(NamedTuple):
    fixed: FixedPlan
    tokens: torch.Tensor  # int32 [rows]
    hidden: torch.Tensor  # [rows, hidden_size]
    replay: Callable[[], None]


class Graphs:
    """Captures a step's layers when its sizes come for the first time. `record` captures what a function launches:
    what it returned, and how it is launched again."""

    def __init__(self, decoder: GpuDecoder, attention: FlashInferAttention, record: Record) -> None:
        self._decoder = decoder
        self._attention = attention
        self._record = record
        self._steps: OrderedDict[Bucket, _Step | None] = OrderedDict()  # None: it could not be captured
        self._came: Counter[Bucket] = Counter()  # without a graph, since the last one that was captured

    def forward(self, batch: Batch, last: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]] | None:
        """As GpuModel.forward; None if the step has to run launch by launch."""
        found = self._attention.plan_captured(batch)
        if found is None:
            return None
        plan, wanted = found
        bucket = self._bucket(wanted)
        n, count = batch.n_rows, batch.samples.count
        arrays = {"tokens": batch.tokens[:n], "previous": batch.previous[:n]} | sample_arrays(batch.samples)
        also = {name: _padded(array, bucket.rows) for name, array in arrays.items()}
        step = self._steps[bucket] if bucket in self._steps else self._capture(bucket, also)
        if step is None:
            return None
        self._steps.move_to_end(bucket)
        there = self._attention.load(step.fixed, plan, batch, also)
        step.tokens.copy_(input_tokens(there, last))
        step.replay()
        words = {name: count * array.itemsize // 4 for name, array in arrays.items()}
        return step.hidden[:n], {name: there[name][: words[name]] for name in arrays}

    def _bucket(self, wanted: Bucket) -> Bucket:
        """That of the smallest graph that serves; `wanted`, to be captured, if there is none."""
        if wanted in self._steps:
            return wanted
        there = [bucket for bucket, step in self._steps.items() if step is not None and bucket.covers(wanted)]
        return min(there, key=lambda bucket: (bucket.rows, bucket.all_parts), default=wanted)

    def _capture(self, bucket: Bucket, also: dict[str, npt.NDArray[Any]]) -> _Step | None:
        if len(self._steps) == MOST_GRAPHS:
            self._came[bucket] += 1
            if self._came[bucket] < WORTH:
                return None
            self._steps.popitem(last=False)
        self._came.clear()
        attention = self._attention
        try:
            fixed = attention.fix(bucket, also)
            tokens = torch.zeros(bucket.rows, dtype=torch.int32, device=attention.device)
            hidden, replay = self._record(
                lambda: self._decoder.forward(tokens, lambda i, q, k, v: attention.attend(i, q, k, v, fixed.plan))
            )
        except RuntimeError as error:  # steps run without it, only slower
            log.warning("steps of %s are not captured, and slower: %s", bucket, error)
            self._steps[bucket] = None
            return None
        log.debug("captured a graph of %s", bucket)
        made = self._steps[bucket] = _Step(fixed, tokens, hidden, replay)
        return made


def input_tokens(there: dict[str, torch.Tensor], last: torch.Tensor) -> torch.Tensor:
    """int32: `tokens`, or where `previous` names a sample of the step before, that of `last`.

    A sample without a token has failed; what was already asked to follow it runs on any token and is dropped.
    """
    tokens, previous = there["tokens"], there["previous"]
    if len(last):
        tokens = torch.where(previous >= 0, last.index_select(0, previous.clamp(min=0)), tokens)
    return tokens.clamp(min=0)


def cuda_recorder() -> Record:
    """For the current device. All graphs share one pool of memory, since one runs at a time."""
    pool = torch.cuda.graph_pool_handle()
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            run()  # what is set up at a first call is not captured
            # torch.cuda.graph would wait for the device here, and give its free memory back, while a server goes on.
            # Other threads may copy KV meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                out = run()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(beside)
        return out, graph.replay

    return record


def _padded(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    out = np.full(size, -1 if array.dtype == np.int32 else 0, dtype=array.dtype)
    out[: len(array)] = array
    return out
