"""A row of the small operations is the same to the bit alone, among others, and beside rows that ask for more."""

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.wishes import Wish, asked

from pavane.kernels.gpu.edits import edits_of
from tests.kernels.gpu.test_triton_ops import BF16, F32, normal
from tests.kernels.gpu.test_triton_sample import on_device

pytest.importorskip("triton")
OPS = import_module("pavane.kernels.gpu.ops_triton").TritonOps(vocabulary_block=64)
ROWS, SIZE = 11, 48
ALONE = [(0, 1), (4, 5), (2, 9), (10, 11)]


def add_norm(x: torch.Tensor) -> torch.Tensor:
    """What is added to is made of the row itself."""
    residual = x.flip(1).contiguous()
    normed = OPS.add_rms_norm(x, residual, normal(SIZE, dtype=x.dtype, seed=4), 1e-5)
    return torch.cat([normed, residual], dim=1)


OPERATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "norm": lambda x: OPS.rms_norm(x, normal(SIZE, dtype=x.dtype, seed=4), 1e-5),
    "norm of heads": lambda x: OPS.rms_norm(x.view(len(x), 3, -1), normal(SIZE // 3, dtype=x.dtype, seed=4), 1e-5),
    "add and norm": add_norm,
    "gate": lambda x: OPS.silu_mul(x),
}


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_between_the_products(name: str, dtype: torch.dtype) -> None:
    x = normal(ROWS, SIZE, dtype=dtype)
    together = OPERATIONS[name](x)
    for begin, end in ALONE:
        assert torch.equal(OPERATIONS[name](x[begin:end].clone()), together[begin:end])


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_merge_of_the_same_parts_in_the_same_order(dtype: torch.dtype) -> None:
    """The parts lie elsewhere, and a row of one part has it as it is: as if nothing were merged."""
    counts, heads, dim = [3, 1, 9, 2], 2, 16
    ends = np.cumsum([0, *counts])
    parts, lse = normal(int(ends[-1]), heads, dim, dtype=dtype), normal(int(ends[-1]), heads, seed=1)
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(2)).to(parts.device, torch.int32)
    together = parts.new_empty(len(counts), heads, dim)
    OPS.merge(parts, lse, torch.tensor(ends, dtype=torch.int32, device=parts.device), order, together)
    for row, (begin, end) in enumerate(pairwise(ends)):
        mine = order[begin:end].long()
        alone = parts.new_empty(1, heads, dim)
        indptr = torch.tensor([0, end - begin], dtype=torch.int32, device=parts.device)
        OPS.merge(parts[mine], lse[mine], indptr, torch.arange(end - begin, device=parts.device).int(), alone)
        assert torch.equal(alone[0], together[row])
        assert end - begin > 1 or torch.equal(alone[0], parts[mine[0]])


def test_tokens_and_log_probabilities() -> None:
    """Also where another row has a bias, which takes all of them the longer way."""
    wishes = [
        Wish(temperature=0.0),
        Wish(temperature=0.8, seed=3),
        Wish(top_k=7, top_p=0.8, seed=4),
        Wish(seed=5, bias={5: 3.0}),
        Wish(temperature=1.4, min_p=0.05, seed=6),
    ]
    logits = normal(len(wishes), 150) * 3
    samples = asked(wishes, 150)
    together = OPS.sample(logits, on_device(samples), edits_of(samples, logits.device))
    for row, wish in enumerate(wishes):
        mine = asked([wish], 150)
        alone = OPS.sample(logits[row : row + 1].clone(), on_device(mine), edits_of(mine, logits.device))
        for got, expected in zip(alone, together, strict=True):
            assert torch.equal(got[0], expected[row])
