"""Batch invariance and float32 on the GPU, to the bit: what the hardware adds up alike is found here, and only here."""

import pytest
import torch
from support.gpu_invariant import alone, in_company, plain_runner, runner_of, story

from pavane.models.cuda import this_gpu

pytestmark = pytest.mark.gpu
LAYERS = [(4096, 6144), (4096, 28672), (14336, 4096), (4096, 128256), (576, 1536)]  # inputs, outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outer"), LAYERS)
def test_a_row_of_a_product_is_the_same_alone_and_anywhere(dtype: torch.dtype, inner: int, outer: int) -> None:
    gpu = this_gpu(eager=True)
    generator = torch.Generator(gpu.device).manual_seed(0)
    x, weight = (
        torch.randn(n, inner, device=gpu.device, generator=generator).to(dtype) for n in (130, outer)
    )  # fmt: skip
    whole = gpu.linear(x, weight)
    exact = x[:5].double() @ weight.double().T
    assert (whole[:5].double() - exact).norm() / exact.norm() < (1e-5 if dtype is torch.float32 else 4e-3)
    for begin, end in ((0, 1), (1, 2), (63, 64), (64, 65), (129, 130), (7, 90), (3, 19)):
        assert torch.equal(gpu.linear(x[begin:end].clone(), weight), whole[begin:end]), (begin, end)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_same_alone_and_in_any_company(dtype: torch.dtype, eager: bool) -> None:
    runner, calls = runner_of(this_gpu(eager=eager), dtype), story(24)
    expected = alone(runner, calls)
    for budget in (3, 50, 512):
        assert in_company(runner, calls, budget) == expected, budget


def test_in_float32_tokens_are_those_of_the_cpu() -> None:
    """Both sum in float32, in orders of their own: log-probabilities differ by some 1e-5, likeliest tokens by more."""
    calls = story(24)
    expected = alone(plain_runner(), calls)
    for name, (tokens, logprobs) in alone(runner_of(this_gpu(eager=False), torch.float32), calls).items():
        assert tokens == expected[name][0]
        torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(expected[name][1]), atol=1e-3, rtol=0)
