"""Scheduler, cache and a runner, driven by hand: a manual clock, no loop, no thread."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from pavane.cache import Costs, GraphCache, Tier, audit
from pavane.kernels.attention import TorchAttention
from pavane.kernels.batch import NO_TOKEN, Batch, Launcher, Runner, Samples, StepResult, UInt32
from pavane.kernels.contract import AttentionBackend
from pavane.kernels.host_mover import host_mover
from pavane.kernels.kv import BlockedKVStore, KVStore
from pavane.kernels.native_attention import NativeAttention
from pavane.kernels.native_build import NoNativeKernelError, load_native
from pavane.kernels.pages import PAGE
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.decoder import Decoder
from pavane.models.native import native_decoder
from pavane.models.runner import ForwardPass, ModelRunner, TorchForward
from pavane.scheduler.batches import Ahead
from pavane.scheduler.graph import Limits
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.scoring import Score, ScoreSpec
from pavane.scheduler.spec import CallSpec, DecodeSpec, Outcome, ParentSpec
from pavane.scheduler.text import ConstraintState, StopMatcher, TextRules
from support.layout import expected, layout, tokens


class NoText:
    def matcher(self, stop: tuple[str, ...], beginning: str) -> StopMatcher:
        raise AssertionError("no stop strings in this test")

    def masks(self, states: Sequence[ConstraintState]) -> tuple[UInt32, Callable[[], None]]:
        raise AssertionError("no constraints in this test")


class FakeRunner:
    """Samples a token that is a function of its own position and slot contents' size only; checks what it is given."""

    def __init__(self, slots: int, vocab: int = 97) -> None:
        self.slots = slots
        self.vocab = vocab
        self.rows = 0
        self.steps = 0
        self.fail_next = False

    def execute(self, batch: Batch) -> StepResult:
        n = batch.n_rows
        if not n:
            assert batch.moves is not None, "nothing to do"
            return StepResult(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), 0.0)
        assert len(set(batch.slots[:n].tolist())) == n, "two rows write one slot"
        assert batch.slots[:n].min() >= 0
        assert batch.slots[:n].max() < self.slots
        assert set(batch.pair_rows[: batch.n_pairs].tolist()) == set(range(n)), "a row without attention"
        starts, lengths = batch.extents[:, 0], batch.extents[:, 1]
        assert (starts >= 0).all()
        assert (lengths > 0).all()
        assert (starts + lengths <= self.slots).all()
        self.steps += 1
        self.rows += n
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the runner was told to fail")
        samples = batch.samples
        check_ragged(samples)
        tokens = [
            int(forced) if forced >= 0 else 3 + (int(seed) * 31 + int(counter) * 7) % (self.vocab - 3)
            for forced, seed, counter in zip(samples.forced, samples.seeds, samples.counters, strict=True)
        ]
        return StepResult(np.array(tokens, dtype=np.int32), np.zeros(len(tokens), dtype=np.float32), 0.0)


def check_ragged(samples: Samples) -> None:
    """Lists of ids are in order, and have no id twice."""
    for indptr, ids in ((samples.seen_indptr, samples.seen_ids), (samples.bias_indptr, samples.bias_ids)):
        assert indptr.shape == (samples.count + 1,)
        assert indptr[0] == 0
        assert indptr[-1] == len(ids)
        for begin, end in pairwise(indptr.tolist()):
            assert len(set(ids[begin:end].tolist())) == end - begin >= 0
    assert len(samples.bias_values) == len(samples.bias_ids)


try:
    load_native()
except NoNativeKernelError as error:
    warnings.warn(f"only torch attention is tested: {error}", stacklevel=1)
    BACKENDS = INVARIANT = ["torch"]
else:
    BACKENDS = ["torch", "native"]
    INVARIANT = [*BACKENDS, "decoder"]  # whose weights are bfloat16


def tiny_runner(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    slots: int,
    *,
    batch_invariant: bool = False,
    backend: str = "torch",
    host_pages: int = 0,
) -> ModelRunner:
    """With `host_pages`, one that has a tier of that size in host memory."""
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position + 1, scale)
    if backend == "decoder":
        store = BlockedKVStore(config.num_layers, config.num_kv_heads, slots, config.head_dim, torch.bfloat16)
        forward = native_decoder(config, dict(weights), {}, store, rope, batch_invariant=True)
        return _with_tier(forward, host_pages)
    model = Decoder(config, dict(weights), batch_invariant=batch_invariant)
    shape = (config.num_layers, config.num_kv_heads, slots, config.head_dim)
    attention: AttentionBackend[Any] = (
        NativeAttention(BlockedKVStore(*shape, torch.float32), rope, config.num_heads)
        if backend == "native"
        else TorchAttention(KVStore(*shape), rope, config.num_heads, batch_invariant=batch_invariant)
    )
    return _with_tier(TorchForward(model, attention), host_pages)


def _with_tier(forward: ForwardPass, host_pages: int) -> ModelRunner:
    layout = forward.pages()
    return ModelRunner(forward, host_mover(layout, host_pages * layout.page_bytes) if host_pages else None)


Finish = Callable[[], StepResult | RuntimeError]


