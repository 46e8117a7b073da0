"""The GPU's attention with its Triton kernels, interpreted, around FlashInfer's stood in for."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from support.interpreted import DEVICE

from pavane.kernels.gpu import plan as planning
from tests.kernels.gpu.test_attention import Pair
from tests.kernels.gpu.test_plan import parents_and_child
from tests.kernels.test_attention import make_batch, random_step

pytest.importorskip("triton")
if DEVICE.type != "cpu":
    pytest.skip("what stands in for FlashInfer runs on a CPU, and Triton's kernels on the GPU", allow_module_level=True)


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.gpu_attention.TorchOps", import_module("pavane.kernels.gpu.ops_triton").TritonOps)
    monkeypatch.setattr(planning, "longest_piece", lambda *_: 4)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_random_step_equals_the_plain_backend(dtype: torch.dtype, most: float) -> None:
    batch = make_batch(*random_step(np.random.default_rng(5)))
    pair = Pair(dtype)
    expected, got = pair.attend(replace(batch, watched=np.arange(batch.n_rows, dtype=np.int32)))
    assert float((got.float() - expected).norm() / expected.norm()) < most
    plain, gpu = (plan.shares for plan in pair.plans)
    assert plain is not None
    assert gpu is not None
    torch.testing.assert_close(gpu, plain, atol=100 * most, rtol=0)


def test_keys_are_rotated_into_the_scratch() -> None:
    pair = Pair()
    expected, got = pair.attend(make_batch(*parents_and_child(128, [60, 70], 10)))
    assert [group.kind.scratch for group, _ in pair.plans[1].launches] == [True]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
