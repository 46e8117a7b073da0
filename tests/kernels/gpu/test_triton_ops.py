"""The Triton kernels against formulas in float64 and against `TorchOps`."""

import math
from importlib import import_module

import pytest
import torch
from support.interpreted import DEVICE

from pavane.kernels.gpu.ops import Rotations, TorchOps
from pavane.kernels.gpu.scaled import torch_quantise
from pavane.kernels.reference import rope
from pavane.kernels.rope import RopeParameters, RopeTable, rope_frequencies

pytest.importorskip("triton")
TritonOps = import_module("pavane.kernels.gpu.ops_triton").TritonOps

BF16, F32, F8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
ULP = {BF16: 2.0**-8, F32: 2.0**-20}  # relative; bfloat16 is rounded once, float32 in every operation


def normal(*shape: int, dtype: torch.dtype = F32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def whole(high: int, *shape: int, low: int = 0, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32).to(DEVICE)


def shuffled(n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(1)).to(DEVICE, torch.int32)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """What nobody has written to is NaN."""
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def summed(lengths: list[int]) -> torch.Tensor:
    """int32 [n + 1], from 0."""
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


def close(got: torch.Tensor, exact: torch.Tensor, scale: float = 1.0) -> None:
    """`got` is `exact` (float64) but for its dtype's rounding, and for float32's inside."""
    assert not got.isnan().any()
    error = (got.double() - exact).abs()
    assert (error <= ULP[got.dtype] * exact.abs() + scale * 2.0**-20).all(), error.max()


@pytest.fixture(params=[(64, 40), (20, 24)], ids=["d64", "d20"])
def rotations(request: pytest.FixtureRequest) -> tuple[torch.Tensor, Rotations]:
    """Frequencies float64 [d/2], and their table."""
    dim, length = request.param
    frequencies, _ = rope_frequencies(RopeParameters(10_000.0), dim)
    return frequencies.to(DEVICE), Rotations.of(RopeTable(frequencies, length), DEVICE)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("heads", [1, 3])
def test_keys_and_values_go_to_their_slots(rotations, dtype: torch.dtype, heads: int) -> None:
    frequencies, table = rotations
    dim, rows, slots = 2 * len(frequencies), 9, 30
    fused = normal(rows, 3 * heads + 2, dim, dtype=dtype)
    k, v = fused[:, heads : 2 * heads], fused[:, 2 * heads : 3 * heads]
    positions, at = whole(24, rows), shuffled(slots)[:rows]
    k_cache, v_cache = (normal(slots, heads, dim, dtype=dtype, seed=s) for s in (2, 3))
    before = k_cache.clone(), v_cache.clone()
    TritonOps().store_kv(k, v, positions, at, k_cache, v_cache, table)
    close(k_cache[at.long()], rope(k.double(), positions, frequencies))
    assert torch.equal(v_cache[at.long()], v)
    others = shuffled(slots)[rows:].long()
    assert torch.equal(k_cache[others], before[0][others])
    assert torch.equal(v_cache[others], before[1][others])


def test_float8_caches_hold_what_torch_makes_of_the_values(rotations) -> None:
    frequencies, table = rotations
    dim, rows, heads = 2 * len(frequencies), 40, 2
    k, v = normal(rows, heads, dim, dtype=BF16), normal(rows, heads, dim, dtype=BF16, seed=1)
    k[0], v[0] = 3e4, -3e4  # beyond what e4m3 holds
    v[1], v[2] = 1e-5, 0
    v[3, 0, 1] = torch.nan
    positions, at = whole(24, rows), torch.arange(rows, dtype=torch.int32, device=DEVICE)
    got, expected = ([torch.zeros(rows, heads, dim, device=DEVICE).to(F8) for _ in range(2)] for _ in range(2))
    TritonOps().store_kv(k, v, positions, at, *got, table, 0.37, 0.05)
    TorchOps().store_kv(k, v, positions, at, *expected, table, 0.37, 0.05)
    assert torch.equal(got[1].view(torch.uint8), expected[1].view(torch.uint8))
    # The rotation may differ in its last bit, and then decide a rounding.
    assert (got[0].view(torch.uint8) != expected[0].view(torch.uint8)).float().mean() < 0.01
    assert (got[0].float() - expected[0].float()).abs().max() <= 32


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(("heads", "pairs"), [(1, 1), (3, 11), (9, 40)])
def test_queries_are_rotated_into_each_segments_frame(rotations, dtype: torch.dtype, heads: int, pairs: int) -> None:
    frequencies, table = rotations
    dim, rows = 2 * len(frequencies), 7
    q = normal(rows, heads + 2, dim, dtype=dtype)[:, :heads]
    pair_rows, angles = whole(rows, pairs), whole(40, pairs, low=-20, seed=1)
    out = empty(pairs, heads, dim, dtype=dtype)
    TritonOps().rotate_queries(q, pair_rows, angles, table, out)
    close(out, rope(q[pair_rows.long()].double(), angles, frequencies))


@pytest.mark.parametrize(("dtype", "cache"), [(BF16, BF16), (F32, F32), (BF16, F8)])
def test_keys_are_gathered_and_rotated_with_their_values(rotations, dtype: torch.dtype, cache: torch.dtype) -> None:
    frequencies, table = rotations
    dim, heads, n = 2 * len(frequencies), 3, 29
    k_scale, v_scale = (0.37, 0.05) if cache is F8 else (1.0, 1.0)
    k_cache, v_cache = normal(50, heads, dim).to(cache), normal(50, heads, dim, seed=1).to(cache)
    slots, angles = whole(50, n), whole(40, n, low=-20, seed=1)
    k_out, v_out = (empty(n, heads, dim, dtype=dtype) for _ in range(2))
    TritonOps().gather_rotated(k_cache, v_cache, slots, angles, table, k_out, v_out, k_scale, v_scale)
    kept, values = (x.float()[slots.long()].double() for x in (k_cache, v_cache))
    close(k_out, k_scale * rope(kept, angles, frequencies))
    close(v_out, v_scale * values)


@pytest.mark.parametrize("lengths", [[1], [5, 1, 300, 0, 2], [0, 0, 7], [3, 4, 0, 0, 0], [1] * 70, [0]])
@pytest.mark.parametrize("beyond", [0, 3, 270])
def test_extents_become_slots(lengths: list[int], beyond: int) -> None:
    starts = summed(lengths)
    extents = torch.stack([whole(1000, len(lengths)), starts.diff()], dim=1)
    slots = [start + t for start, length in extents.tolist() for t in range(length)]
    out = torch.full((max(1, len(slots) + beyond),), -1, dtype=torch.int32, device=DEVICE)
    TritonOps().expand_extents(extents, starts, out)
    assert out.tolist() == slots + [0] * (len(out) - len(slots))


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("counts", [[1], [3, 1, 0, 8, 2], [9, 17, 1], [0, 0]])
@pytest.mark.parametrize("watched", [False, True])
def test_parts_are_merged_by_their_log_sum_exp(dtype: torch.dtype, counts: list[int], watched: bool) -> None:
    heads, dim, padding = 3, 20, 4
    total = sum(counts)
    parts = normal(total + padding, heads, dim, dtype=dtype)
    lse = 8 * normal(total + padding, heads)
    parts[total:], lse[total:] = torch.nan, torch.nan
    if total > 2:
        lse[1] = -torch.inf  # a part that saw no key, and whose result may be anything
        parts[1] = torch.nan
    order = torch.cat([shuffled(total), torch.zeros(padding, dtype=torch.int32, device=DEVICE)])
    indptr = summed(counts)
    out = empty(len(counts), heads, dim, dtype=dtype)
    shares = torch.ones(total + padding, heads, device=DEVICE) if watched else None
    TritonOps().merge(parts, lse, indptr, order, out, shares)
    expected, weights = out.double().zero_(), lse.double().zero_()
    for row in range(len(counts)):
        of = order[indptr[row] : indptr[row + 1]].long()
        seen = of[lse[of, 0] > -torch.inf]
        share = torch.softmax(lse[seen].double() * math.log(2), dim=0)
        expected[row] = (parts[seen].double() * share[..., None]).sum(dim=0)
        weights[seen] += share
    close(out, expected)
    if shares is not None:
        close(shares, 1 + weights, 4.0)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (3, 1000), (5, 96)])
