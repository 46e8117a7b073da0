"""When a call may run: with its parents in one step, after them, or never since one of them failed."""

from __future__ import annotations

import pytest
from support.by_hand import A, B, C, cost, harness, reason, rows, run, steps, tokens_of
from support.harness import decode, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import State

# ---- the same step


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("together", [True, False])
def test_a_cold_system_user_and_header_take_one_step(bos: int | None, together: bool) -> None:
    h = harness(bos=bos)
    calls = [prefill("s", A), prefill("u", B, "s"), decode("d", [1], "s", "u", max_tokens=1, trailer=())]
    if together:
        h.submit(*calls)
    else:
        for call in calls:
            h.submit(call)
    assert h.step()
    assert h.outcome("d").receipt.generated == 1
    assert rows(h) == 3 + 2 + 1 + (bos is not None)
    h.run()
    assert [list(h.outcome(c.id).tokens) for c in calls] == tokens_of(h, *calls)
    assert cost(h.outcome("d").receipt) == (5, 0, 1, 0)


def test_a_chain_of_any_length_takes_one_step_if_the_budget_allows() -> None:
    h = harness(budget=100, running=50)
    chain = [prefill("m0", [3])] + [prefill(f"m{i}", [3 + i], f"m{i - 1}") for i in range(1, 50)]
    h.submit(*reversed(chain))
    assert steps(h) == 1
    assert len(h.ended) == 50


def test_a_chunked_parent_lets_its_child_in_with_its_last_chunk() -> None:
    h = harness(budget=4)
    h.submit(prefill("p", list(range(3, 12))), prefill("c", B, "p"))
    h.step()
    h.step()
    assert h.outcome("c").state is State.BLOCKED
    h.step()  # one token of p, both of c
    assert h.outcome("p").state is State.DONE
    assert h.outcome("c").state is State.DONE
    assert rows(h) == 11


@pytest.mark.parametrize("when", ["before", "with", "after"])
def test_a_child_runs_once_its_parents_are_complete(when: str) -> None:
    h = harness()
    parent, child = decode("p", [3], max_tokens=3), prefill("c", B, "p")
    if when == "before":
        with pytest.raises(RequestError) as error:
            h.submit(child)
        assert error.value.reason is Reason.UNKNOWN_MESSAGE
        assert error.value.ids == ("p",)
        h.submit(child, parent)
    elif when == "with":
        h.submit(parent, child)
    else:
        run(h, parent)
        h.submit(child)
    h.run()
    assert h.outcome("c").state is State.DONE
    assert cost(h.outcome("c").receipt) == (6, 0, 2, 0)


# ---- parents that fail


def test_a_failed_parent_fails_its_descendants_naming_it() -> None:
    h = harness()
    h.submit(decode("p", [3], timeout=2.0, max_tokens=50), prefill("c", B, "p"), prefill("g", B, "c"))
    h.run()
    assert reason(h.outcome("p")) == Reason.DEADLINE_EXCEEDED
    for child, parent in (("c", "p"), ("g", "c")):
        failure = h.outcome(child).failure
        assert failure is not None
        assert (failure.reason, failure.ids) == (Reason.PARENT_FAILED, (parent,))
    late = run(h, prefill("late", B, "p"), prefill("later", B, "late"), prefill("other", B))
    assert late.state is State.DONE
    assert reason(h.outcome("late")) == reason(h.outcome("later")) == Reason.PARENT_FAILED
    assert {state: n for state, n in h.scheduler.counts.items() if n} == {State.FAILED: 5, State.DONE: 1}


def test_a_cancelled_partial_message_stays_readable_but_is_no_parent() -> None:
    h = harness()
    spec = decode("p", [3], max_tokens=9)
    h.submit(spec, prefill("c", B, "p"))
    h.step()
    h.step()
    assert h.scheduler.cancel("", "w", ["p"], False, h.now) == ["p"]
    h.run()
    told = h.outcome("p")
    assert told.state is State.CANCELLED
    assert list(told.tokens) == tokens_of(h, spec)[0][:3]
    for child in (h.outcome("c"), run(h, prefill("late", B, "p"))):
        assert child.failure is not None
        assert (child.failure.reason, child.failure.ids) == (Reason.PARENT_CANCELLED, ("p",))
    assert h.scheduler.cancel("", "w", ["p", "c"], True, h.now) == []
    assert h.cache.evict(200) == 0, "nobody can read what it had computed"
    assert h.cache.contexts == {}


def test_cancel_with_descendants_spares_the_others() -> None:
    h = harness()
    h.submit(decode("p", [3], max_tokens=9), prefill("c", B, "p"), prefill("g", B, "c"))
    h.submit(prefill("x", A), prefill("y", A, "x"))
    assert set(h.scheduler.cancel("", "w", ["p"], True, h.now)) == {"p", "c", "g"}
    h.run()
    assert {h.outcome(i).state for i in "pcg"} == {State.CANCELLED}
    assert {h.outcome(i).state for i in "xy"} == {State.DONE}


def test_a_step_that_fails_fails_its_calls_and_what_was_submitted_meanwhile() -> None:
    h = harness(running=2)
    h.submit(prefill("a", A), decode("b", B, max_tokens=4), prefill("waits", C))
    batch = h.scheduler.schedule(1.0)
    assert batch is not None
    h.submit(prefill("child", C, "a"), prefill("other", [12]))
    h.scheduler.fail_step("boom", 1.0)
    h.collect()
    h.audit()
    assert reason(h.outcome("a")) == reason(h.outcome("b")) == Reason.RUNNER_FAILED
    assert reason(h.outcome("child")) == Reason.PARENT_FAILED
    h.run()
    assert h.outcome("waits").state is h.outcome("other").state is State.DONE


def test_what_a_failed_step_was_to_compute_is_computed_and_counted_by_the_next() -> None:
    h = harness()
    h.runner.fail_next = True  # type: ignore[attr-defined]
    failed = run(h, prefill("a", A))
    assert failed.state is State.FAILED
    assert cost(run(h, prefill("b", A)).receipt) == (0, 0, 3, 0)


def test_what_a_failed_step_was_to_compute_of_a_lazy_message_is_computed_for_the_first_time_by_the_next() -> None:
    h = harness()
    run(h, prefill("lazy", A, exact=True))
    h.runner.fail_next = True  # type: ignore[attr-defined]
    assert run(h, decode("d", [1], "lazy", max_tokens=1)).state is State.FAILED
    assert cost(run(h, decode("e", [1], "lazy", max_tokens=1)).receipt) == (0, 0, 4, 0)


def test_what_was_not_computed_was_not_reused() -> None:
    h = harness(running=1)
    h.submit(decode("runs", [3], max_tokens=5), prefill("waits", C))
    h.step()
    h.scheduler.cancel("", "w", ["waits"], False, h.now)
    h.run()
    assert cost(h.outcome("waits").receipt) == (0, 0, 0, 0)
