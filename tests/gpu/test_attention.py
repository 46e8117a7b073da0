"""FlashInfer's kernels and the fused ones on the random batches of the CPU tests, against the backend in float32 that
these hold against the float64 oracle.

It gets what the kernels get: inputs rounded to bfloat16. What is left, relative to the size of a result
(the attention of random values has size about 1/sqrt(keys), so norms over all rows are compared): each of these rounds
to nearest, by at most 2**-9 = 0.002 of its value: the rotated key in the pool, the
rotated query, the weights before they meet the values, the partial result, the merged result. A score is a sum of
products of two of them: sqrt(2) * 0.002 / sqrt(3) of the norms of q and k, divided by sqrt(head_dim), which for unit
variances is 0.0016 absolute, and moves weights by as much. Together sqrt(2 * 0.0016**2 + 3 * (0.002 / sqrt(3))**2)
= 0.003. The bound is three times that.
"""

from typing import Any

import numpy as np
import pytest
import torch

from pavane.kernels.attention import TorchAttention
from pavane.kernels.gpu import plan as planning
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention
from pavane.kernels.kv import KVStore
from pavane.kernels.rope import RopeParameters, RopeTable, rope_frequencies
from pavane.models.cuda import this_gpu
from tests.kernels.gpu.test_plan import parents_and_child
from tests.kernels.test_attention import LENGTH, SLOTS, make_batch, random_step

pytestmark = pytest.mark.gpu
BOUND = 0.01
HEADS = [(6, 2), (4, 1), (3, 3), (8, 4), (9, 3), (32, 8)]


class Both:
    """The same KV behind FlashInfer and behind torch in float32, which the CPU tests hold against the oracle."""

    def __init__(
        self, heads: int, kv_heads: int, head_dim: int, seed: int, kv_dtype: torch.dtype = torch.bfloat16
    ) -> None:  # fmt: skip
        gpu = this_gpu(eager=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = (heads, kv_heads, head_dim)
        rope = RopeTable(rope_frequencies(RopeParameters(10_000.0), head_dim)[0], LENGTH)
        plain = KVStore(1, kv_heads, SLOTS, head_dim)
        store = DeviceKV(1, SLOTS, kv_heads, head_dim, kv_dtype, gpu.device)
        for x, there in ((plain.k, store.k), (plain.v, store.v)):
            x.copy_(torch.randn(x.shape, generator=self.generator).to(kv_dtype))
            there[0, :-1].copy_(x[0].transpose(0, 1).to(kv_dtype))
        self.plain = TorchAttention(plain, rope, heads)
        what = Attention(heads, kv_heads, head_dim, torch.bfloat16, kv_dtype, gpu.hopper)
        self.gpu = FlashInferAttention(
            store, rope, what, gpu.flashinfer, gpu.ops, blocks=gpu.blocks, scratch=4096, workspace_bytes=256 << 20
        )

    def error(self, batch: Any) -> float:
        heads, kv_heads, dim = self.shape
        n = batch.n_rows
        q, k, v = (torch.randn(n, h, dim, generator=self.generator).bfloat16() for h in (heads, kv_heads, kv_heads))
        expected = self.plain.attend(0, q, k, v, self.plain.plan(batch))
        here = (x.to(self.gpu.device) for x in (q, k, v))
        got = self.gpu.attend(0, *here, self.gpu.plan(batch)).float().cpu()
        assert got.isfinite().all()
        return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_random_batches(heads: int, kv_heads: int, head_dim: int) -> None:
    both = Both(heads, kv_heads, head_dim, seed=heads)
    generator = np.random.default_rng(heads)
    for _ in range(10):
        assert both.error(make_batch(*random_step(generator))) < BOUND


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_random_batches_over_keys_of_eight_bits(heads: int, kv_heads: int, head_dim: int) -> None:
    """What lies there is equal on both sides; K and V of the step's own rows are rounded to e4m3 here alone, which is
    2.6 % of each, so that a row with few other keys is off by 4 %."""
    both = Both(heads, kv_heads, head_dim, seed=heads, kv_dtype=torch.float8_e4m3fn)
    generator = np.random.default_rng(heads)
    for _ in range(10):
        assert both.error(make_batch(*random_step(generator))) < 0.06


@pytest.mark.parametrize("limit", [4, 16])
def test_cut_segments(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "longest_piece", lambda *_: limit)
    both = Both(32, 8, 128, seed=1)
    generator = np.random.default_rng(1)
    for _ in range(10):
        assert both.error(make_batch(*random_step(generator))) < BOUND


@pytest.mark.parametrize("lengths", [[60, 60], [170]])
def test_many_rows(lengths: list[int]) -> None:
    """With keys rotated into the scratch, and with queries."""
    for rows in (127, 128):
        batch = make_batch(*parents_and_child(rows, lengths, 10))
        assert Both(32, 8, 128, seed=rows).error(batch) < BOUND
        assert Both(32, 8, 128, seed=rows, kv_dtype=torch.float8_e4m3fn).error(batch) < 0.06


def test_a_step_twice_gives_the_same_to_the_bit() -> None:
    generator = np.random.default_rng(5)
    for _ in range(5):
        batch = make_batch(*random_step(generator))
        first, second = (Both(8, 4, 64, seed=3).error(batch) for _ in range(2))
        assert first == second, "the same step twice gives two results"