def test_residuals_are_added_and_normalised(dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = normal(rows, size, dtype=dtype), normal(size, dtype=dtype, seed=2)
    residual = normal(rows, size, dtype=dtype, seed=1)
    added = (residual.float() + x.float()).to(dtype)
    got = TritonOps().add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, added)
    wide = added.double()
    close(got, wide / (wide.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight.double(), 4.0)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_heads_of_a_larger_matrix_are_normalised(dtype: torch.dtype) -> None:
    q, weight = normal(5, 7, 24, dtype=dtype)[:, 2:5], normal(24, dtype=dtype, seed=2)
    got = TritonOps().rms_norm(q, weight, 1e-6)
    wide = q.double()
    assert got.is_contiguous()
    close(got, wide / (wide.square().mean(dim=2, keepdim=True) + 1e-6).sqrt() * weight.double(), 4.0)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("inner", [8, 1500])
def test_gates_open(dtype: torch.dtype, inner: int) -> None:
    both = 4 * normal(3, 2 * inner, dtype=dtype)
    gate, up = both.double().chunk(2, dim=1)
    close(TritonOps().silu_mul(both), gate / (1 + (-gate).exp()) * up, 4.0)


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (7, 96), (3, 1500)])
def test_rows_become_float8_as_torch_makes_them(dtype: torch.dtype, rows: int, size: int) -> None:
    x = normal(rows, size + 8, dtype=dtype)[:, :size] * torch.logspace(-20, 20, rows, device=DEVICE)[:, None].to(dtype)
    x[0, 3:] = 0
    x[-1, 5] = torch.nan
    got, expected = TritonOps().quantise(x), torch_quantise(x)
    assert torch.equal(got.values[:-1].view(torch.uint8), expected.values[:-1].view(torch.uint8))
    assert torch.equal(got.scales[:-1], expected.scales[:-1])
    assert got.values[-1].float().isnan().any()
    x[-1] = 0
    zero = TritonOps().quantise(x)
    assert torch.equal(zero.scales[-1], torch.ones(1, device=DEVICE))
    assert (zero.values[-1].float() == 0).all()


@pytest.mark.parametrize("size", [16, 1000])
def test_what_enters_products_is_quantised_as_it_is_made(size: int) -> None:
    """What comes before may differ in its last bit, and then decide a rounding here."""
    x, weight, both = (
        normal(5, size, dtype=BF16),
        normal(size, dtype=BF16, seed=2),
        4 * normal(5, 2 * size, dtype=BF16, seed=3),
    )
    residuals = [normal(5, size, dtype=BF16, seed=1) for _ in range(2)]
    ops = TritonOps(), TorchOps()
    normed = [
        each.add_rms_norm_quantised(x, residual, weight, 1e-5) for each, residual in zip(ops, residuals, strict=True)
    ]
    assert torch.equal(*residuals)
    for got, expected in (normed, [each.silu_mul_quantised(both) for each in ops]):
        assert (got.values.float() != expected.values.float()).float().mean() < 0.01
        torch.testing.assert_close(got.scales, expected.scales, rtol=2**-8, atol=0)
        exact = expected.values.double() * expected.scales
        torch.testing.assert_close(got.values.double() * got.scales, exact, rtol=2**-3, atol=2**-9 * float(exact.max()))
