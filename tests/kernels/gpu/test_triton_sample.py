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
from pavane.kernels.batch import NO_MASK, NO_TOKEN, Samples
from pavane.kernels.gpu.edits import edits_of
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


@pytest.mark.parametrize(("size", "spread"), [(97, 0.05), (97, 5.0), (300, 1.0)])
def test_tokens_are_those_of_the_cpu(size: int, spread: float) -> None:
    rng = np.random.default_rng([size, int(100 * spread)])
    samples = asked(9, rng)
    logits = torch.from_numpy(rng.normal(0, spread, (9, size)).astype(np.float32))
    logits[3] = logits[3].round()  # many are equal
    logits[5, rng.random(size) < 0.9] = -torch.inf
    tokens, logprobs = OPS.sample(logits.to(DEVICE), on_device(samples))
    expected = sampling.sample(logits, samples)
    assert tokens.tolist() == expected.tokens.tolist()
    assert np.allclose(logprobs.cpu().numpy(), expected.logprobs, rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == TorchOps().sample(logits.to(DEVICE), on_device(samples))[0].tolist()


def test_of_equals_all_are_kept_and_the_first_is_the_likeliest() -> None:
    size, rows = 130, 14
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
    assert len(set(tokens[4:].tolist())) > 8


def edited(samples: Samples, size: int, rng: np.random.Generator) -> Samples:
    """Some rows change their logits, in any of the ways there are, and some in all."""
    rows = samples.count

    def ragged(most: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        ids = [rng.permutation(size)[: rng.integers(0, most) * (rng.random() < 0.6)] for _ in range(rows)]
        return np.cumsum([0, *map(len, ids)]).astype(np.int32), np.concatenate(ids).astype(np.int32)

    seen_indptr, seen_ids = ragged(size)
    bias_indptr, bias_ids = ragged(90)
    values = rng.normal(0, 5, len(bias_ids)).astype(np.float32)
    values[rng.random(len(values)) < 0.2] = -np.inf
    masked = (np.arange(rows) == 0) | (rng.random(rows) < 0.5)
    masks = rng.integers(0, 2**32, (int(masked.sum()), size // 32), dtype=np.uint32)  # what is beyond is forbidden
    masks[0] = 0  # the first row has no token left
    return dataclasses.replace(
        samples, forced=np.where(np.arange(rows) == 1, 5, NO_TOKEN).astype(np.int32),
        repetition=rng.choice([1.0, 1.3, 0.7], rows).astype(np.float32), seen_indptr=seen_indptr,
        seen_ids=seen_ids, bias_indptr=bias_indptr, bias_ids=bias_ids, bias_values=values, masks=masks,
        mask_rows=np.where(masked, np.cumsum(masked) - 1, NO_MASK).astype(np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("size", [97, 200])
def test_logits_are_edited_as_on_the_cpu_and_log_probabilities_are_those_before(size: int) -> None:
    rng = np.random.default_rng(size)
    samples = edited(asked(8, rng), size, rng)
    ready = []
    samples = dataclasses.replace(samples, masks_ready=lambda: ready.append(True))
    logits = torch.from_numpy(rng.normal(0, 3, (8, size)).astype(np.float32))
    logits[2, :5] = 3e38
    edits = edits_of(samples, DEVICE)
    assert ready == [True]
    assert edits is not None
    assert len(edits.rows) > 3
    expected = sampling.sample(logits, samples)
    for ops in (OPS, TorchOps()):
        given = logits.to(DEVICE)
        with np.errstate(over="ignore"):
            tokens, logprobs = ops.sample(given, on_device(samples), edits)
        assert tokens.tolist() == expected.tokens.tolist()
        assert np.allclose(logprobs.cpu().numpy(), expected.logprobs, rtol=1e-5, atol=1e-5)
        assert torch.equal(given.cpu(), logits)
    assert [row for row, token in enumerate(expected.tokens) if token == NO_TOKEN] == [0]


def test_samples_that_change_nothing_have_no_edits() -> None:
    assert edits_of(asked(5, np.random.default_rng(0)), DEVICE) is None


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
    assert [*map(str, logprobs[1:4].tolist())] == ["-inf", "nan", "-inf"]
    assert np.array_equal(logprobs.cpu().numpy()[1:4], expected.logprobs[1:4], equal_nan=True)
