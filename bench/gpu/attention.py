"""Attention of plain conversations, against FlashInfer's own decode kernel on pages of 16 slots."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from pavane.bench.gpu.decode import private
from pavane.bench.gpu.engine import Model
from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, NotHere, Section
from pavane.bench.gpu.subject import Subject, attention_seconds
from pavane.bench.gpu.timing import seconds
from pavane.bench.report import at_most

PLAIN = Row("attention, 64 plain conversations of 1k / FlashInfer's decode wrapper", at_most(1.05))
PAGE = 16
WORKSPACE = 128 << 20


def flashinfer_seconds(model: Model, calls: int, length: int, device: torch.device) -> dict[str, float]:
    """Seconds of all layers of `calls` rows over `length` keys each, on CUDA cores and on tensor cores. It gets one
    layer's memory again and again, larger than any cache; neither keys nor queries are written or rotated."""
    decode_wrapper = import_module("flashinfer").BatchDecodeWithPagedKVCacheWrapper
    config = model.config
    pages = -(-length // PAGE)
    cache = torch.randn(calls * pages, 2, PAGE, config.num_kv_heads, config.head_dim, device=device).to(torch.bfloat16)
    q = torch.randn(calls, config.num_heads, config.head_dim, device=device).to(torch.bfloat16)
    indptr = torch.arange(0, calls * pages + 1, pages, dtype=torch.int32)
    last = torch.full((calls,), length - (pages - 1) * PAGE, dtype=torch.int32)
    found = {}
    for name, cores in (("CUDA cores", False), ("tensor cores", True)):
        workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=device)
        wrapper = decode_wrapper(workspace, "NHD", use_tensor_cores=cores)
        wrapper.plan(
            indptr, torch.arange(calls * pages, dtype=torch.int32, device=device), last, config.num_heads,
            config.num_kv_heads, config.head_dim, PAGE, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
        )  # fmt: skip
        out = torch.empty_like(q)

        def layers(wrapper: Any = wrapper, out: torch.Tensor = out) -> None:
            for _ in range(config.num_layers):
                wrapper.run(q, cache, out=out)

        found[name] = seconds(device, layers)
    return found


def measure(subject: Subject, notes: Notes) -> Iterator[Measured]:
    device, sizes = subject.card.device, subject.sizes
    if device.type != "cuda" or find_spec("flashinfer") is None:
        raise NotHere("FlashInfer's decode wrapper needs a GPU and flashinfer-python")
    model = subject.engine().model
    calls = sizes.calls[-1]
    steps = private(subject.engine(), calls, sizes.context, 4)
    ours = attention_seconds(model, steps[-1].batch, device) * 1e3
    theirs = flashinfer_seconds(model, calls, sizes.context, device)
    notes.data |= {"ours_ms": ours, "flashinfer_ms": {name: each * 1e3 for name, each in theirs.items()}}
    best = min(theirs.values()) * 1e3
    yield Measured(PLAIN.what, ours / best, f"{ours:.2f} ms, with rotation and storing", f"{best:.2f} ms")


SECTION = Section("attention", (PLAIN,), 20, measure)
