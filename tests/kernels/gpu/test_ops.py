"""The plain operations against float64 formulas, and against what the CPU does with the same samples."""

import numpy as np
import pytest
import torch
from support.wishes import Wish, asked, random_logits

from pavane.kernels import reference
from pavane.kernels.batch import NO_TOKEN
from pavane.kernels.gpu.ops import Rotations, TorchOps, Wishes
from pavane.kernels.gpu.torch_sample import torch_uniform
from pavane.kernels.noise import uniform
from pavane.kernels.rope import RopeParameters, RopeTable, rope_frequencies
from pavane.kernels.sampling import sample

torch.set_num_threads(1)
LENGTH, DIM = 100, 16
FREQUENCIES, _ = rope_frequencies(RopeParameters(10_000.0), DIM)
TABLE = Rotations.of(RopeTable(FREQUENCIES, LENGTH), torch.device("cpu"))
OPS = TorchOps()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ints(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_keys_are_stored_rotated_from_the_parts_of_one_matrix() -> None:
    qkv = torch.randn(5, (4 + 2 + 2) * DIM, generator=rng(0))
    k, v = (part.view(5, 2, DIM) for part in qkv[:, 4 * DIM :].split(2 * DIM, dim=1))
    k_cache, v_cache = torch.full((2, 20, 2, DIM), 7.0)
    positions, slots = ints([0, 3, 99, 50, 51]), ints([4, 19, 0, 7, 8])
    OPS.store_kv(k, v, positions, slots, k_cache, v_cache, TABLE)
    expected = reference.rope(k.double(), positions, FREQUENCIES)
    torch.testing.assert_close(k_cache[slots].double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(v_cache[slots], v)
    others = [slot for slot in range(20) if slot not in slots.tolist()]
    assert (k_cache[others] == 7).all()
    assert (v_cache[others] == 7).all()


def test_a_cache_of_eight_bits_is_scaled_and_cut() -> None:
    k, v = torch.randn(2, 6, 1, DIM, generator=rng(1)) * torch.tensor([1.0, 1000.0])[:, None, None, None]
    k_cache, v_cache = torch.zeros(2, 6, 1, DIM).to(torch.float8_e4m3fn)
    zero, slots = torch.zeros(6, dtype=torch.int32), torch.arange(6, dtype=torch.int32)
    OPS.store_kv(k, v, zero, slots, k_cache, v_cache, TABLE, k_scale=0.01, v_scale=1.0)
    torch.testing.assert_close(k_cache.float() * 0.01, k.clamp(-4.48, 4.48), rtol=2**-4, atol=2**-10)
    torch.testing.assert_close(v_cache.float(), v.clamp(-448, 448), rtol=2**-4, atol=2**-10)
    angles, k_out, v_out = ints([0, 1, -3]), torch.empty(3, 1, DIM), torch.empty(3, 1, DIM)
    OPS.gather_rotated(k_cache, v_cache, ints([5, 0, 2]), angles, TABLE, k_out, v_out, k_scale=0.01, v_scale=2.0)
    kept = k_cache[[5, 0, 2]].double() * 0.01
    torch.testing.assert_close(k_out.double(), reference.rope(kept, angles, FREQUENCIES), atol=1e-5, rtol=0)
    assert torch.equal(v_out, v_cache[[5, 0, 2]].float() * 2)


def test_queries_and_keys_are_rotated_for_each_pair() -> None:
    q = torch.randn(4, 6, DIM, generator=rng(2))
    rows, angles = ints([3, 0, 0, 1, 2]), ints([-100, 200, 5, 0, 77])
    out = torch.empty(5, 6, DIM)
    OPS.rotate_queries(q, rows, angles, TABLE, out)
    expected = reference.rope(q[rows].double(), angles, FREQUENCIES)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)
    v, v_out = torch.randn(4, 6, DIM, generator=rng(3)), torch.empty(5, 6, DIM)
    OPS.gather_rotated(q, v, rows, angles, TABLE, out, v_out)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)
    assert torch.equal(v_out, v[rows])


