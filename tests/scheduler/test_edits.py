"""Penalties, biases and min_tokens: what the runner is told for every token, and that it depends on nothing else."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.choosing import Asked, ChoosingRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import CallSpec, Finish, Outcome, ParentSpec, State, Top


def ran(*specs: CallSpec, slots: int = 2000, **options: Any) -> tuple[Harness, ChoosingRunner]:
    runner = ChoosingRunner(slots)
    harness = Harness(runner, slots, **options)
    harness.submit(*specs)
    harness.run()
    return harness, runner


def content(outcome: Outcome) -> list[int]:
    return list(outcome.tokens[slice(*outcome.content)])


def test_without_options_nothing_is_asked() -> None:
    _, runner = ran(decode("a", [3], seed=1, max_tokens=3), decode("b", [4], seed=2, max_tokens=9, logprobs=1))
    for asked in runner.asked.values():
        assert asked == [Asked(i, 1.0, frozenset(), {}, None) for i in range(len(asked))]


def test_repetition_is_for_all_that_the_call_sees() -> None:
    harness, runner = ran(
        prefill("unseen", [90, 91]),
        prefill("a", [10, 11, 10]),
        prefill("b", [12], "unseen"),
        prefill("c", [], "a", copy_of="unseen"),
        decode("x", [20, 21], ParentSpec("a", exact=True), "b", seed=5, max_tokens=6, repetition_penalty=1.5),
        decode("y", [22], "c", seed=6, max_tokens=6, repetition_penalty=0.5),
        token_budget=5,
    )
    for id, seed, before, penalty in (("x", 5, {10, 11, 12, 20, 21}, 1.5), ("y", 6, {90, 91, 22}, 0.5)):
        made = content(harness.outcome(id))
        assert len(made) == 6
        assert runner.asked[seed] == [Asked(i, penalty, frozenset(before | set(made[:i])), {}, None) for i in range(6)]


@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 1.5), (2.0, 0.0), (-0.5, 0.25)])
def test_presence_and_frequency_are_for_what_was_generated(presence: float, frequency: float) -> None:
    given = {30: 2.0, 31: -math.inf, 32: 100.0}  # 32 is taken again and again until the penalties allow no more
    harness, runner = ran(
        decode(
            "a", [3, 4, 5], seed=1, max_tokens=60, logit_bias=tuple(given.items()),
            presence_penalty=presence, frequency_penalty=frequency,
        ),
        max_model_len=200,
    )  # fmt: skip
    made = content(harness.outcome("a"))
    assert len(made) == 60
    assert 31 not in made
    for asked, i in zip(runner.asked[1], range(60), strict=True):
        counts = Counter(made[:i])
        expected = dict(given)
        for token, count in counts.items():
            expected[token] = given.get(token, 0.0) - presence - frequency * count
        assert asked.bias == pytest.approx(expected)
        assert asked.seen == frozenset()


def test_penalties_change_what_is_taken() -> None:
    """By the definitions, applied to the same logits by hand."""
    harness, runner = ran(
        prefill("a", list(range(3, 60))), decode("x", [3], "a", seed=9, max_tokens=40, repetition_penalty=3.0)
    )
    seen = set(range(3, 60))
    for i, token in enumerate(content(harness.outcome("x"))):
        logits = runner.logits(9, i)
        for t in seen:
            logits[t] = logits[t] / 3.0 if logits[t] > 0 else logits[t] * 3.0
        assert token == logits.argmax()
        seen.add(token)


def test_min_tokens_forbids_the_ends() -> None:
    ends, stops = frozenset(range(3, 60)), frozenset(range(60, 90))
    spec: dict[str, Any] = {"seed": 1, "end_ids": ends, "stop_ids": stops, "max_tokens": 30}
    harness, runner = ran(
        decode("free", [3], **spec),
        decode("held", [3], **spec | {"seed": 2, "min_tokens": 7, "logit_bias": ((5, 4.0), (95, 1.0))}),
    )
    assert len(content(harness.outcome("free"))) < 7
    made = content(harness.outcome("held"))
    assert len(made) >= 7
    assert not set(made) & (ends | stops)
    for i, asked in enumerate(runner.asked[2]):
        late = -math.inf if i < 7 else 0.0
        expected = dict.fromkeys(ends | stops, late) | {95: 1.0, 5: late or 4.0}
        assert asked.bias == expected
    assert harness.outcome("held").finish in (Finish.END_OF_TURN, Finish.STOP)


def test_a_call_that_may_take_nothing_fails_alone() -> None:
    nothing = tuple((token, -math.inf) for token in range(97))
    harness, _ = ran(
        decode("a", [3], seed=1, max_tokens=4),
        decode("none", [4], seed=2, logit_bias=nothing),
        decode("child", [4], "none", max_tokens=1),
        decode("b", [5], "a", seed=3, max_tokens=4),
    )
    failed = harness.outcome("none")
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == Reason.NOTHING_ALLOWED
    assert "'none' finds no token after 0" in failed.failure.text
    assert "logit_bias" in failed.failure.text
    child = harness.outcome("child").failure
    assert child is not None
    assert child.reason == Reason.PARENT_FAILED
    assert [len(content(harness.outcome(id))) for id in "ab"] == [4, 4]


def test_a_model_that_gives_no_numbers_fails_the_call() -> None:
    class Broken(ChoosingRunner):
        def logits(self, seed: int, index: int) -> npt.NDArray[np.float64]:
            return super().logits(seed, index) * (np.nan if (seed, index) == (2, 3) else 1)

    harness = Harness(Broken(200), 200)
    harness.submit(decode("a", [3], seed=1, max_tokens=6), decode("b", [4], seed=2, max_tokens=6))
    harness.run()
    assert harness.outcome("a").finish is Finish.LENGTH
    failure = harness.outcome("b").failure
    assert failure is not None
    assert failure.reason == Reason.RUNNER_FAILED
    assert "after 3 generated tokens are not numbers" in failure.text


def test_likeliest_tokens_are_kept_with_each_token() -> None:
    asked = {"a": 0, "b": 1, "c": 2, "d": 5}
    harness, runner = ran(
        *(decode(id, [3], seed=i, max_tokens=3, logprobs=n) for i, (id, n) in enumerate(asked.items())),
        decode("steps", [3], seed=8, forced=(7, 8, 9), logprobs=3),
        decode("pass", [3], seed=8, forced=(7, 8, 9), logprobs=3, one_pass=True),
    )
    for i, (id, n) in enumerate(asked.items()):
        outcome = harness.outcome(id)
        assert len(outcome.logprobs) == (3 if n else 0)
        assert len(outcome.top) == (3 if n > 1 else 0)
        for index, top in enumerate(outcome.top):
            logits = runner.logits(i, index)
            assert top.tokens == tuple((-logits).argsort()[:n].tolist())
            assert top.tokens[0] == content(outcome)[index]  # nothing was edited
            assert top.logprobs[0] == outcome.logprobs[index]
            assert list(top.logprobs) == sorted(top.logprobs, reverse=True)
    steps = harness.outcome("steps")
    assert [len(top.tokens) for top in steps.top] == [3, 3, 3]
    assert harness.outcome("pass").top == steps.top
    assert steps.top[0] != Top()


def busy(name: str, seed: int) -> CallSpec:
    return decode(
        name, [3, seed], "p", seed=seed, max_tokens=50, repetition_penalty=1.2 + seed / 10, presence_penalty=0.4,
        frequency_penalty=0.3, logit_bias=((seed + 40, 3.0),), min_tokens=10, end_ids=frozenset(range(60, 62)),
        logprobs=2,
    )  # fmt: skip


@pytest.mark.parametrize(("slots", "budget", "running"), [(2000, 64, 16), (2000, 3, 2), (80, 16, 8)])
def test_the_options_do_not_depend_on_the_batch(slots: int, budget: int, running: int) -> None:
    parent = prefill("p", list(range(50, 60)))
    alone = {}
    for seed in range(1, 6):
        harness, _ = ran(parent, busy("x", seed))
        alone[seed] = harness.outcome("x")
    harness, _ = ran(
        parent, *(busy(f"x{seed}", seed) for seed in range(1, 6)), slots=slots, token_budget=budget, max_running=running
    )
    together = [harness.outcome(f"x{seed}") for seed in range(1, 6)]
    for seed, outcome in enumerate(together, start=1):
        expected = alone[seed]
        assert (outcome.tokens, outcome.logprobs, outcome.top) == (expected.tokens, expected.logprobs, expected.top)
        assert len(content(outcome)) >= 10
    assert (sum(o.receipt.preemptions for o in together) > 0) == (slots == 80)