@dataclass
class Harness:
    runner: Runner
    slots: int
    max_model_len: int = 512
    vocab: int = 97
    bos_id: int | None = None
    batch_invariant: bool = False
    max_running: int = 16
    token_budget: int = 64
    max_unfinished: int = 100_000
    now: float = 0.0
    ended: dict[str, Outcome] = field(default_factory=dict)
    check: bool = True
    policy: str = "fcfs"
    ahead: bool = False  # steps may begin before the ones before are committed
    eager: bool = False  # also while calls wait or end
    steps_ahead: int = 0
    host_pages: int = 0  # of a tier below the slots
    _flying: tuple[Ahead, Finish] | None = None
    text: TextRules = field(default_factory=NoText)

    def __post_init__(self) -> None:
        tier = Tier(self.host_pages, PAGE, Costs(1, bytes_per_s=1e9)) if self.host_pages else None
        self.cache = GraphCache(self.slots, bos_id=self.bos_id, absolute=self.batch_invariant, tier=tier)
        self.scheduler = Scheduler(
            self.cache,
            Limits(self.max_model_len, self.slots, self.vocab, max_unfinished=self.max_unfinished),
            self.text,
            max_running=self.max_running,
            token_budget=self.token_budget,
            share=not self.batch_invariant,
            policy=self.policy,
        )
        self.scheduler.open("", "w", 0, 1e9, self.now)

    def submit(self, *specs: CallSpec, workflow: str = "w") -> None:
        self.scheduler.submit("", workflow, specs, self.now)
        self.collect()

    def step(self) -> bool:
        """False if there was nothing to do."""
        self.now += 1.0
        kept = None
        if self._flying is None:
            batch = self.scheduler.schedule(self.now)
            if batch is not None:
                self.check_layout(batch)
            finish = self._begin(batch) if batch is not None else None
        else:
            ahead, finish = self._flying
            kept = self.scheduler.adopt(ahead, self.now)
            self.check_layout(ahead.batch)
            self.steps_ahead += 1
        following = self.scheduler.ahead(eager=self.eager) if self.ahead else None
        self._flying = (following, self._begin(following.batch)) if following is not None else None
        result = finish() if finish is not None else None
        if isinstance(result, RuntimeError):
            if kept != []:
                self.scheduler.fail_step(str(result), self.now)
        elif result is not None:
            if result.moved is not None:
                self.scheduler.moved(result.moved)
            if kept != []:
                self.scheduler.commit(result if kept is None else result.only(kept), self.now)
        self.collect()
        self.audit()
        return result is not None

    def _begin(self, batch: Batch) -> Finish:
        """Launches the step if the runner can, else runs it now."""
        runner = self.runner
        if isinstance(runner, Launcher):
            return runner.launch(batch)
        try:
            result = runner.execute(batch)
        except RuntimeError as raised:
            error = raised
            return lambda: error
        return lambda: result

    def check_layout(self, batch: Batch) -> None:
        """The batch of the step that is open, which was made with what is known of the steps before, is the one that
        would be made from nothing."""
        step = self.scheduler._steps.step
        if self.check and step is not None and batch.n_rows == sum(item.rows for item in step.items):
            assert layout(batch) == expected(step, self.bos_id is not None, not self.batch_invariant)
            known = batch.previous == NO_TOKEN
            np.testing.assert_array_equal(batch.tokens[known], np.array(tokens(step.items))[known])

    def run(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError(f"not at rest after {limit} steps")

    def collect(self) -> None:
        for events in self.scheduler.take_events().values():
            for event in events:
                outcome = getattr(event, "outcome", None)
                if outcome is not None:
                    assert outcome.id not in self.ended, f"{outcome.id} ended twice"
                    self.ended[outcome.id] = outcome

    def score(self, spec: CallSpec, *, workflow: str = "w", **fields: Any) -> list[Score]:
        """Asks for a score; it comes into the list while steps are run."""
        scores: list[Score] = []
        self.scheduler.score("", workflow, ScoreSpec(spec, **fields), self.now, scores.append)
        self.collect()
        return scores

    def audit(self) -> None:
        if self.check:
            audit(self.cache, *self.scheduler.held())

    def outcome(self, message_id: str, workflow: str = "w") -> Outcome:
        return self.scheduler.outcome("", workflow, message_id, self.now)


def digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def edge(parent: str | ParentSpec) -> ParentSpec:
    return parent if isinstance(parent, ParentSpec) else ParentSpec(parent)


def prefill(id: str, tokens: Sequence[int], *parents: str | ParentSpec, **fields: object) -> CallSpec:
    edges = tuple(map(edge, parents))
    return CallSpec(id, digest(id, tokens, edges, fields), tuple(tokens), parents=edges, **fields)  # type: ignore[arg-type]


def decode(
    id: str,
    header: Sequence[int],
    *parents: str | ParentSpec,
    exact: bool = False,
    start: int | None = None,
    timeout: float | None = None,
    **fields: object,
) -> CallSpec:
    edges = tuple(map(edge, parents))
    spec = DecodeSpec(**{"seed": 0, "trailer": (1, 2), **fields})  # type: ignore[arg-type]
    return CallSpec(
        id,
        digest(id, header, edges, spec),
        tuple(header),
        decode=spec,
        parents=edges,
        exact=exact,
        start=start,
        timeout=timeout,
    )
