"""The GPU's runner on a CPU, FlashInfer stood in for: random graphs against the oracle, samples against the CPU's."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gpu_attention import standing_in_runner
from support.graphs import graphs
from support.harness import Harness, decode, prefill, tiny_runner
from support.late_device import LateDevice
from support.tiny import tiny_config, tiny_weights
from support.wishes import Wish, asked, random_logits

from pavane.kernels.batch import NO_TOKEN, Batch, MoveOut, Moves, RunnerLostError
from pavane.kernels.gpu import plan as planning
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.sampling import choose, finish, sample_arrays, wishes_of
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.kernels.sampling import sample
from pavane.models.gpu_runner import GpuModel, GpuRunner
from pavane.scheduler.spec import CallSpec
from tests.models.test_runner import step
from tests.scheduler.test_oracle import CONFIG, WEIGHTS, check

torch.set_num_threads(1)


@given(
    calls=graphs(),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([3, 17, 200]),
    ahead=st.booleans(),
    limit=st.sampled_from([2, 512]),
    captured=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_equal_the_oracle(
    calls: list[CallSpec], bos: int | None, budget: int, ahead: bool, limit: int, captured: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "longest_piece", lambda *_: limit)
        harness = Harness(
            standing_in_runner(CONFIG, WEIGHTS, 2000, graphs=captured),
            2000,
            bos_id=bos,
            token_budget=budget,
            ahead=ahead,
        )
        harness.submit(*calls)
        harness.run()
        check(harness, calls, bos)


@given(calls=graphs(), slots=st.integers(90, 260), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_with_a_tier_below_a_small_pool(calls: list[CallSpec], slots: int, seed: int) -> None:
    late = LateDevice(random.Random(seed), step_at_once=True)
    runner = standing_in_runner(CONFIG, WEIGHTS, slots, host_pages=20, late=late)
    harness = Harness(runner, slots, host_pages=20)
    harness.submit(*calls)
    harness.run()
    check(harness, calls, None)


def test_decodes_run_as_captured_graphs(caplog: pytest.LogCaptureFixture) -> None:
    """Of one row each, and of the rows of several that read one parent; as they run without."""
    caplog.set_level(logging.DEBUG, logger="pavane")
    told = []
    for capture in (True, False):
        harness = Harness(standing_in_runner(CONFIG, WEIGHTS, 2000, graphs=capture), 2000)
        parent = prefill("p", [3 + i % 90 for i in range(200)])
        others = [prefill(f"q{i}", list(range(5, 8 + i))) for i in range(3)]
        answers = [decode(f"a{i}", [4], f"q{i}", "p", max_tokens=6, logprobs=1, seed=i) for i in range(3)]
        alone = decode("b", [9, 9], max_tokens=9, logprobs=1, seed=7)
        harness.submit(parent, *others, *answers, alone)
        harness.run()
        told.append([harness.outcome(call.id) for call in (*answers, alone)])
    captured = [record.getMessage() for record in caplog.records if "captured" in record.getMessage()]
    assert all(line.startswith("captured a graph of Bucket(rows=") for line in captured)
    assert any("pieces=1, parts=4, merged=True" in line for line in captured), captured
    assert any("pieces=0, parts=0, merged=False" in line for line in captured), captured
    for with_graphs, without in zip(*told, strict=True):
        assert with_graphs.tokens == without.tokens
        np.testing.assert_allclose(with_graphs.logprobs, without.logprobs, atol=1e-5)


@pytest.mark.parametrize("changes", [{"qkv_bias": True}, {"qk_norm": True}, {"tie_word_embeddings": False}])
def test_families_as_the_cpu_has_them(changes: dict[str, bool]) -> None:
    config = tiny_config(**changes)
    weights = tiny_weights(config)
    plain, gpu = tiny_runner(config, weights, 8), standing_in_runner(config, weights, 8)
    for position, previous in ((0, NO_TOKEN), (1, 0), (2, 0)):
        expected, got = (runner.execute(step(position, previous)) for runner in (plain, gpu))
        assert got.tokens.tolist() == expected.tokens.tolist()
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-4)


def test_samples_with_edits_and_reports_are_those_of_the_cpu() -> None:
    vocab = 200
    wishes = [
        Wish(temperature=0.0),
        Wish(temperature=0.0, repetition=1.5, seen=(1, 2, 3)),
        Wish(seed=3, bias={5: 30.0}),
        Wish(temperature=0.0, allowed=frozenset({9})),
        Wish(temperature=0.7, top_logprobs=3),
        Wish(temperature=0.0, allowed=frozenset()),
        Wish(seed=8, counter=2),
    ]
    samples, logits = asked(wishes, vocab), random_logits(len(wishes), vocab, 2.0)
    there = Upload(Staging(torch.device("cpu"))).put(sample_arrays(samples))
    chosen = choose(TorchOps(), logits, samples, wishes_of(there))
    assert chosen.by_hand.tolist() == [4]
    got, expected = finish(chosen, samples, chosen.tokens.clone(), chosen.logprobs), sample(logits, samples)
    assert got.tokens.tolist() == expected.tokens.tolist()
    assert chosen.tokens.tolist() == expected.tokens.tolist(), "the next step would take another token"
    np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-5)
    assert got.top_tokens is not None
    assert expected.top_tokens is not None
    assert got.top_tokens.tolist() == expected.top_tokens.tolist()


class Breaking:
    """A model whose next steps raise, and whether the device answers after it."""

    device = torch.device("cpu")

    def __init__(self, errors: Iterator[Exception], answers: bool) -> None:
        self._errors = errors
        self._answers = answers

    def forward(self, *_: object) -> None:
        raise next(self._errors)

    def check(self) -> None:
        if not self._answers:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def breaking(error: Exception, *, answers: bool) -> GpuRunner:
    model: GpuModel = Breaking(iter([error]), answers)  # type: ignore[assignment]
    return GpuRunner(model, 8)


def test_a_step_without_memory_says_what_to_change() -> None:
    runner = breaking(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), answers=True)
    with pytest.raises(MemoryError, match="no memory for a step of 1 rows and 1 pairs; use a smaller --max-num-b"):
        runner.execute(step(0, NO_TOKEN))


def test_an_error_that_leaves_the_device_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught:
        breaking(RuntimeError("shapes do not fit"), answers=True).execute(step(0, NO_TOKEN))
    assert not isinstance(caught.value, RunnerLostError)


def test_an_error_that_takes_the_device_is_the_end() -> None:
    with pytest.raises(RunnerLostError, match="does not answer any more: CUDA error: device-side assert"):
        breaking(RuntimeError("CUDA error: device-side assert"), answers=False).execute(step(0, NO_TOKEN))


def test_steps_that_waited_for_kv_to_go_out_are_counted() -> None:
    """13 pages go out in one step, and the staging holds 8."""
    runner = standing_in_runner(
        CONFIG, WEIGHTS, 260, host_pages=30, late=LateDevice(random.Random(1), step_at_once=True)
    )
    harness = Harness(runner, 260, host_pages=30)
    harness.submit(prefill("p", [3, 4] * 100))
    harness.run()
    assert harness.cache.evict(200) == 200
    harness.submit(prefill("q", [5, 6] * 100), decode("d", [7], "p", max_tokens=2))
    harness.run()
    tier = harness.cache.tier
    assert tier is not None
    assert tier.fetched_tokens == 200
    assert runner.mover is not None
    assert tier.stalls == runner.mover.carrier.stalls > 0


@pytest.mark.parametrize("answers", [True, False])
def test_kv_that_a_device_could_not_carry_is_lost_or_the_device_is(answers: bool) -> None:
    late = LateDevice(random.Random(1))
    runner = standing_in_runner(CONFIG, WEIGHTS, 8, host_pages=2, late=late)

    def check() -> None:
        if not answers:
            raise RuntimeError("CUDA error: unspecified launch failure")

    runner.model.check = check
    late.error = ValueError("it has")
    batch = Batch.only(Moves(out=(MoveOut(b"a", np.array([(0, 3)], dtype=np.int32)),)))
    if answers:
        moved = runner.execute(batch).moved
        assert moved is not None
        assert moved.lost == (b"a",)
    else:
        with pytest.raises(RunnerLostError, match="does not answer any more: CUDA error: unspecified"):
            runner.execute(batch)


def test_a_step_without_samples_computes_its_rows() -> None:
    batch = step(0, NO_TOKEN)
    runner = standing_in_runner(CONFIG, WEIGHTS, 8)
    result = runner.execute(replace(batch, samples=replace(batch.samples, count=0)))
    assert len(result.tokens) == 0
    plain = tiny_runner(CONFIG, WEIGHTS, 8)
    plain.execute(batch)
    after = step(1, NO_TOKEN)
    assert runner.execute(after).tokens.tolist() == plain.execute(after).tokens.tolist()
