"""What a step must move and compute at least."""

from __future__ import annotations

import math

import numpy as np

from pavane.kernels.batch import Batch
from pavane.models.config import ModelConfig, layer_weight_shapes, weight_shapes


def weight_bytes(config: ModelConfig, itemsize: int) -> int:
    """Of a decode step: every weight once but the embedding table, of which it reads a few rows. Where the output
    projection is that table, it counts."""
    sizes = {name: math.prod(shape) for name, shape in weight_shapes(config).items()}
    if not config.tie_word_embeddings:
        del sizes["embed_tokens.weight"]
    return sum(sizes.values()) * itemsize


def float8_weight_bytes(config: ModelConfig) -> int:
    """As `weight_bytes` of two bytes each, but for the layers' matrices: one byte each, and four of scale an output."""
    matrices = [shape for shape in layer_weight_shapes(config).values() if len(shape) == 2]
    saved = sum(outputs * inputs - 4 * outputs for outputs, inputs in matrices)
    return weight_bytes(config, 2) - config.num_layers * saved


def key_bytes(config: ModelConfig, itemsize: int) -> int:
    """K and V of one token in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize


def distinct_keys(batch: Batch) -> int:
    """Slots that the step reads, each counted once however many segments have it."""
    used = batch.extents[: int(batch.extent_indptr[batch.n_segments])].astype(np.int64)
    if not len(used):
        return 0
    order = np.argsort(used[:, 0], kind="stable")
    starts = used[order, 0]
    ends = starts + used[order, 1]
    reached = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    return int(np.maximum(0, ends - np.maximum(starts, reached)).sum())


def decode_seconds(config: ModelConfig, keys: int, itemsize: int, bandwidth: float) -> float:
    """At least: weights and distinct KV, read once."""
    return (weight_bytes(config, itemsize) + keys * key_bytes(config, itemsize)) / bandwidth


def prefill_flops(config: ModelConfig, new: int, before: int) -> int:
    """Of `new` tokens behind `before` others, all of which they see; the output projection of the last one too."""
    keys = new * before + new * (new + 1) // 2
    return new * config.flops_per_row + keys * config.flops_per_key + 2 * config.hidden_size * config.vocab_size
