"""SmolLM2 on a device against the CPU in float32: parents, and calls that read them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.config import ModelConfig
from pavane.models.cpu import cpu_forward
from pavane.models.cuda import Device, Wanted, gpu_runner
from pavane.models.default import default_model_path
from pavane.models.gpu_warmup import step
from pavane.models.loader import load_model

SLOTS, POSITIONS, PARENT = 1024, 1000, 200
WANTED = Wanted(SLOTS, 0.9, 512, 8)


class Compared(NamedTuple):
    likeliest: float  # share of rows with the same likeliest token
    kl: float  # KL(CPU || device) in nats, mean over the rows
    error: float  # of the logits, relative to their spread


def rope_of(config: ModelConfig) -> RopeTable:
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    return RopeTable(frequencies, POSITIONS, scale)


def batches(vocabulary: int) -> list[Batch]:
    """A parent; then calls of one row to many that read it, each at a place of its own. Any tokens will do."""
    generator = np.random.default_rng(0)
    found = []
    for batch in (
        step([PARENT], POSITIONS, before=0, samples=PARENT),
        step([1, 1, 1, 5, 40, 150], POSITIONS, before=0, parent=PARENT, samples=198),
    ):
        tokens = generator.integers(3, vocabulary, batch.n_rows).astype(np.int32)
        found.append(replace(batch, tokens=tokens))
    return found


def compare(device: Device, wanted: Wanted = WANTED) -> Compared:
    plain = load_model(default_model_path(), torch.float32)
    config = plain.config
    rope = rope_of(config)
    reference = cpu_forward(plain, rope, SLOTS, dtype=torch.float32, batch_invariant=False)
    weights = load_model(default_model_path(), torch.bfloat16).weights
    runner = gpu_runner(config, weights, rope, wanted, device)
    expected, got = [], []
    with torch.inference_mode():
        for batch in batches(config.vocab_size):
            expected.append(reference.logits(batch, batch.tokens))
            got.append(runner.logits(batch).cpu())
    return compared(torch.cat(expected), torch.cat(got))


def compared(expected: torch.Tensor, got: torch.Tensor) -> Compared:
    """Of logits [rows, vocabulary]."""
    wanted, found = expected.double(), got.double()
    p, q = wanted.log_softmax(dim=1), found.log_softmax(dim=1)
    spread = (wanted - wanted.mean(dim=1, keepdim=True)).norm()
    return Compared(
        float((p.argmax(dim=1) == q.argmax(dim=1)).double().mean()),
        float((p.exp() * (p - q)).sum(dim=1).mean()),
        float(((wanted - wanted.mean(1, True)) - (found - found.mean(1, True))).norm() / spread),
    )