@pytest.mark.parametrize("pad", [0, 3])
def test_extents_become_slots(pad: int) -> None:
    extents = [(40, 3), (9, 1), (100, 5), (7, 2)]
    lengths = [length for _, length in extents]
    starts = [0, *np.cumsum(lengths).tolist()] + [sum(lengths)] * pad
    out = torch.full((sum(lengths) + 2 * pad,), -1, dtype=torch.int32)
    OPS.expand_extents(ints(extents + [(55, 0)] * pad), ints(starts), out)
    expected = [slot for start, length in extents for slot in range(start, start + length)]
    assert out.tolist() == expected + [0] * 2 * pad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_is_the_softmax_over_each_rows_parts(dtype: torch.dtype) -> None:
    counts = [3, 1, 0, 5]
    parts = torch.randn(12, 2, DIM, generator=rng(4)).to(dtype)
    lse = torch.randn(12, 2, generator=rng(5)) * 30
    order = torch.randperm(12, generator=rng(6)).int()
    indptr = ints([0, 3, 4, 4, 9, 9, 9])
    lse[order[9:].long()] = torch.nan  # padding may be anything
    out = torch.full((6, 2, DIM), 9.0)
    shares = torch.ones(12, 2)
    OPS.merge(parts, lse, indptr, order, out, shares)
    at = 0
    expected, share = torch.zeros(6, 2, DIM, dtype=torch.float64), torch.ones(12, 2, dtype=torch.float64)
    for row, count in enumerate(counts):
        chosen = order[at : at + count].long()
        weight = (lse[chosen].double() * np.log(2)).softmax(dim=0)
        expected[row] = (weight[..., None] * parts[chosen].double()).sum(dim=0)
        share[chosen] += weight
        at += count
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares.double(), share, atol=1e-5, rtol=0)


def test_norms_and_gates() -> None:
    x, residual = torch.randn(2, 7, 32, generator=rng(7))
    weight = torch.rand(32, generator=rng(8)) + 0.5
    total = x.double() + residual.double()
    expected = total / (total.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight.double()
    got = OPS.add_rms_norm(x, residual, weight, 1e-5)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(residual.double(), total, atol=1e-6, rtol=0)
    gate, up = x.double().chunk(2, dim=1)
    torch.testing.assert_close(OPS.silu_mul(x).double(), gate * gate.sigmoid() * up, atol=1e-5, rtol=0)
    assert OPS.silu_mul(x.bfloat16()).dtype is torch.bfloat16


def test_noise_is_that_of_the_cpu_to_the_bit() -> None:
    edges = np.array([0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64)
    seeds = np.concatenate([edges, np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64)])
    counters = np.random.default_rng(1).integers(0, 2**63, len(seeds), dtype=np.int64)
    got = torch_uniform(torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(counters))
    assert got.numpy().tolist() == uniform(seeds, counters).tolist()


@pytest.mark.parametrize(("vocab", "spread"), [(97, 1.0), (700, 3.0), (5000, 0.5), (5000, 4.0), (300, 0.0)])
def test_tokens_are_those_of_the_cpu(vocab: int, spread: float) -> None:
    filters = [
        Wish(temperature=0.0),
        Wish(),
        Wish(temperature=0.3),
        Wish(top_k=7),
        Wish(top_k=vocab + 5),
        Wish(top_p=0.6),
        Wish(min_p=0.2),
        Wish(temperature=1.5, top_k=40, top_p=0.8, min_p=0.05),
        Wish(forced=3),
    ]
    wishes = [Wish(**{**vars(w), "seed": 31 * i + n, "counter": n}) for i, w in enumerate(filters) for n in range(20)]
    samples = asked(wishes)
    logits = random_logits(len(wishes), vocab, spread, vocab)
    logits[5] = torch.nan
    expected = sample(logits, samples)
    given = (
        samples.forced, samples.temperature, samples.top_p, samples.top_k, samples.min_p,
        samples.seeds.view(np.int64), samples.counters,
    )  # fmt: skip
    tokens, logprobs = OPS.sample(logits, Wishes(*(torch.from_numpy(array) for array in given)))
    assert tokens.dtype is torch.int32
    assert (tokens.numpy() == expected.tokens).mean() > 0.98, "more differs than rounding decides"
    same = tokens.numpy() == expected.tokens
    np.testing.assert_allclose(logprobs.numpy()[same], expected.logprobs[same], atol=1e-5)
    assert tokens[5] == NO_TOKEN
    assert logprobs[5].isnan()
