"""What is measured is also right: the small operations, attention and sampling against plain formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from pavane.bench.gpu.decode import private, shared
from pavane.bench.gpu.engine import Engine, Model
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, NotHere, Section
from pavane.bench.gpu.sizes import Sizes
from pavane.bench.gpu.subject import Subject
from pavane.bench.report import at_least, at_most
from pavane.kernels import sampling
from pavane.kernels.batch import NO_MASK, NO_TOKEN, Batch, Samples
from pavane.kernels.reference import rope
from pavane.kernels.rope import rope_frequencies

ATTENTION = Row("attention of a step with moved, shared messages: relative error", at_most(0.01))
CAPTURED = Row("captured decode steps / the same launched one by one: relative error", at_most(0.05))
TOKENS = Row("drawn tokens that the CPU draws as well, of 256", at_least(0.99))
Store = tuple[torch.Tensor, torch.Tensor]  # K, V of layer 0: [slots, kv_heads, head_dim]


def dense(batch: Batch, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, config: Model) -> torch.Tensor:
    """A step's attention row by row in float64: q [rows, heads, d] unrotated, keys as they are stored, each of a row's
    pairs in its own frame, one softmax over all they see."""
    heads, dim = q.shape[1:]
    frequencies = rope_frequencies(config.config.rope, dim)[0].to(q.device)
    group = heads // keys.shape[1]
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(len(q))]
    for s in range(batch.n_segments):
        pieces = batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]].tolist()
        slots = torch.cat([torch.arange(a, a + n) for a, n in pieces]).to(q.device)
        first, last = int(batch.row_indptr[s]), int(batch.row_indptr[s + 1])
        for i, pair in enumerate(range(first, last)):
            row = int(batch.pair_rows[pair])
            count = len(slots) - max(0, int(batch.own[s]) - i - 1)
            angle = torch.tensor([int(batch.positions[row] - batch.pair_deltas[pair])], device=q.device)
            turned = rope(q[row : row + 1].double(), angle, frequencies)[0]
            k = keys[slots[:count]].double().repeat_interleave(group, dim=1)
            v = values[slots[:count]].double().repeat_interleave(group, dim=1)
            seen[row].append((torch.einsum("hd,nhd->hn", turned, k) / dim**0.5, v))
    out = torch.empty(len(q), heads, dim, dtype=torch.float64, device=q.device)
    for row, parts in enumerate(seen):
        weights = torch.cat([scores for scores, _ in parts], dim=1).softmax(dim=1)
        out[row] = torch.einsum("hn,nhd->hd", weights, torch.cat([v for _, v in parts]))
    return out


def attention_error(engine: Engine, sizes: Sizes, device: torch.device, notes: Notes) -> float:
    """Of a step with moved, shared messages, relative to what float64 makes of the KV as it is stored."""
    model = engine.model
    steps = shared(engine, sizes.sharing, 4, sizes.message, 1, apart=False)
    batch, config = steps[-1].batch, model.config
    dtype = torch.float32 if model.itemsize == 4 else torch.bfloat16
    n, dim = batch.n_rows, config.head_dim
    q, k, v = (
        torch.randn(n, heads, dim, device=device).to(dtype)
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )
    got = model.attention.attend(0, q, k, v, model.attention.plan(batch)).view(n, config.num_heads, dim)
    expected = dense(batch, q, *model.stored(0), model)
    notes.data |= {"rows": n, "segments": batch.n_segments, "pairs": batch.n_pairs}
    return float((got.double() - expected).norm() / expected.norm())


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    engine, device, sizes = subject.engine(), subject.card.device, subject.sizes
    model, config = engine.model, sizes.config
    error = attention_error(engine, sizes, device, notes)
    yield Measured(ATTENTION.what, error, f"{notes.data['rows']} rows, {notes.data['pairs']} pairs", "float64")
    if model.both is not None:
        merged = shared(engine, sizes.sharing, 4, sizes.message, 1, apart=False)
        alone = private(engine, sizes.calls[-1], sizes.context, 1)
        yield from _captured(model.both, [merged[-1].batch, alone[-1].batch])
    if model.sample is None:
        raise NotHere("tokens are drawn by the CPU here")
    samples = random_samples(256)
    logits = 3 * torch.randn(samples.count, config.vocab_size)
    tokens = model.sample(logits.to(device), samples)
    same = float(np.mean(tokens == sampling.sample(logits, samples).tokens))
    yield Measured(TOKENS.what, same, "temperature, top-k, top-p, min-p mixed", "the CPU's")


def _captured(
    both: Callable[[Batch], tuple[torch.Tensor, torch.Tensor] | None], batches: list[Batch]
) -> Iterator[Measured]:
    """Of steps that merge and of such that do not; nothing if they are not captured."""
    errors = []
    for batch in batches:
        found = both(batch)
        if found is None:
            return
        captured, launched = found
        errors.append(float((captured - launched).norm() / launched.norm()))
    yield Measured(CAPTURED.what, max(errors), ", ".join(f"{error:.2g}" for error in errors))


def random_samples(count: int) -> Samples:
    """Temperatures and filters as mixed as they can be."""
    rng = np.random.default_rng(0)

    def some(values: np.ndarray, off: float, kind: type) -> np.ndarray:
        return np.where(rng.random(count) < 0.5, values, off).astype(kind)

    none, begin = np.zeros(0, dtype=np.int32), np.zeros(count + 1, dtype=np.int32)
    return Samples(
        count=count, rows=np.arange(count, dtype=np.int32), forced=np.full(count, NO_TOKEN, dtype=np.int32),
        temperature=rng.uniform(0.2, 1.5, count).astype(np.float32),
        top_p=some(rng.uniform(0.1, 1, count), 1, np.float32), top_k=some(rng.integers(1, 200, count), 0, np.int32),
        min_p=some(rng.uniform(0, 0.2, count), 0, np.float32),
        seeds=rng.integers(0, 2**64, count, dtype=np.uint64), counters=rng.integers(0, 4096, count),
        repetition=np.ones(count, dtype=np.float32), seen_indptr=begin, seen_ids=none, bias_indptr=begin, bias_ids=none,
        bias_values=np.zeros(0, dtype=np.float32), mask_rows=np.full(count, NO_MASK, dtype=np.int32),
        masks=np.zeros((0, 0), dtype=np.uint32), masks_ready=None, top_logprobs=np.zeros(count, dtype=np.int32),
    )  # fmt: skip


SECTION = Section("correctness", (ATTENTION, CAPTURED, TOKENS), 60, measure)
