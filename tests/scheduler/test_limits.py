"""More than fits: what waits, what is refused, what it costs, and what stays behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from support.harness import FakeRunner, Harness, NoText, decode, prefill

from pavane.scheduler.calls import Call
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.graph import Limits
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import CallSpec, ParentSpec, State


def harness(slots: int, **fields: object) -> Harness:
    return Harness(FakeRunner(slots), slots, **fields)  # type: ignore[arg-type]


def text(i: int, length: int) -> list[int]:
    """Differs from that of another i in its first tokens."""
    return [3 + i % 90, 3 + i // 90 % 90] + [5] * (length - 2)


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python `work` runs: its cost, without a clock."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


# ---- what waits


def test_a_thousand_blocked_calls_whose_parents_together_exceed_the_pool_all_finish() -> None:
    h = harness(400, check=False, token_budget=256)
    parents = [prefill(f"p{i}", text(i, 20)) for i in range(100)]
    gate = decode("gate", [3], max_tokens=4)
    blocked = [
        decode(f"d{i}", [4], f"p{i % 100}", f"p{(7 * i + 13) % 100}", "gate", max_tokens=2)
        if (7 * i + 13 - i) % 100
        else decode(f"d{i}", [4], f"p{i % 100}", "gate", max_tokens=2)
        for i in range(1000)
    ]
    h.submit(*parents, gate, *blocked)
    h.run()
    h.check = True
    h.audit()
    assert {h.ended[call.id].state for call in blocked} == {State.DONE}
    assert sum(h.ended[call.id].receipt.reencoded for call in blocked) > 0, "the pool was never too small"


def test_two_graphs_that_together_exceed_the_pool_do_not_deadlock() -> None:
    h = harness(100)
    for name in "xy":
        h.submit(*[prefill(f"{name}{i}", text(i + 7 * ord(name), 25)) for i in range(3)])
        h.submit(decode(name, [3], *[f"{name}{i}" for i in range(3)], max_tokens=15))
    h.run()
    assert h.outcome("x").state is h.outcome("y").state is State.DONE


@pytest.mark.parametrize("slots", range(56, 70))
def test_a_preempted_decode_goes_on_with_what_it_had_in_reserve(slots: int) -> None:
    """`one` needs room for its trailer: `two` gives way and loses the KV of its parent, but not its run of slots."""
    h = harness(slots)
    h.submit(prefill("p", text(1, 8)), decode("one", [3], max_tokens=20, trailer=(1,) * 8))
    h.submit(decode("two", [4], "p", max_tokens=45))
    h.run()
    assert h.outcome("one").state is h.outcome("two").state is State.DONE


# ---- what is refused


def test_what_can_never_fit_fails_at_once_or_when_it_is_known() -> None:
    h = harness(50)
    with pytest.raises(RequestError) as error:
        h.submit(prefill("big", [3] * 51))
    assert error.value.reason is Reason.NEVER_FITS
    h.submit(prefill("a", text(1, 30)), prefill("b", text(2, 30), "a"))
    h.submit(decode("d", [3], "a", max_tokens=30), decode("fits", [3], "a", max_tokens=17))
    h.run()
    for name in "bd":
        failure = h.outcome(name).failure
        assert failure is not None
        assert failure.reason == Reason.NEVER_FITS
        assert failure.ids == (name,)
    assert h.outcome("fits").state is State.DONE


def test_holes_that_do_not_fit_at_once_are_mended_one_after_the_other() -> None:
    h = harness(50)
    h.submit(prefill("a", text(1, 24)))
    h.submit(prefill("b", text(2, 10), ParentSpec("a", offset=3)))
    h.submit(prefill("c", text(3, 10), ParentSpec("b", offset=90)))
    h.run()
    h.cache.evict(50)
    h.submit(decode("d", [3], ParentSpec("c", offset=7), max_tokens=15), prefill("after", text(4, 30)))
    h.run()
    assert h.outcome("d").state is State.DONE
    assert h.outcome("d").receipt.reencoded == 24 + 10 + 10
    assert h.outcome("after").state is State.DONE


def test_what_can_never_be_encoded_again_fails_and_the_others_go_on() -> None:
    h = harness(50)
    for i in "12":  # each fits by itself, but not with what the other one saw
        h.submit(prefill(f"a{i}", text(int(i), 38)))
        h.submit(prefill(f"b{i}", text(3 + int(i), 8), ParentSpec(f"a{i}", offset=3)))
        h.run()
    h.cache.evict(50)
    h.submit(decode("d", [3], "b1", "b2", max_tokens=5), prefill("after", text(6, 30)))
    h.run()
    failure = h.outcome("d").failure
    assert failure is not None
    assert failure.reason == Reason.NEVER_FITS
    assert h.outcome("after").state is State.DONE


def test_a_full_queue_says_when_to_come_again() -> None:
    h = harness(100, max_unfinished=3)
    h.submit(decode("d", [3], max_tokens=5), prefill("a", text(1, 3), "d"))
    with pytest.raises(RequestError) as error:
        h.submit(prefill("b", text(2, 3)), prefill("c", text(3, 3)))
    assert error.value.reason is Reason.QUEUE_FULL
    assert error.value.retry_after is not None
    assert 0 < error.value.retry_after <= 60
    h.submit(prefill("b", text(2, 3)))
    h.run()
    h.submit(prefill("b", text(2, 3)), prefill("c", text(3, 3)))
    h.run()
    assert h.outcome("c").state is State.DONE


def test_too_large() -> None:
    h = harness(100, max_unfinished=3)
    with pytest.raises(RequestError) as error:
        h.submit(*[prefill(f"m{i}", text(i, 3)) for i in range(4)])
    assert error.value.reason is Reason.TOO_LARGE
    assert error.value.retry_after is None
    limits = Limits(512, 100, 97, max_messages=2, max_parents=1)
    h.scheduler = Scheduler(h.cache, limits, NoText())
    h.scheduler.open("", "w", 0, 1e9, 0.0)
    h.submit(prefill("a", text(1, 3)), prefill("b", text(2, 3)))
    with pytest.raises(RequestError, match="at most 2 messages") as error:
        h.submit(prefill("c", text(3, 3)))
    assert error.value.reason is Reason.TOO_LARGE
    with pytest.raises(RequestError, match="2 parents") as error:
        h.submit(prefill("c", text(3, 3), "a", "b"))
    assert error.value.reason is Reason.TOO_LARGE


# ---- what it costs


def test_a_step_costs_no_more_when_many_wait() -> None:
    def cost(waiting: int) -> int:
        h = harness(100, check=False, max_running=4)
        h.submit(*[decode(f"r{i}", [3 + i], max_tokens=20) for i in range(4)])
        h.step()
        h.submit(decode("gate", [3], max_tokens=2))
        h.submit(*[prefill(f"q{i}", text(i, 4)) for i in range(waiting)])
        h.submit(*[prefill(f"b{i}", text(i, 4), "gate") for i in range(waiting)])
        h.step()
        return lines_run(h.step)

    assert cost(1000) < 1.2 * cost(10)


@pytest.mark.parametrize("verb", ["close", "cancel"])
def test_ending_many_calls_costs_as_much_for_each(verb: str) -> None:
    """Counts the elements of sets that are built as well: `set(calls)` is one line of Python."""

    def cost(count: int) -> int:
        h = harness(100, check=False)
        calls = [prefill(f"b{i}", text(i, 4), "gate") for i in range(count)]
        h.submit(decode("gate", [3], max_tokens=2), *calls)
        hashed = 0
        original = Call.__hash__

        def counting(call: Call) -> int:
            nonlocal hashed
            hashed += 1
            return original(call)

        Call.__hash__ = counting  # type: ignore[method-assign]
        try:
            if verb == "close":
                h.scheduler.close("", "w", h.now)
            else:
                h.scheduler.cancel("", "w", [call.id for call in calls], False, h.now)
        finally:
            Call.__hash__ = original  # type: ignore[method-assign]
        return hashed

    assert cost(400) < 6 * cost(100)


def test_a_long_chain_given_backwards_costs_as_much_for_each() -> None:
    class Name(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, str(other))

        __hash__ = str.__hash__

    def cost(count: int) -> int:
        h = harness(100, check=False)
        names = [Name(f"m{i}") for i in range(count)]
        chain = [prefill(names[0], [3])] + [
            CallSpec(names[i], b"%d" % i, (3,), parents=(ParentSpec(names[i - 1]),)) for i in range(1, count)
        ]
        Name.compared = 0
        h.submit(*reversed(chain))
        return Name.compared

    assert cost(400) < 6 * cost(100) + 100


# ---- what stays behind


def test_a_thousand_calls_leave_no_references() -> None:
    h = harness(300, check=False, token_budget=256)
    scheduler = h.scheduler
    for i in range(100):
        name = f"w{i}"
        scheduler.open("", name, 0, 1e9, h.now)
        h.submit(
            prefill(f"{name}a", text(i, 9), timeout=1000.0),
            decode(f"{name}b", [3], f"{name}a", max_tokens=3, timeout=1000.0),
            *[decode(f"{name}c{j}", [4 + j], f"{name}a", f"{name}b", max_tokens=2, timeout=1000.0) for j in range(8)],
            workflow=name,
        )
        for _ in range(i % 7):
            h.step()
        if i % 3:
            h.run()
        scheduler.close("", name, h.now)
        h.collect()
    h.run()
    assert len(h.ended) == 1000
    assert list(scheduler.graph.workflows) == [("", "w")]
    assert scheduler.graph.unfinished == 0
    assert len(scheduler._expiry._deadlines) <= 64
    assert scheduler._states.order.first() is None
    assert not scheduler.running
    assert not scheduler._states.ready
    assert not scheduler._states._events
    h.cache.evict(300)
    assert h.cache.contexts == {}
    assert h.cache.pool.free == 300
    gc.collect()
    kept = [o for o in gc.get_objects() if type(o) is Call and o.workflow.id.startswith("w")]
    assert len([call for call in kept if call.id in h.ended]) <= 130, "what the two heaps may still hold"


def test_released_messages_leave_only_their_digests() -> None:
    h = harness(300, check=False)
    for i in range(200):
        h.submit(prefill(f"a{i}", text(i, 5)), decode(f"d{i}", [3], f"a{i}", max_tokens=2))
        h.run()
        h.scheduler.release("", "w", [f"a{i}", f"d{i}"], h.now)
    workflow = h.scheduler.graph.workflows["", "w"]
    assert workflow.calls == {}
    assert len(workflow.digests) == 400
    assert h.scheduler.held() == ([], [])
    h.cache.evict(300)
    assert h.cache.contexts == {}
