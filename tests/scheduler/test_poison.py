"""KV that is no numbers, once: the calls that read it fail, and nobody after them."""

from dataclasses import replace

import pytest
import torch
from support.harness import Harness, decode, prefill, tiny_runner
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.attention import TorchAttention
from pavane.kernels.batch import Batch, StepResult
from pavane.models.runner import ModelRunner, TorchForward
from pavane.scheduler.spec import CallSpec, Outcome, ParentSpec, State

CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
ROOT, HEADER = list(range(10, 40)), [5, 6, 7, 8]


class Poisoned:
    """A model's runner that leaves NaN as the KV of all that its step number `step` has encoded."""

    def __init__(self, slots: int, step: int, host_pages: int) -> None:
        self.runner: ModelRunner = tiny_runner(CONFIG, WEIGHTS, slots, batch_invariant=True, host_pages=host_pages)
        self.steps_left = step

    def execute(self, batch: Batch) -> StepResult:
        result = self.runner.execute(batch)
        self.steps_left -= bool(batch.n_rows)
        if batch.n_rows and self.steps_left == 0:
            forward = self.runner._model
            assert isinstance(forward, TorchForward)
            assert isinstance(forward._attention, TorchAttention)
            forward._attention._store.v[:, :, torch.from_numpy(batch.slots[: batch.n_rows]).long()] = torch.nan
        return result


def served(step: int, host_pages: int = 0) -> Harness:
    return Harness(Poisoned(300, step, host_pages), 300, bos_id=1, batch_invariant=True, host_pages=host_pages)


def answer(id: str, *parents: str | ParentSpec) -> CallSpec:
    return decode(id, HEADER, *parents, max_tokens=6, logprobs=True)


def told(outcome: Outcome) -> tuple[object, ...]:
    assert outcome.state is State.DONE, outcome.failure
    return tuple(outcome.tokens), outcome.logprobs


def ran(harness: Harness, *calls: CallSpec) -> list[Outcome]:
    """Each call on its own, after the ones before."""
    for call in calls:
        harness.submit(call)
        harness.run()
    return [harness.outcome(call.id) for call in calls]


def is_poisoned(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.text.endswith("are not numbers")


@pytest.mark.parametrize(("step", "exact"), [(1, False), (2, False), (3, False), (3, True)])
def test_an_equal_call_after_it_is_right(step: int, exact: bool) -> None:
    """Poisoned is what is far above the call, or its parent, or its own header, or copy of its parent."""
    calls = (prefill("root", ROOT), prefill("near", [9, 10, 11], "root"))
    parent = ParentSpec("near", exact=exact)
    *_, right = ran(served(0), *calls, answer("d", parent))
    *_, bad, good = ran(served(step), *calls, answer("d", parent), answer("e", parent))
    assert is_poisoned(bad)
    assert told(good) == told(right)


def test_what_others_read_as_well_goes_with_the_last_of_them() -> None:
    harness = served(1)
    ran(harness, prefill("root", ROOT))
    harness.submit(*(answer(id, "root") for id in "abc"))
    harness.run()
    assert all(is_poisoned(harness.outcome(id)) for id in "abc")
    (good,) = ran(harness, answer("d", "root"))
    assert told(good) == told(ran(served(0), prefill("root", ROOT), answer("d", "root"))[-1])


def test_another_attempt_reads_none_of_it() -> None:
    harness = served(1)
    _, good = ran(harness, prefill("root", ROOT), replace(answer("d", "root"), max_attempts=2))
    assert good.attempts == 2
    assert told(good)


def test_copies_of_it_go_too() -> None:
    harness = served(1, host_pages=30)
    ran(harness, prefill("root", ROOT))
    harness.cache.evict(300)
    assert harness.cache.tier is not None
    assert harness.cache.tier.kept_tokens
    bad, good = ran(harness, answer("d", "root"), answer("e", "root"))
    assert harness.cache.tier.fetched_tokens
    assert is_poisoned(bad)
    assert told(good)


def test_a_score_that_fails_so_leaves_none_of_it() -> None:
    harness = served(1)
    ran(harness, prefill("root", ROOT))
    asked = decode("s", HEADER, "root", forced=(7, 8, 9))
    bad = harness.score(asked)
    harness.run()
    good = harness.score(asked)
    harness.run()
    assert [score.failure is None for score in (*bad, *good)] == [False, True]
