"""Batch-invariant serving: a call's log-probabilities are the same to the bit whatever runs beside it."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.graphs import graphs
from support.harness import INVARIANT, Harness, decode, prefill, tiny_runner
from support.spelling import Letters, OneOf
from support.tiny import tiny_config, tiny_weights

from pavane.scheduler.spec import CallSpec, ParentSpec, State, Top

torch.set_num_threads(1)
CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
SLOTS = 2000
ALPHABETS = tuple("abcdefghijklmnopqrstuvwxyz"[i:] for i in range(12))
Told = dict[str, tuple[tuple[int, ...], tuple[float, ...], tuple[Top, ...]]]

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck))


backend = "torch"


@pytest.fixture(scope="module", params=INVARIANT, autouse=True)
def each_backend(request: pytest.FixtureRequest) -> None:
    global backend
    backend = request.param


def served(bos: int | None, *, slots: int = SLOTS, budget: int = 64, running: int = 16, ahead: bool = True) -> Harness:
    runner = tiny_runner(CONFIG, WEIGHTS, slots, batch_invariant=True, backend=backend)
    return Harness(
        runner,
        slots,
        bos_id=bos,
        token_budget=budget,
        max_running=running,
        batch_invariant=True,
        check=False,
        text=Letters(),
        ahead=ahead,
    )


def told(harness: Harness, calls: Sequence[CallSpec]) -> Told:
    """Tokens, log-probabilities and likeliest tokens of the calls that are done."""
    outcomes = [harness.outcome(call.id) for call in calls]
    return {o.id: (o.tokens, o.logprobs, o.top) for o in outcomes if o.state is State.DONE}


def alone(calls: Sequence[CallSpec], bos: int | None) -> Told:
    """Each call by itself, one after the other, with room for everything."""
    harness = served(bos, budget=1000, ahead=False)
    for call in calls:
        harness.submit(call)
        harness.run()
    return told(harness, calls)


def renamed(calls: Sequence[CallSpec], prefix: str) -> list[CallSpec]:
    out = []
    for call in calls:
        edges = [
            ParentSpec(prefix + p.id, offset=p.offset, as_encoded=p.as_encoded, exact=p.exact) for p in call.parents
        ]
        if call.decode is not None:
            d = call.decode
            out.append(
                decode(
                    prefix + call.id, call.tokens, *edges,
                    start=call.start, forced=d.forced, logprobs=d.logprobs, one_pass=d.one_pass,
                )
            )  # fmt: skip
        else:
            copied = None if call.copy_of is None else prefix + call.copy_of
            out.append(
                prefill(prefix + call.id, call.tokens, *edges, start=call.start, exact=call.exact, copy_of=copied)
            )
    return out


@given(
    calls=graphs(),
    others=graphs(),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([1, 3, 17, 200]),
    running=st.sampled_from([1, 4, 16]),
    data=st.data(),
)
@settings(QUICK, max_examples=100)
def test_among_other_calls_and_in_other_chunks(
    calls: list[CallSpec], others: list[CallSpec], bos: int | None, budget: int, running: int, data: st.DataObject
) -> None:
    harness = served(bos, budget=budget, running=running)
    mine, theirs = list(calls), renamed(others, "x")
    while mine or theirs:
        line = mine if mine and (not theirs or data.draw(st.booleans())) else theirs
        harness.submit(line.pop(0))
        if data.draw(st.integers(0, 3)) == 0:
            harness.step()
    harness.run()
    assert told(harness, calls) == alone(calls, bos)


@given(calls=graphs(), bos=st.sampled_from([None, 0]), budget=st.sampled_from([2, 200]), data=st.data())
@settings(QUICK, max_examples=100)
def test_after_the_eviction_of_any_part(
    calls: list[CallSpec], bos: int | None, budget: int, data: st.DataObject
) -> None:
    harness = served(bos, budget=budget)
    for call in calls:
        harness.submit(call)
        if data.draw(st.booleans()):
            harness.run()
        else:
            harness.step()
        harness.cache.evict(data.draw(st.integers(0, 60)))
    harness.run()
    assert told(harness, calls) == alone(calls, bos)


@given(calls=graphs(), bos=st.sampled_from([None, 0]), slots=st.integers(60, 220), budget=st.sampled_from([5, 64]))
@settings(QUICK, max_examples=100)
def test_with_preemption_in_a_small_pool(calls: list[CallSpec], bos: int | None, slots: int, budget: int) -> None:
    harness = served(bos, slots=slots, budget=budget)
    for call in calls:
        harness.submit(call)
    harness.run()
    got, expected = told(harness, calls), alone(calls, bos)
    assume(got)
    assert got == {name: expected[name] for name in got}


def line(count: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def story() -> list[CallSpec]:
    """Chat, moved parents and both kinds of forced answers, with free ones behind them."""
    return [
        prefill("system", line(37, 0)),
        prefill("doc", line(61, 1)),
        prefill("user", line(13, 2), "system"),
        decode("one", line(3, 3), "system", "user", max_tokens=20, logprobs=True, seed=5),
        decode("two", line(3, 4), "doc", "system", "user", max_tokens=33, logprobs=5, seed=6, temperature=0.8,
               repetition_penalty=1.3, frequency_penalty=0.4),
        decode("three", line(4, 5), "two", "one", "doc", max_tokens=25, logprobs=2, temperature=0.0,
               presence_penalty=1.5, logit_bias=((40, 1.5), (41, float("-inf")))),
        decode("four", line(4, 6), ParentSpec("three", exact=True), ParentSpec("doc", exact=True),
               forced=tuple(line(18, 7)), logprobs=True, one_pass=True),
        decode("five", line(3, 9), "two", "doc", max_tokens=30, logprobs=3, seed=8, temperature=1.5,
               constraint=OneOf(ALPHABETS)),
    ]  # fmt: skip


def test_sampled_answers_are_the_same_in_every_company() -> None:
    calls = story()
    expected = alone(calls, None)
    assert len(expected) == len(calls)
    for budget, crowd in ((1, 0), (4, 3), (16, 9), (40, 15), (500, 15)):
        harness = served(None, budget=budget)
        for i in range(crowd):
            harness.submit(decode(f"x{i}", line(1 + 3 * i, 20 + i), max_tokens=15 + i, seed=i))
            harness.submit(calls[i]) if i < len(calls) else None
            harness.step()
        harness.submit(*calls[crowd:])
        harness.run()
        assert told(harness, calls) == expected, (budget, crowd)


def test_preempted_answers_are_the_same() -> None:
    calls = story()
    expected = alone(calls, None)
    # All of them begin, but not all can end at once.
    crowd = [decode(f"x{i}", line(9, 40 + i), max_tokens=90, seed=i) for i in range(6)]
    harness = served(None, slots=330, budget=64)
    harness.submit(*crowd[:2], *calls, *crowd[2:])
    harness.run()
    assert told(harness, calls) == expected
    receipts = [harness.outcome(call.id).receipt for call in [*crowd, *calls]]
    assert sum(receipt.preemptions for receipt in receipts) > 0
    assert sum(receipt.reencoded for receipt in receipts) > 0


def test_holes_in_pieces_of_the_pool_are_mended_to_the_same_bits() -> None:
    calls = story()
    expected = alone(calls, 0)
    harness = served(0, budget=50)
    for call in calls:
        harness.submit(call)
        harness.run()
        for i in range(6):  # what comes back lies elsewhere, in pieces
            harness.cache.evict(17)
            harness.submit(decode(f"{call.id}x{i}", line(2 + i, i), max_tokens=5))
            harness.run()
    assert told(harness, calls) == expected
    assert sum(harness.outcome(call.id).receipt.reencoded for call in calls) > 0


def test_forced_tokens_in_one_pass_are_worth_the_same_as_one_by_one() -> None:
    forced = tuple(line(30, 8))
    parents = [prefill("a", line(20, 1)), prefill("b", line(9, 2))]
    results = []
    for one_pass in (False, True):
        call = decode("d", line(3, 3), "b", "a", forced=forced, logprobs=True, one_pass=one_pass)
        results.append(alone([*parents, call], None)["d"])
    assert results[0] == results[1]


def test_without_the_option_rounding_depends_on_the_batch() -> None:
    """So that the tests above can fail."""
    calls = story()
    seen = set()
    for budget in (1, 7, 500):
        runner = tiny_runner(CONFIG, WEIGHTS, SLOTS)
        harness = Harness(runner, SLOTS, token_budget=budget, text=Letters())
        harness.submit(*calls)
        harness.run()
        seen.add(told(harness, calls)["four"][1])
    assert len(seen) > 1
