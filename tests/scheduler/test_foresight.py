"""Deadlines that the chain of answers before a call makes hopeless."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from support.harness import FakeRunner, Harness, decode, digest, prefill

from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.estimates import PRIOR_WEIGHT
from pavane.scheduler.foresight import Foresight
from pavane.scheduler.spec import CallSpec, GroupSpec

STEP_S = 0.1


class TimedRunner(FakeRunner):
    """A step takes `STEP_S`."""

    def execute(self, batch: Batch) -> StepResult:
        return replace(super().execute(batch), forward_s=STEP_S)


def endless(name: str, *parents: str, max_tokens: int = 20) -> CallSpec:
    return decode(name, [3, 4], *parents, max_tokens=max_tokens, end_ids=frozenset())


def learned() -> Harness:
    """A server that has seen answers of 20 tokens, where 20 were allowed."""
    h = Harness(TimedRunner(2000), 2000)
    h.submit(*(endless(f"seen{i}") for i in range(int(PRIOR_WEIGHT))))
    h.run()
    return h


def steps(h: Harness, *specs: CallSpec) -> dict[str, float]:
    workflow = h.scheduler.graph.workflow("", "w")
    return Foresight(workflow, h.scheduler._states.estimates, 1000).steps(specs)


def test_a_chain_takes_a_step_for_each_token() -> None:
    h = learned()
    found = steps(h, endless("a"), prefill("t", [5], "a"), endless("b", "a", "t"), endless("c", max_tokens=10), decode(
        "d", [3], "b", "c", forced=(7, 8, 9)))  # fmt: skip
    assert found == {"a": 20, "t": 20, "b": 40, "c": 0, "d": 43}, "of what c allows nothing was seen"


def test_what_is_under_way_counts_with_what_is_left_of_it() -> None:
    h = learned()
    h.submit(endless("a"), endless("b", "a"), decode("short", [3], forced=(5, 6)))
    for _ in range(6):
        h.step()
    done = h.scheduler.graph.workflow("", "w").calls["a"].generated
    assert 0 < done < 20
    assert steps(h, endless("c", "b"), endless("e", "short"), prefill("f", [3], "a")) == {
        "c": 60 - done, "e": 20, "f": 20 - done,
    }  # fmt: skip
    h.run()
    assert steps(h, endless("c", "b")) == {"c": 20}


def test_of_an_open_group_as_many_as_it_needs() -> None:
    h = learned()
    h.submit(endless("a"), endless("b", "a"), endless("c", "b"))
    h.scheduler.submit("", "w", [endless("d")], h.now, [GroupSpec("g", digest("g"), ("c", "b", "a"), 2)])
    assert steps(h, endless("x", "g"), endless("y", "d")) == {"x": 60, "y": 40}
    h.scheduler.submit("", "w", [endless("e", "g")], h.now)
    assert steps(h, endless("x", "e")) == {"x": 80}
    h.run()
    assert steps(h, endless("x", "g")) == {"x": 20}


def test_a_call_whose_chain_cannot_end_in_time_is_refused_at_once() -> None:
    h = learned()
    h.submit(endless("a"), endless("b", "a"))
    certain = 0.5 * STEP_S * 60
    with pytest.raises(RequestError) as caught:
        h.submit(endless("before"), replace(endless("c", "b"), timeout=certain - 0.1))
    assert (caught.value.reason, caught.value.ids) == (Reason.DEADLINE_HOPELESS, ("c",))
    assert "take more than 3 s with those that it waits for" in caught.value.text
    assert "before" not in h.scheduler.graph.workflow("", "w").digests, "all or nothing"
    h.submit(replace(endless("c", "b"), timeout=certain + 0.1), endless("patient", "b"))


def test_the_deadline_of_a_workflow_may_be_too_near_as_well() -> None:
    h = learned()
    h.scheduler.open("", "w", 0, None, h.now, deadline=0.9)
    with pytest.raises(RequestError) as caught:
        h.submit(endless("a"))
    assert caught.value.reason is Reason.DEADLINE_HOPELESS
    h.submit(prefill("t", [5]))


@pytest.mark.parametrize("seen", [0, int(PRIOR_WEIGHT) - 1])
def test_nothing_is_refused_before_lengths_are_known(seen: int) -> None:
    h = Harness(TimedRunner(2000), 2000)
    h.submit(prefill("t", [3, 4]), *(endless(f"seen{i}") for i in range(seen)))
    h.run()
    h.submit(replace(endless("a"), timeout=0.01))


def test_a_long_chain_is_followed_without_recursion() -> None:
    h = learned()
    names = [f"c{i}" for i in range(3000)]
    h.submit(endless(names[0]), *(endless(name, above) for above, name in pairwise(names)))
    assert steps(h, endless("last", names[-1])) == {"last": 20.0 * 3001}
