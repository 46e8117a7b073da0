"""Steps of a GPU that are launched while others run: whose memory is written when."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gpu_attention import standing_in_runner
from support.graphs import graphs
from support.harness import Harness, decode, prefill, tiny_runner
from support.late_stream import LateStream

from pavane.kernels.batch import NO_TOKEN, Launcher, RunnerLostError, StepResult
from pavane.kernels.gpu import upload
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.models.gpu_runner import GpuRunner
from pavane.scheduler.spec import CallSpec
from tests.models.test_runner import step
from tests.scheduler.test_oracle import CONFIG, WEIGHTS, check

torch.set_num_threads(1)
CPU = torch.device("cpu")


def late_runner(*, graphs: bool = False, slots: int = 2000) -> tuple[GpuRunner, LateStream]:
    stream = LateStream()
    return standing_in_runner(CONFIG, WEIGHTS, slots, graphs=graphs, stream=stream), stream


@given(calls=graphs(), captured=st.booleans(), words=st.sampled_from([8, 1 << 14]))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_on_a_late_device_equal_the_oracle(calls: list[CallSpec], captured: bool, words: int) -> None:
    """`words`: with little memory for what is sent it grows within steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "_LEAST", words)
        runner, _ = late_runner(graphs=captured)
        harness = Harness(runner, 2000, ahead=True, eager=True)
        harness.submit(*calls)
        harness.run()
        check(harness, calls, None)


@pytest.mark.parametrize("captured", [False, True])
def test_memory_is_used_again_step_after_step(captured: bool) -> None:
    runner, stream = late_runner(graphs=captured)
    harness = Harness(runner, 2000, ahead=True, eager=True)
    harness.submit(prefill("p", range(30)), *(decode(f"a{i}", [4], "p", max_tokens=30, seed=i) for i in range(3)))
    staging = runner.model.attention.staging
    places = set()
    for _ in range(25):
        harness.step()
        places.add(staging._memory.data_ptr())
    assert harness.steps_ahead > 15
    assert len(places) <= 2, "one memory, and a larger one if it is too small"
    assert stream.behind < 40, "copies are waited for"


@pytest.mark.parametrize("captured", [False, True])
def test_who_does_not_wait_is_noticed(captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, stream = late_runner(graphs=captured)
    staging = runner.model.attention.staging
    runner.execute(step(0, NO_TOKEN))
    finish = runner.launch(step(1, 0))
    monkeypatch.setattr(staging, "_wait", lambda: None)
    runner.launch(step(2, 0))
    with pytest.raises(AssertionError, match="overwritten before it was sent"):
        finish()
    assert stream.behind > 2


def test_a_stream_on_which_nothing_waits_notices() -> None:
    stream = LateStream()
    source, to = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    stream.send(to, source)
    wait = stream.mark()
    source.zero_()
    with pytest.raises(AssertionError, match="overwritten"):
        wait()
    stream = LateStream()
    stream.bring(to, torch.arange(4))
    assert to.tolist() != [0, 1, 2, 3]
    with pytest.raises(AssertionError, match="still to come"):
        stream.bring(to, source)
    stream.mark()()
    assert to.tolist() == [0, 1, 2, 3]


def test_what_is_staged_stays_until_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_LEAST", 8)
    stream = LateStream()
    staging = Staging(CPU, stream)
    there = Upload(staging)
    for number in range(20):
        with staging.step():
            held = [staging.hold(np.full(n, number, dtype=np.int32)) for n in (3, 5, number)]
            found = there.put({"a": np.arange(number, dtype=np.int32), "b": np.array([number], dtype=np.uint64)})
            assert all((array == number).all() for array in held)
            assert found["a"].tolist() == list(range(number))
            assert found["b"].view(torch.int64).tolist() == [number]
    stream.mark()()


def test_results_come_one_by_one_as_they_are_asked_for() -> None:
    runner, _ = late_runner()
    assert isinstance(runner, Launcher)
    plain = tiny_runner(CONFIG, WEIGHTS, 2000)
    batches = [step(0, NO_TOKEN), step(1, 0), step(2, 0), step(3, 0)]
    finishes: list[Callable[[], StepResult]] = [runner.launch(batch) for batch in batches]
    for batch, finish in zip(batches, finishes, strict=True):
        expected, got = plain.execute(batch), finish()
        assert got.tokens.tolist() == expected.tokens.tolist()
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-4)
        assert got.forward_s >= 0
    more = [runner.launch(step(4, 0))(), runner.launch(step(5, 0))()]
    assert all(len(result.tokens) == 1 for result in more)
    assert len(runner._back) == len(batches), "what results came in is used again"


def test_an_error_that_the_device_tells_late_is_that_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, stream = late_runner()

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    marks = stream.mark
    monkeypatch.setattr(stream, "mark", lambda: broken)
    finish = runner.launch(step(0, NO_TOKEN))
    monkeypatch.setattr(stream, "mark", marks)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        finish()
    assert not isinstance(caught.value, RunnerLostError), "the device answers"
    monkeypatch.setattr(runner.model, "check", broken)
    with pytest.raises(RunnerLostError, match="does not answer any more: CUDA error"):
        finish()
