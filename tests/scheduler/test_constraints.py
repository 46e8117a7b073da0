"""Contents that must be one of some texts: how they end, and what happens together with everything else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.choosing import ChoosingRunner
from support.harness import Harness, decode, prefill
from support.spelling import Letters, OneOf, spelled

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import CallSpec, Finish, Outcome, State

END = 90
TEXTS = ("abc", "abcd", "abx", "b", "qrstuvwxyz")


def ran(*specs: CallSpec, slots: int = 2000, **options: Any) -> Harness:
    harness = Harness(ChoosingRunner(slots), slots, text=Letters(), **options)
    harness.submit(*specs)
    harness.run()
    return harness


def told(outcome: Outcome) -> str:
    begin, end = outcome.content
    return "".join(chr(ord("a") + token - 3) for token in outcome.tokens[begin:end])


def constrained(id: str, seed: int, texts: tuple[str, ...] = TEXTS, breaks: str | None = None, **more: Any) -> CallSpec:
    fields = {"end_ids": frozenset([END]), "max_tokens": 40, **more}
    return decode(id, [80, 81], seed=seed, constraint=OneOf(texts, breaks), **fields)


def test_every_content_is_one_of_the_texts() -> None:
    harness = ran(*(constrained(f"x{seed}", seed) for seed in range(60)))
    ends = {}
    for seed in range(60):
        outcome = harness.outcome(f"x{seed}")
        assert told(outcome) in TEXTS
        assert outcome.tokens[-2:].tolist() == [1, 2]  # the trailer
        ends.setdefault(told(outcome), set()).add(outcome.finish)
    assert ends.keys() == set(TEXTS)
    for text in ("abcd", "abx", "b", "qrstuvwxyz"):
        assert ends[text] == {Finish.CONSTRAINT}
    assert ends["abc"] == {Finish.END_OF_TURN}  # could have gone on


def test_without_end_tokens_it_goes_on_as_long_as_it_may() -> None:
    harness = ran(*(constrained(f"x{seed}", seed, ("abc", "abcd"), end_ids=frozenset()) for seed in range(5)))
    assert {told(harness.outcome(f"x{seed}")) for seed in range(5)} == {"abcd"}


def test_the_only_text_may_be_empty() -> None:
    outcome = ran(constrained("x", 1, ("",))).outcome("x")
    assert (outcome.finish, told(outcome), outcome.receipt.generated) == (Finish.CONSTRAINT, "", 0)
    assert outcome.tokens.tolist() == [80, 81, 1, 2]


def test_max_tokens_cuts_in_the_middle() -> None:
    outcome = ran(constrained("x", 1, ("qrstuvwxyz",), max_tokens=4)).outcome("x")
    assert (outcome.finish, told(outcome)) == (Finish.LENGTH, "qrst")
    outcome = ran(constrained("x", 1, ("qrst",), max_tokens=4)).outcome("x")
    assert (outcome.finish, told(outcome)) == (Finish.CONSTRAINT, "qrst")


@pytest.mark.parametrize(
    ("options", "finish", "text"),
    [
        ({"stop": ("tu",)}, Finish.STOP, "qrs"),
        ({"stop": ("yz",)}, Finish.STOP, "qrstuvwx"),  # on the last token of all
        ({"stop": ("aq",), "beginning": "a"}, Finish.STOP, ""),
        ({"stop": ("aq", "vw"), "beginning": "a", "min_tokens": 1}, Finish.STOP, "qrstu"),
        ({"stop": ("tu",), "min_tokens": 4}, Finish.CONSTRAINT, "qrstuvwxyz"),  # begins before the fifth
        ({"stop": ("tu",), "min_tokens": 3}, Finish.STOP, "qrs"),
        ({"stop_ids": frozenset(spelled("v"))}, Finish.STOP, "qrstu"),
        ({"min_tokens": 30}, Finish.CONSTRAINT, "qrstuvwxyz"),
        ({"repetition_penalty": 5.0, "presence_penalty": 2.0}, Finish.CONSTRAINT, "qrstuvwxyz"),
        ({"logit_bias": ((END, 100.0), (3, 100.0))}, Finish.CONSTRAINT, "qrstuvwxyz"),
    ],
)
def test_together_with_other_options(options: dict[str, Any], finish: Finish, text: str) -> None:
    outcome = ran(constrained("x", 1, ("qrstuvwxyz",), **options)).outcome("x")
    assert (outcome.finish, told(outcome)) == (finish, text)
    assert outcome.tokens[-2:].tolist() == [1, 2]


def test_min_tokens_keeps_it_going_where_it_may_end() -> None:
    texts = ("a", "ab", "abc", "abcd")
    for least in range(5):
        made = [
            told(ran(constrained("x", seed, texts, min_tokens=least, logit_bias=((END, 30.0),))).outcome("x"))
            for seed in range(3)
        ]
        assert made == ["abcd"[: max(1, least)]] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"breaks": "qr"}, ("after 2 generated", "cannot be followed any further: too costly")),
        ({"breaks": ""}, ("after 0 generated", "too costly")),
        ({"logit_bias": ((spelled("s")[0], float("-inf")),)}, ("after 2 generated", "logit_bias")),
    ],
)
def test_what_cannot_go_on_fails_alone(options: dict[str, Any], words: tuple[str, ...]) -> None:
    harness = ran(
        constrained("x", 1, ("qrst",), **options), constrained("y", 2), decode("z", [80], seed=3, max_tokens=9)
    )
    failed = harness.outcome("x")
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == Reason.NOTHING_ALLOWED
    for word in ("'x'", *words):
        assert word in failed.failure.text
    assert told(harness.outcome("y")) in TEXTS
    assert harness.outcome("z").finish is Finish.LENGTH


def test_bias_may_close_what_is_satisfied() -> None:
    """abc is fine and may go on, but its only way on is forbidden."""
    forbidden = ((spelled("d")[0], float("-inf")), (END, float("-inf")))
    outcome = ran(constrained("x", 1, ("abc", "abcd"), logit_bias=forbidden)).outcome("x")
    assert (outcome.finish, told(outcome)) == (Finish.CONSTRAINT, "abc")


@pytest.mark.parametrize(("slots", "budget", "running"), [(2000, 64, 16), (2000, 3, 2), (85, 16, 8)])
def test_it_does_not_depend_on_the_batch(slots: int, budget: int, running: int) -> None:
    long = "abcdefghijklmnop" * 3
    texts = (long, long[1:], long[2:])
    parent = prefill("p", list(range(50, 60)))

    def call(id: str, seed: int) -> CallSpec:
        spec = OneOf(texts)
        return decode(id, [80, seed], "p", seed=seed, constraint=spec, max_tokens=50, repetition_penalty=1.3)

    alone = [told(ran(parent, call("x", seed)).outcome("x")) for seed in range(6)]
    assert len(set(alone)) > 1
    harness = ran(
        parent,
        *(call(f"x{seed}", seed) for seed in range(6)),
        decode("free", [80], seed=9, max_tokens=30),
        slots=slots, token_budget=budget, max_running=running,
    )  # fmt: skip
    together = [harness.outcome(f"x{seed}") for seed in range(6)]
    assert [told(outcome) for outcome in together] == alone
    assert (sum(outcome.receipt.preemptions for outcome in together) > 0) == (slots == 85)


def test_masks_are_asked_for_once_a_step_and_only_if_needed() -> None:
    letters = Letters()
    harness = Harness(ChoosingRunner(500), 500, text=letters)
    harness.submit(decode("a", [80], seed=1, max_tokens=5))
    harness.run()
    assert letters.waited == 0
    harness.submit(constrained("b", 1, ("qrst",)), constrained("c", 2, ("tu",)), decode("d", [80], max_tokens=9))
    harness.run()
    assert letters.waited == 4


@pytest.mark.parametrize("seed", range(12))
def test_random_steps(seed: int) -> None:
    """Cancelling, evicting, failing steps, a pool that is too small: whatever ends well is one of the texts."""
    rng = random.Random(seed)
    long = "abcdefghijklmnopqrstuvwxyz"
    texts = (*TEXTS, long, long[3:], long[::-1])
    runner = ChoosingRunner(70)
    harness = Harness(runner, 70, text=Letters(), token_budget=rng.choice([2, 9, 64]), max_running=rng.choice([2, 8]))
    for i in range(150):
        dice = rng.random()
        if dice < 0.25 and i < 110:
            fields: dict[str, Any] = {
                "stop": rng.choice([(), ("jk",), ("z", "b")]),
                "min_tokens": rng.choice([0, 0, 3, 60]),
                "repetition_penalty": rng.choice([1.0, 2.0]),
                "breaks": rng.choice([None, None, "abcde", "qr"]),
            }
            harness.submit(constrained(f"x{i}", rng.randrange(1000), texts, **fields))
        elif dice < 0.3:
            waiting = [c.id for w in harness.scheduler.graph.workflows.values() for c in w.calls.values()]
            if waiting:
                harness.scheduler.cancel("", "w", [rng.choice(waiting)], False, harness.now)
                harness.collect()
        elif dice < 0.35:
            harness.cache.evict(rng.choice([3, 100]))
        else:
            runner.fail_next = rng.random() < 0.05
            harness.step()
    runner.fail_next = False
    harness.run()
    done = [outcome for outcome in harness.ended.values() if outcome.state is State.DONE]
    assert len(done) > 2
    for outcome in done:
        if outcome.finish is Finish.STOP:
            assert any(text.startswith(told(outcome)) for text in texts)
        else:
            assert told(outcome) in texts
    for outcome in harness.ended.values():
        if outcome.state is State.FAILED:
            assert outcome.failure is not None
            assert outcome.failure.reason in (Reason.NOTHING_ALLOWED, Reason.RUNNER_FAILED)
            if outcome.failure.reason is Reason.NOTHING_ALLOWED:
                assert told(outcome) in ("abcde", "qr")
    assert all(call.edits is None for w in harness.scheduler.graph.workflows.values() for call in w.calls.values())
