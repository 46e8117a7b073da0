"""The sampling kernel against the CPU's sampling and `TorchOps`."""

import dataclasses
from importlib import import_module

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.interpreted import DEVICE
from support.samples import greedy

from pavane.kernels import sampling
from pavane.kernels.batch import NO_TOKEN, Samples
from pavane.kernels.gpu.ops import TorchOps, Wishes
from pavane.kernels.noise import uniform as cpu_uniform

tl = pytest.importorskip("triton.language")
kernel = import_module("pavane.kernels.gpu.fused.jit").kernel
uniform = import_module("pavane.kernels.gpu.fused.noise").uniform
OPS = import_module("pavane.kernels.gpu.ops_triton").TritonOps(vocabulary_block=64)


def moved(values: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values).to(DEVICE)


@kernel
def uniform_kernel(seeds: tl.tensor, counters: tl.tensor, out: tl.tensor) -> None:
    i = tl.program_id(0)
    tl.store(out + i, uniform(tl.load(seeds + i), tl.load(counters + i)))


def test_noise_is_that_of_the_cpu_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    seeds = np.concatenate([rng.integers(0, 2**64, 40, dtype=np.uint64), np.array([0, 2**63, 2**64 - 1], np.uint64)])
    counters = np.concatenate([rng.integers(0, 2**20, 40), [0, 2**32 - 1, 2**40 + 7]])
    out = torch.empty(len(seeds), dtype=torch.float64, device=DEVICE)
    uniform_kernel[(len(seeds),)](moved(seeds.view(np.int64)), moved(counters), out)
    assert np.array_equal(out.cpu().numpy(), cpu_uniform(seeds, counters))


def asked(rows: int, rng: np.random.Generator) -> Samples:
    """What is asked for is as mixed as it can be."""

    def some(values: np.ndarray, off: float, share: float) -> np.ndarray:
        return np.where(rng.random(rows) < share, values, off)

    return dataclasses.replace(
        greedy(list(range(rows))),
        temperature=some(rng.uniform(0.1, 2.0, rows), 0.0, 0.9).astype(np.float32),
        top_k=some(rng.integers(1, 90, rows), 0, 0.5).astype(np.int32),
        top_p=some(rng.uniform(0.05, 1.0, rows), 1.0, 0.5).astype(np.float32),
        min_p=some(rng.uniform(0.0, 0.4, rows), 0.0, 0.3).astype(np.float32),
        forced=some(rng.integers(0, 90, rows), NO_TOKEN, 0.1).astype(np.int32),
        seeds=rng.integers(0, 2**64, rows, dtype=np.uint64),
        counters=rng.integers(0, 2**33, rows),
    )


def on_device(samples: Samples) -> Wishes:
    s = samples
    given = (s.forced, s.temperature, s.top_p, s.top_k, s.min_p, s.seeds.view(np.int64), s.counters)
    return Wishes(*map(moved, given))


@pytest.mark.parametrize("size", [97, 500])
@pytest.mark.parametrize("spread", [0.05, 1.0, 5.0])
def test_tokens_are_those_of_the_cpu(size: int, spread: float) -> None:
    rng = np.random.default_rng([size, int(100 * spread)])
    samples = asked(16, rng)
    logits = torch.from_numpy(rng.normal(0, spread, (16, size)).astype(np.float32))
    logits[3] = logits[3].round()  # many are equal
    logits[5, rng.random(size) < 0.9] = -torch.inf
    tokens, logprobs = OPS.sample(logits.to(DEVICE), on_device(samples))
    expected = sampling.sample(logits, samples)
    assert tokens.tolist() == expected.tokens.tolist()
    assert np.allclose(logprobs.cpu().numpy(), expected.logprobs, rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == TorchOps().sample(logits.to(DEVICE), on_device(samples))[0].tolist()


def test_of_equals_all_are_kept_and_the_first_is_the_likeliest() -> None:
    size, rows = 130, 24
    rng = np.random.default_rng(3)
    logits = torch.zeros(rows, size)
    samples = dataclasses.replace(
        asked(rows, rng),
        temperature=np.where(np.arange(rows) < 4, 0, 1).astype(np.float32),
        top_k=np.full(rows, 2, dtype=np.int32),
        top_p=np.full(rows, 0.6, dtype=np.float32),
        min_p=np.ones(rows, dtype=np.float32),
        forced=np.full(rows, NO_TOKEN, dtype=np.int32),
    )
    tokens, _ = OPS.sample(logits.to(DEVICE), on_device(samples))
    assert tokens.tolist() == sampling.sample(logits, samples).tokens.tolist()
    assert tokens[:4].tolist() == [0] * 4
    assert len(set(tokens[4:].tolist())) > 15


def test_rows_without_a_finite_peak_get_no_token_and_the_others_theirs() -> None:
    logits = torch.randn(5, 97, generator=torch.Generator().manual_seed(0))
    logits[1], logits[2, 40], logits[3, 7] = -torch.inf, torch.nan, torch.inf
    samples = asked(5, np.random.default_rng(1))
    samples = dataclasses.replace(samples, forced=np.array([NO_TOKEN, NO_TOKEN, NO_TOKEN, 5, NO_TOKEN], np.int32))
    with np.errstate(invalid="ignore"):
        tokens, logprobs = OPS.sample(logits.to(DEVICE), on_device(samples))
    expected = sampling.sample(logits, samples)
    assert tokens.tolist() == expected.tokens.tolist()
    assert tokens[1:4].tolist() == [NO_TOKEN, NO_TOKEN, 5]
    assert logprobs.isneginf().tolist() == [False, True, True, True, False]
