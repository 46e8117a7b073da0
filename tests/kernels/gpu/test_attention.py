"""The GPU's attention, stood in for, where the shared tests do not go."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.gpu_attention import ReadableKV, standing_in

from pavane.kernels.attention import TorchAttention
from pavane.kernels.batch import Batch
from pavane.kernels.gpu import plan as planning
from pavane.kernels.kv import KVStore
from pavane.kernels.rope import RopeTable
from tests.kernels.gpu.test_plan import parents_and_child
from tests.kernels.test_attention import FREQUENCIES, HEAD_DIM, LENGTH, SLOTS, make_batch, random_step

torch.set_num_threads(1)
HEADS, KV_HEADS = 6, 2
ROPE = RopeTable(FREQUENCIES, LENGTH)


class Pair:
    """The same keys and values behind both backends; those of the GPU in `dtype`."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, kv_dtype: torch.dtype | None = None, **scales: float
    ) -> None:
        self.generator = torch.Generator().manual_seed(0)
        plain = KVStore(1, KV_HEADS, SLOTS, HEAD_DIM)
        self.store = ReadableKV(1, KV_HEADS, SLOTS, HEAD_DIM, kv_dtype or dtype)
        for x in (plain.k, plain.v):
            x.copy_(self.random(*x.shape))
        k, v = plain.k[0] / scales.get("k_scale", 1.0), plain.v[0] / scales.get("v_scale", 1.0)
        self.store.write(0, k.to(self.store.k.dtype), v.to(self.store.v.dtype))
        self.dtype = dtype
        self.kept = plain
        self.plain = TorchAttention(plain, ROPE, HEADS)
        self.gpu = standing_in(self.store, ROPE, HEADS, dtype=dtype, **scales)  # type: ignore[arg-type]

    def round_to_stored(self, k_scale: float, v_scale: float) -> None:
        """The plain backend gets what the other one keeps."""
        k, v = self.store.read(0)
        self.kept.write(0, k.float() * k_scale, v.float() * v_scale)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def attend(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(plain, GPU), and keeps their plans."""
        n = batch.n_rows
        q, k, v = (self.random(n, heads, HEAD_DIM).to(self.dtype) for heads in (HEADS, KV_HEADS, KV_HEADS))
        self.plans = self.plain.plan(batch), self.gpu.plan(batch)
        expected = self.plain.attend(0, q, k, v, self.plans[0])
        return expected, self.gpu.attend(0, q, k, v, self.plans[1])


def test_many_rows_read_rotated_keys_from_the_scratch() -> None:
    pair = Pair()
    positions, slots, segments = parents_and_child(128, [60, 70], 10)
    expected, got = pair.attend(make_batch(positions, slots, segments))
    plan = pair.plans[1]
    assert [group.kind.scratch for group, _ in plan.launches] == [True]
    assert not plan.merged
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_cut_segments_are_merged_again(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "longest_piece", lambda *_: 4)
    generator = np.random.default_rng(seed)
    for _ in range(4):
        expected, got = Pair().attend(make_batch(*random_step(generator)))
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_in_bfloat16_results_are_off_by_its_roundings() -> None:
    """Keys, values, rotated queries and partial results are rounded once each, each to 2**-9 of its size."""
    generator = np.random.default_rng(7)
    for _ in range(5):
        expected, got = Pair(torch.bfloat16).attend(make_batch(*random_step(generator)))
        assert got.dtype is torch.bfloat16
        assert float((got.float() - expected).norm() / expected.norm()) < 1e-2


def test_keys_and_values_of_eight_bits_are_scaled_back() -> None:
    expected, got = Pair(
        torch.bfloat16, torch.float8_e4m3fn, k_scale=0.02, v_scale=0.05
    ).attend(make_batch(*random_step(np.random.default_rng(3))))  # fmt: skip
    assert float((got.float() - expected).norm() / expected.norm()) < 6e-2


def test_rotated_keys_of_the_scratch_are_of_the_activations_dtype() -> None:
    """What the step's own rows are rounded to is e4m3's 2**-4 at most, 2.6 % on average; parents lie there as both
    backends have them."""
    pair = Pair(torch.bfloat16, torch.float8_e4m3fn, k_scale=0.02, v_scale=0.05)
    pair.round_to_stored(0.02, 0.05)
    expected, got = pair.attend(make_batch(*parents_and_child(128, [60, 70], 10)))
    assert [group.kind.scratch for group, _ in pair.plans[1].launches] == [True]
    assert float((got.float() - expected).norm() / expected.norm()) < 3e-2


@pytest.mark.parametrize("cut", [4, 512])
def test_shares_of_keys_of_eight_bits(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-sum-exps know the scale of the keys: a part's share is off by the roundings of its scores alone."""
    monkeypatch.setattr(planning, "longest_piece", lambda *_: cut)
    generator = np.random.default_rng(12)
    for _ in range(4):
        batch = make_batch(*random_step(generator))
        pair = Pair(torch.bfloat16, torch.float8_e4m3fn, k_scale=0.02, v_scale=0.05)
        pair.attend(replace(batch, watched=np.arange(batch.n_rows, dtype=np.int32)))
        plain, gpu = (plan.shares for plan in pair.plans)
        assert plain is not None
        assert gpu is not None
        torch.testing.assert_close(gpu, plain, atol=0.02 * HEADS, rtol=0)


@pytest.mark.parametrize("cut", [4, 512])
def test_shares_are_are_those_of_the_plain_backend(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "longest_piece", lambda *_: cut)
    generator = np.random.default_rng(11)
    for _ in range(4):
        batch = make_batch(*random_step(generator))
        pair = Pair()
        pair.attend(replace(batch, watched=np.arange(batch.n_rows, dtype=np.int32)))
        plain, gpu = (plan.shares for plan in pair.plans)
        assert plain is not None
        assert gpu is not None
        torch.testing.assert_close(gpu, plain, atol=1e-4, rtol=0)
