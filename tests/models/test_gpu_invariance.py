"""`--batch-invariant` on a GPU: the whole runner gives a call the same bits alone, in any batch and in other chunks.
With what stands in for the kernels on random graphs, and with the kernels themselves, interpreted, on one."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gpu_attention import IN_TORCH, Invariant, invariant_runner, standing_in_runner
from support.graphs import graphs
from support.harness import Harness, decode, prefill
from support.interpreted import DEVICE
from support.spelling import Letters
from support.tiny import tiny_config, tiny_weights

from pavane.models.reference import ReferenceModel
from pavane.scheduler.spec import CallSpec
from tests.scheduler.test_invariance import line, renamed, told
from tests.scheduler.test_oracle import CONFIG, WEIGHTS, check

torch.set_num_threads(1)
SLOTS = 2000
SMALL = tiny_config(num_layers=1, hidden_size=32, intermediate_size=40, num_heads=3, num_kv_heads=1, qkv_bias=True)
INTERPRETED = pytest.mark.skipif(find_spec("triton") is None or DEVICE.type != "cpu", reason="Triton's interpreter")


def harness(own: Invariant = IN_TORCH, *, graphs: bool = False, **fields: object) -> Harness:
    config, weights = (CONFIG, WEIGHTS) if own is IN_TORCH else (SMALL, tiny_weights(SMALL))
    runner = invariant_runner(config, weights, SLOTS, own, graphs=graphs)
    return Harness(runner, SLOTS, batch_invariant=True, check=False, text=Letters(), **fields)  # type: ignore[arg-type]


def alone(calls: Sequence[CallSpec], own: Invariant = IN_TORCH, bos: int | None = None) -> Harness:
    """Each call by itself, one after the other, with room for everything."""
    there = harness(own, bos_id=bos, token_budget=1000)
    for call in calls:
        there.submit(call)
        there.run()
    return there


@given(
    calls=graphs(),
    others=graphs(),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([1, 3, 17, 200]),
    captured=st.booleans(),
    evicted=st.integers(0, 40),
    data=st.data(),
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_among_other_calls_and_in_other_chunks(
    calls: list[CallSpec], others: list[CallSpec], bos: int | None, budget: int, captured: bool, evicted: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    there = harness(bos_id=bos, token_budget=budget, graphs=captured, ahead=True)
    mine, theirs = list(calls), renamed(others, "x")
    while mine or theirs:
        line = mine if mine and (not theirs or data.draw(st.booleans())) else theirs
        there.submit(line.pop(0))
        if data.draw(st.integers(0, 3)) == 0:
            there.step()
            there.cache.evict(evicted)
    there.run()
    assert told(there, calls) == told(alone(calls, bos=bos), calls)


def triton(dtype: torch.dtype) -> Invariant:
    """The small operations have tests of their own."""
    package = "pavane.kernels.gpu.invariant."
    return Invariant(
        IN_TORCH.ops,
        import_module(package + "linear").invariant_linear,
        import_module(package + "launch").TileLaunch,
        dtype,
    )


def story() -> list[CallSpec]:
    """Chat, moved parents, and answers that are sampled or forced."""
    return [
        prefill("system", line(11, 0)),
        prefill("doc", line(24, 1)),
        prefill("user", line(6, 2), "system"),
        decode("one", line(3, 3), "system", "user", max_tokens=2, logprobs=True, seed=5),
        decode("two", line(2, 4), "doc", "one", "system", max_tokens=2, logprobs=2, seed=6, attention_mass=True),
        decode("three", line(3, 5), "two", "doc", forced=tuple(line(5, 7)), logprobs=True, one_pass=True),
    ]


@INTERPRETED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_kernels_themselves(dtype: torch.dtype) -> None:
    calls, own = story(), triton(dtype)
    expected = alone(calls, own)
    assert len(told(expected, calls)) == len(calls)
    there = harness(own, token_budget=17, graphs=True)
    there.submit(*[decode(f"x{i}", line(5 + 3 * i, 20 + i), max_tokens=2 + i, seed=i) for i in range(3)])
    there.step()
    there.submit(*calls)
    there.run()
    assert told(there, calls) == told(expected, calls)
    masses = [each.outcome("two").receipt.attention_mass for each in (there, expected)]
    assert masses[0] == masses[1] != ()


@INTERPRETED
@given(calls=graphs(), bos=st.sampled_from([None, 0]), budget=st.sampled_from([5, 60]), captured=st.booleans())
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_kernels_in_float32_give_what_the_oracle_does(
    calls: list[CallSpec], bos: int | None, budget: int, captured: bool
) -> None:
    there = harness(triton(torch.float32), bos_id=bos, token_budget=budget, graphs=captured)
    there.submit(*calls)
    there.run()
    check(there, calls, bos, ReferenceModel(SMALL, tiny_weights(SMALL)))


def test_without_it_rounding_depends_on_the_batch() -> None:
    """So that the tests above can fail."""
    seen = set()
    for budget in (3, 100):
        there = Harness(standing_in_runner(CONFIG, WEIGHTS, SLOTS), SLOTS, token_budget=budget, text=Letters())
        there.submit(*story())
        there.run()
        seen.add(told(there, story())["three"][1])
    assert len(seen) > 1
