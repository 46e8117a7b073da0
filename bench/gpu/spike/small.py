"""The small operations, each against the bytes it moves: what is far from 1 is to be tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, Section
from pavane.bench.gpu.spike.merging import by_row
from pavane.bench.gpu.subject import Subject
from pavane.bench.gpu.timing import seconds
from pavane.kernels.gpu.ops import Wishes

NAMES = ("store_kv", "rotate_queries", "merge, 4 parts", "add_rms_norm", "silu_mul", "gather_rotated")
MANY, FEW = 32_768, 64  # MANY: more bytes than a cache holds
LARGE = {name: Row(f"{name}, {MANY} rows / time of its bytes") for name in NAMES}
SMALL = {name: Row(f"{name}, {FEW} rows: us") for name in NAMES}
DRAW = {rows: Row(f"sample, {rows} rows, top-k 50 and top-p 0.9: us") for rows in (1, FEW)}
WHOLE = Row(f"sample, {FEW} rows, temperature alone: us")


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    bandwidth, _ = subject.card.rates()
    device = subject.card.device
    for name, (call, moved) in operations(subject, 32 if subject.card.small else MANY).items():
        took = seconds(device, call)
        yield Measured(LARGE[name].what, took * bandwidth / moved, f"{took * 1e6:.1f} us")
    for name, (call, _) in operations(subject, 4 if subject.card.small else FEW).items():
        yield Measured(SMALL[name].what, seconds(device, call) * 1e6)
    for rows, row in DRAW.items():
        yield Measured(row.what, seconds(device, _sample(subject, rows, 50, 0.9)) * 1e6)
    yield Measured(WHOLE.what, seconds(device, _sample(subject, FEW, 0, 1.0)) * 1e6)


def operations(subject: Subject, rows: int) -> dict[str, tuple[Callable[[], object], int]]:
    """By name: a call, and the bytes that it reads and writes at least."""
    ops, config, device = subject.ops(), subject.sizes.config, subject.card.device
    table = subject.rotations
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(torch.bfloat16)

    k, v, cache, copy, k_out, v_out = (numbers(rows, kv_heads, dim) for _ in range(6))
    q, out, parts = numbers(rows, heads, dim), numbers(rows, heads, dim), numbers(4 * rows, heads, dim)
    lse = torch.randn(4 * rows, heads, device=device)
    indptr = 4 * subject.ints(rows + 1)
    x, residual, weight = (
        numbers(rows, config.hidden_size),
        numbers(rows, config.hidden_size),
        numbers(config.hidden_size),
    )
    gates = numbers(rows, 2 * config.intermediate_size)
    at, order = subject.ints(rows), by_row(rows, 4, device)
    return {
        "store_kv": (lambda: ops.store_kv(k, v, at, at, cache, copy, table), 4 * k.nbytes),
        "rotate_queries": (lambda: ops.rotate_queries(q, at, at, table, out), 2 * q.nbytes),
        "merge, 4 parts": (lambda: ops.merge(parts, lse, indptr, order, out), parts.nbytes + lse.nbytes + out.nbytes),
        "add_rms_norm": (lambda: ops.add_rms_norm(x, residual, weight, 1e-5), 4 * x.nbytes),
        "silu_mul": (lambda: ops.silu_mul(gates), gates.nbytes * 3 // 2),
        "gather_rotated": (lambda: ops.gather_rotated(cache, copy, at, at, table, k_out, v_out), 4 * k.nbytes),
    }


def _sample(subject: Subject, rows: int, top_k: int, top_p: float) -> Callable[[], object]:
    device = subject.card.device
    logits = 3 * torch.randn(rows, subject.sizes.config.vocab_size, device=device)
    long = torch.arange(rows, device=device)
    wishes = Wishes(
        forced=subject.ints(rows) * 0 - 1,
        temperature=torch.full((rows,), 0.8, device=device),
        top_p=torch.full((rows,), top_p, device=device),
        top_k=subject.ints(rows) * 0 + top_k,
        min_p=torch.zeros(rows, device=device),
        seeds=long,
        counters=long,
    )
    ops = subject.ops()
    return lambda: ops.sample(logits, wishes)


SECTION = Section("small operations", (*LARGE.values(), *SMALL.values(), *DRAW.values(), WHOLE), 10, measure)
