"""What a plan says, against what happens when the same calls run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fingerprint import FingerprintRunner
from support.graphs import graphs
from support.harness import Harness, decode, prefill
from support.plans import SLOTS, Watched, counts, roomy
from support.structure import structure

from pavane.scheduler.cast import ASSUMED_TOKENS
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.preview import Plan
from pavane.scheduler.spec import CallSpec, ParentSpec, Receipt


def plan(h: Harness, *specs: CallSpec, assumed: int | None = None) -> Plan:
    """A plan, and nothing else has changed."""
    before = structure(h.cache)
    planned = h.scheduler.plan("", "w", specs, h.now, assumed=assumed)
    h.audit()
    assert structure(h.cache) == before
    return planned


@given(
    calls=graphs(),
    bos=st.sampled_from([None, 0]),
    invariant=st.booleans(),
    split=st.integers(0, 9),
    steps=st.integers(0, 12),
    twice=st.booleans(),
    policy=st.sampled_from(["graph", "fcfs"]),
)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_plans_of_random_graphs_come_true(
    calls: list[CallSpec], bos: int | None, invariant: bool, split: int, steps: int, twice: bool, policy: str
) -> None:
    h = roomy(bos, invariant=invariant, policy=policy)
    first, rest = calls[:split], calls[split:]
    if first:
        h.submit(*first)
    for _ in range(steps):
        h.step()
    if not rest:
        return
    if twice:
        plan(h, *rest)
    planned = plan(h, *rest)
    h.submit(*rest)
    h.run()
    assert [counts(outcome) for outcome in planned.calls] == [counts(h.outcome(call.id)) for call in rest]


@given(calls=graphs(), bos=st.sampled_from([None, 0]), invariant=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_slots_held_and_read_are_those_of_the_steps(calls: list[CallSpec], bos: int | None, invariant: bool) -> None:
    h = roomy(bos, invariant=invariant)
    planned = plan(h, *calls)
    h.submit(*calls)
    h.run()
    assert isinstance(h.runner, Watched)
    assert (planned.peak_slots, planned.slots_read) == (h.runner.peak, h.runner.read)


def test_samples_that_begin_alike_hold_their_header_once() -> None:
    """But for the last of its 50 tokens, of which each has its own until the messages are complete."""
    h = roomy()
    header = [3] * 50
    calls = [decode(f"d{i}", header, max_tokens=4, seed=i) for i in range(3)]
    planned = plan(h, *calls)
    assert planned.peak_slots == 50 + 3 * (4 + 2)
    assert planned.slots_read == sum(49 + 3 * (1 + i) for i in range(4)) + planned.peak_slots
    h.submit(*calls)
    h.run()
    assert isinstance(h.runner, Watched)
    assert (h.runner.peak, h.runner.read) == (planned.peak_slots, planned.slots_read)


def test_a_plan_by_hand() -> None:
    h = roomy()
    h.submit(prefill("task", [3, 4, 5]))
    h.run()
    calls = [
        decode("long", [6], "task", max_tokens=10),
        decode("short", [7], "task", forced=(8, 8)),
        decode("judge", [9], "task", "short", ParentSpec("long", exact=True), max_tokens=5),
    ]
    planned = plan(h, prefill("task", [3, 4, 5]), *calls)
    long, short, judge = planned.calls
    assert (long.receipt.in_place, long.receipt.encoded, long.receipt.generated, long.finish) == (3, 1, 10, "length")
    assert (short.receipt.in_place, short.receipt.encoded, short.receipt.generated, short.finish) == (3, 1, 2, "forced")
    assert (judge.receipt.in_place, judge.receipt.encoded, judge.start) == (3 + 5, 13 + 1, 3 + 5 + 13)
    assert (planned.total.encoded, planned.total.generated, planned.total.trailer) == (1 + 1 + 14, 17, 6)
    assert planned.critical_path == ("long", "judge")
    assert all(outcome.tokens == () for outcome in planned.calls)


def test_lengths_that_are_assumed() -> None:
    h = roomy(slots=20_000)
    calls = [decode("open", [3]), decode("bound", [3], max_tokens=400), decode("forced", [3], forced=(4, 5))]

    def generated(assumed: int | None) -> list[int]:
        return [outcome.receipt.generated for outcome in plan(h, *calls, assumed=assumed).calls]

    assert generated(None) == [ASSUMED_TOKENS, 400, 2]
    assert generated(30) == [30, 30, 2]
    assert generated(10_000) == [512 - 1 - 2, 400, 2]  # as many as fit


def test_what_cannot_be_submitted_cannot_be_planned() -> None:
    h = roomy()
    h.submit(prefill("a", [3, 4]))
    for bad in (prefill("a", [5]), prefill("b", [3], "nobody"), prefill("b", []), prefill("b", [1000])):
        errors = []
        for verb in (lambda spec: plan(h, spec), lambda spec: h.submit(spec)):
            with pytest.raises(RequestError) as caught:
                verb(bad)
            errors.append((caught.value.reason, caught.value.text, caught.value.ids))
        assert errors[0] == errors[1]


def test_what_would_fail_later_is_said_for_each_call() -> None:
    h = roomy(slots=60)
    calls = [
        prefill("p", [3] * 40),
        decode("fits", [4], "p", forced=(5, 6)),
        decode("never", [4], "p", max_tokens=30),
        decode("child", [4], "never", forced=(5,)),
    ]
    planned = plan(h, *calls)
    failures = {outcome.id: outcome.failure and outcome.failure.reason for outcome in planned.calls}
    assert failures == {"p": None, "fits": None, "never": Reason.NEVER_FITS, "child": Reason.PARENT_FAILED}
    h.submit(*calls)
    h.run()
    assert [counts(outcome) for outcome in planned.calls] == [counts(h.outcome(call.id)) for call in calls]


def test_a_plan_that_would_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavane.scheduler.rehearsal.MAX_TOKENS", 100)
    h = roomy()
    plan(h, decode("d", [3], max_tokens=90))
    with pytest.raises(RequestError, match="more than 100 tokens") as caught:
        plan(h, decode("d", [3], max_tokens=99))
    assert caught.value.reason == Reason.TOO_LARGE


def test_with_little_room_the_sums_hold() -> None:
    """Who is first to encode what several need may be another call than planned, but somebody is."""
    calls = [
        prefill("text", list(range(3, 43)), exact=True),
        *(decode(f"r{i}", [50 + i], ParentSpec("text", exact=True), forced=(9,) * (i + 1)) for i in range(4)),
        *(decode(f"s{i}", [60 + i], "text", f"r{i}", f"r{(i + 1) % 4}", forced=(8, 8, 8)) for i in range(4)),
    ]
    h = Harness(FingerprintRunner(SLOTS), SLOTS, token_budget=7, max_running=2)
    planned = plan(h, *calls)
    h.submit(*calls)
    h.run()
    total = Receipt()
    for call in calls:
        total = total.plus(h.outcome(call.id).receipt)
    for name in ("in_place", "repositioned", "encoded", "reencoded", "generated", "trailer"):
        assert getattr(planned.total, name) == getattr(total, name)
