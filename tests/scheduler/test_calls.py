"""What is promised about calls, case by case, with receipts computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec, Ended, Finish, Outcome, ParentSpec, Receipt, State, StateChanged

A, B, C = [3, 4, 5], [6, 7], [8, 9, 10, 11]


def exact(*ids: str) -> list[ParentSpec]:
    return [ParentSpec(i, exact=True) for i in ids]


def harness(*, slots: int = 200, budget: int = 64, bos: int | None = None, running: int = 16) -> Harness:
    return Harness(FingerprintRunner(slots), slots, token_budget=budget, bos_id=bos, max_running=running)


def steps(h: Harness) -> int:
    before = h.runner.steps  # type: ignore[attr-defined]
    h.run()
    return int(h.runner.steps - before)  # type: ignore[attr-defined]


def rows(h: Harness) -> int:
    return int(h.runner.rows)  # type: ignore[attr-defined]


def cost(receipt: Receipt) -> tuple[int, int, int, int]:
    return receipt.in_place, receipt.repositioned, receipt.encoded, receipt.reencoded


def run(h: Harness, *specs: CallSpec) -> Outcome:
    h.submit(*specs)
    h.run()
    return h.outcome(specs[-1].id)


def reason(outcome: Outcome) -> str | None:
    return outcome.failure.reason if outcome.failure is not None else None


def tokens_of(h: Harness, *specs: CallSpec) -> list[list[int]]:
    oracle = FingerprintOracle({spec.id: spec for spec in specs}, h.bos_id)
    return [oracle[spec.id].tokens for spec in specs]


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


# ---- lazy prefills


def test_a_lazy_prefill_completes_at_once_and_computes_nothing_until_it_is_read() -> None:
    h = harness()
    h.submit(prefill("a", A, exact=True), prefill("b", B, "a", exact=True))
    assert h.outcome("b").state is State.DONE
    assert not h.step()
    assert rows(h) == 0
    assert cost(h.outcome("b").receipt) == (0, 0, 0, 0)
    first = run(h, decode("d", [1], *exact("a", "b"), max_tokens=1, trailer=()))
    assert cost(first.receipt) == (0, 0, 6, 0)
    assert cost(run(h, decode("e", [2], *exact("a", "b"), max_tokens=1, trailer=())).receipt) == (5, 0, 1, 0)
    assert rows(h) == 6 + 1 + 1 + 1


@pytest.mark.parametrize("budget", [64, 2, 1])
def test_a_path_in_flight_is_encoded_once(budget: int) -> None:
    h = harness(budget=budget)
    readers = [decode(f"d{i}", [50 + i], *exact("a", "b"), max_tokens=1, trailer=()) for i in range(3)]
    h.submit(prefill("a", A, exact=True), prefill("b", C, "a", exact=True), *readers)
    h.run()
    assert rows(h) == 7 + 3 * 2
    assert [cost(h.outcome(r.id).receipt) for r in readers] == [(0, 0, 8, 0), (7, 0, 1, 0), (7, 0, 1, 0)]
    if budget == 64:
        assert h.now == 3.0, "one step for all of it, one for the last tokens, one to see that nothing is left"


def test_a_path_in_flight_is_taken_over_when_its_first_reader_goes() -> None:
    h = harness(budget=2)
    lazy = prefill("a", list(range(3, 10)), exact=True)
    readers = [decode(f"d{i}", [50 + i], *exact("a"), max_tokens=1, trailer=()) for i in range(2)]
    h.submit(lazy, *readers)
    h.step()
    h.step()
    h.scheduler.cancel("", "w", ["d0"], False, h.now)
    h.run()
    assert rows(h) == 7 + 2, "what the first had computed stays"
    assert list(h.outcome("d1").tokens) == tokens_of(h, lazy, readers[1])[1]
    assert cost(h.outcome("d1").receipt) == (4, 0, 4, 0)


def test_a_reused_lazy_parent_is_computed_where_it_stands() -> None:
    h = harness()
    out = run(
        h,
        prefill("a", A, exact=True),
        prefill("b", B, "a", exact=True),
        decode("d", [1], "b", max_tokens=1, trailer=()),
    )
    # b is encoded as it is, seeing a: an ancestor that d does not see is charged to d, and is not visible
    assert (out.receipt.encoded, out.receipt.in_place, out.receipt.repositioned) == (3, 0, 0)
    assert rows(h) == 3 + 2 + 1 + 1


# ---- what is looked up


def test_sampled_tokens_are_never_looked_up() -> None:
    h = harness()
    twin = {"max_tokens": 4, "seed": 7, "trailer": ()}
    one = run(h, decode("one", B, **twin))
    before = rows(h)
    other = run(h, decode("two", B, **twin))
    assert other.tokens == one.tokens
    assert rows(h) - before == 2 + 3, "the last one need not be computed: the message is complete"
    assert h.cache.pool.free == 200 - 6, "and yet they are one encoding in the end"


def test_an_exact_edge_and_a_prefill_find_what_was_decoded() -> None:
    h = harness()
    run(h, prefill("s", A), decode("d", [1], "s", max_tokens=4))
    before = rows(h)
    same = run(h, prefill("same", h.outcome("d").tokens, "s"))
    assert rows(h) == before
    assert cost(same.receipt) == (10, 0, 0, 0)
    after = run(h, decode("e", [2], *exact("s", "d"), max_tokens=1, trailer=()))
    assert rows(h) - before == 2
    assert cost(after.receipt) == (10, 0, 1, 0)


@pytest.mark.parametrize("first", [1, 3])
def test_a_decode_in_one_pass_that_equals_a_message_is_still_read_rightly(first: int) -> None:
    """Its children are resolved before its step has run; `first` of its readers run in that step as well."""
    h = harness(budget=3 + 2 * (first - 1))
    twin = prefill("twin", A)
    run(h, twin)
    calls = [decode("d", A[:1], forced=tuple(A[1:]), one_pass=True, trailer=())]
    calls += [prefill(f"on{i}", [20 + i, 21], "d") for i in range(2)]
    calls += [decode("far", [30], ParentSpec("d", offset=9), max_tokens=2, trailer=())]
    h.submit(*calls)
    h.run()
    assert [list(h.outcome(c.id).tokens) for c in calls] == tokens_of(h, *calls)


# ---- receipts


def test_receipt_of_reuse_in_place() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B, "a"))
    assert cost(h.outcome("b").receipt) == (3, 0, 2, 0)
    out = run(h, decode("d", [1, 2], "a", "b", max_tokens=3))
    assert cost(out.receipt) == (5, 0, 2, 0)
    assert (out.receipt.generated, out.receipt.trailer) == (3, 2)
    assert [(p.id, p.placed_at, p.encoded_at, p.exact, p.tokens) for p in out.receipt.parents] == [
        ("a", 0, 0, False, 3),
        ("b", 3, 3, False, 2),
    ]


def test_receipt_of_moved_exact_and_mixed_parents() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B), prefill("c", C))
    moved = run(h, decode("d", [1], "a", "b", ParentSpec("c", offset=50), max_tokens=1))
    assert cost(moved.receipt) == (3, 6, 1, 0)
    assert moved.start == 54
    placed = run(h, decode("e", [1], "b", ParentSpec("a", as_encoded=True), max_tokens=1))
    assert cost(placed.receipt) == (5, 0, 1, 0)
    mixed = run(h, decode("f", [1], "a", ParentSpec("b", exact=True), "c", max_tokens=1))
    assert cost(mixed.receipt) == (3, 4, 3, 0)
    again = run(h, decode("g", [2], "a", ParentSpec("b", exact=True), "c", max_tokens=1))
    assert cost(again.receipt) == (5, 4, 1, 0)
    packed = run(h, decode("i", [2], ParentSpec("a", exact=True, offset=30), *exact("c"), start=90, max_tokens=1))
    assert packed.receipt.placement_ignored
    assert packed.start == 7
    assert cost(packed.receipt) == (3, 0, 5, 0)


def test_receipt_of_a_copy() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B))
    copy = run(h, prefill("copy", [], "b", copy_of="a"))
    assert list(copy.tokens) == A
    assert cost(copy.receipt) == (2, 0, 3, 0)
    assert cost(run(h, prefill("same", [], copy_of="a")).receipt) == (3, 0, 0, 0)


def test_receipt_after_eviction() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B, ParentSpec("a", offset=4)))
    h.cache.evict(200)
    before = rows(h)
    out = run(h, decode("d", [1], "b", max_tokens=1, trailer=()))
    assert rows(h) - before == 3 + 2 + 1 + 1
    assert cost(out.receipt) == (0, 2, 1, 5), "b is moved, a is an ancestor that d does not see"


def test_receipt_of_a_preempted_decode() -> None:
    h = harness(slots=70)
    calls = [decode(f"d{i}", [20 + i], max_tokens=50, trailer=()) for i in range(2)]
    h.submit(*calls)
    h.run()
    for call, told in zip(calls, tokens_of(h, *calls), strict=True):
        out = h.outcome(call.id)
        assert list(out.tokens) == told
        assert (out.receipt.in_place, out.receipt.encoded, out.receipt.generated) == (0, 1, 50)
    assert h.outcome("d0").receipt.preemptions == 0
    assert h.outcome("d1").receipt.preemptions >= 1
    assert rows(h) == 102 + h.outcome("d1").receipt.reencoded


def test_bos_is_never_counted() -> None:
    h = harness(bos=0)
    assert cost(run(h, prefill("a", A)).receipt) == (0, 0, 3, 0)
    assert rows(h) == 4
    h.cache.evict(200)
    assert cost(run(h, decode("d", [1], "a", max_tokens=1, trailer=())).receipt) == (3, 0, 1, 3)


def test_a_start_before_the_first_parent_is_counted_like_any_other() -> None:
    h = harness()
    run(h, prefill("p", A), prefill("a", B, ParentSpec("p", offset=10), start=9))
    h.cache.evict(200)
    out = run(h, decode("d", [1], ParentSpec("a", offset=40), max_tokens=1, trailer=()))
    assert cost(out.receipt) == (0, 2, 1, 5)


def test_the_receipts_of_a_workflow_are_summed() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B, "a"), decode("d", [1], "a", "b", max_tokens=3))
    each = [h.outcome(i).receipt for i in "abd"]
    total = h.scheduler.close("", "w", h.now)
    for name in ("in_place", "repositioned", "encoded", "generated", "trailer", "reencoded"):
        assert getattr(total, name) == sum(getattr(r, name) for r in each)
    assert total.encoded + total.generated + total.trailer == rows(h)


# ---- ends


def test_ends_of_a_decode() -> None:
    h = harness()
    free = run(h, decode("free", [1], max_tokens=6, trailer=(1, 2)))
    content = free.tokens[1:7]
    at = next(i for i, token in enumerate(content) if i and token not in content[:i])
    ended = run(h, decode("end", [1], max_tokens=6, end_ids=frozenset({content[at]})))
    assert list(ended.tokens) == [1, *content[:at], 1, 2]
    stopped = run(h, decode("stop", [1], max_tokens=6, stop_ids=frozenset({content[at]})))
    assert stopped.tokens == ended.tokens
    forced = run(h, decode("forced", [1], forced=content, end_ids=frozenset({content[at]})))
    assert forced.tokens == free.tokens
    finishes = [out.finish for out in (free, ended, stopped, forced)]
    assert finishes == [Finish.LENGTH, Finish.END_OF_TURN, Finish.STOP, Finish.FORCED]


def test_max_tokens_is_what_fits_by_default() -> None:
    h = Harness(FingerprintRunner(200), 200, max_model_len=30)
    h.submit(prefill("a", A), decode("d", [1, 2], "a"))
    h.run()
    out = h.outcome("d")
    assert out.receipt.generated == 30 - 3 - 2 - 2
    assert out.finish is Finish.LENGTH
    small = Harness(FingerprintRunner(20), 20, max_model_len=100)
    small.submit(prefill("a", A), decode("d", [1, 2], "a"))
    small.run()
    assert small.outcome("d").receipt.generated == 20 - 3 - 2 - 2


def test_a_context_that_is_too_long_fails_when_it_is_known() -> None:
    h = Harness(FingerprintRunner(200), 200, max_model_len=20)
    h.submit(prefill("a", [3] * 12), prefill("b", [4] * 12, "a"), decode("d", [1], "a", max_tokens=6))
    h.run()
    assert reason(h.outcome("b")) == reason(h.outcome("d")) == Reason.CONTEXT_TOO_LONG


def test_deadlines_cover_waiting() -> None:
    h = harness(running=1)
    h.submit(
        decode("long", [3], max_tokens=30),
        prefill("queued", A, timeout=3.0),
        prefill("blocked", A, "long", timeout=4.0),
        prefill("patient", A, "long", timeout=1000.0),
    )
    assert h.scheduler.next_timer == 3.0
    h.run()
    for name, words in (("queued", "queued"), ("blocked", "waiting for parents")):
        failure = h.outcome(name).failure
        assert failure is not None
        assert failure.reason == Reason.DEADLINE_EXCEEDED
        assert words in failure.text
    assert h.outcome("patient").state is State.DONE
    assert h.scheduler.next_timer is None


def test_budgets() -> None:
    h = harness()
    h.scheduler.open("", "small", 12, 1e9, 0.0)
    h.submit(decode("d", A, max_tokens=50), prefill("c", A, "d"), workflow="small")
    h.run()
    out = h.outcome("d", "small")
    assert reason(out) == Reason.BUDGET_EXHAUSTED
    assert reason(h.outcome("c", "small")) == Reason.BUDGET_EXHAUSTED
    assert 8 <= out.receipt.generated <= 10
    with pytest.raises(RequestError) as error:
        h.submit(prefill("more", A), workflow="small")
    assert error.value.reason is Reason.BUDGET_EXHAUSTED
    assert h.scheduler.open("", "small", 100, 1e9, 0.0)
    h.submit(prefill("more", A), workflow="small")
    h.run()
    assert h.outcome("more", "small").state is State.DONE


def test_every_submission_can_be_sent_again() -> None:
    h = harness()
    calls = [prefill("a", A), decode("d", [1], "a", max_tokens=3)]
    h.submit(*calls, *calls)
    h.submit(calls[1])
    h.step()
    h.submit(*calls)
    h.run()
    before = rows(h)
    h.submit(*calls)
    assert not h.step()
    assert rows(h) == before
    with pytest.raises(RequestError) as error:
        h.submit(prefill("a", B), prefill("new", B))
    assert error.value.reason is Reason.ID_REUSED
    h.scheduler.release("", "w", ["a", "d"], h.now)
    h.scheduler.release("", "w", ["a", "d"], h.now)
    h.submit(*calls)  # released, and yet they were done
    with pytest.raises(RequestError, match="no message 'new'"):
        h.outcome("new")
    with pytest.raises(RequestError, match="was released"):
        h.outcome("a")


def test_last_use_releases_when_the_reader_ends() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B))
    h.submit(decode("d", [1], ParentSpec("a", last_use=True), max_tokens=3), prefill("c", C, "a"))
    h.step()
    assert h.outcome("a").state is State.DONE
    h.run()
    assert h.outcome("c").state is State.DONE
    with pytest.raises(RequestError, match="was released"):
        h.outcome("a")


def events_of(h: Harness, spec: Sequence[CallSpec]) -> list[tuple[str, str]]:
    h.scheduler.submit("", "w", spec, h.now)
    seen: list[tuple[str, str]] = []
    while True:
        for event in h.scheduler.take_events().get(("", "w"), []):
            if isinstance(event, StateChanged):
                seen.append((event.id, event.state.value))
            elif isinstance(event, Ended):
                seen.append((event.id, event.outcome.state.value))
        batch = h.scheduler.schedule(h.now)
        if batch is None:
            return seen
        h.scheduler.commit(h.runner.execute(batch), h.now)


def test_states_are_told_in_order() -> None:
    h = harness()
    seen = events_of(h, [prefill("a", A), decode("d", [1], "a", max_tokens=2), prefill("z", A, exact=True)])
    told = {name: [state for i, state in seen if i == name] for name in "adz"}
    assert told == {
        "a": ["queued", "running", "done"],
        "d": ["blocked", "queued", "running", "done"],
        "z": ["done"],
    }


def test_cancel_reaches_descendants_through_calls_that_have_ended() -> None:
    h = harness()
    h.submit(prefill("root", A), prefill("mid", A, "root"))
    h.run()
    h.submit(decode("leaf", [3], "mid", max_tokens=50), prefill("copy", [], copy_of="leaf"), prefill("other", A))
    h.step()
    assert set(h.scheduler.cancel("", "w", ["root"], True, h.now)) == {"leaf", "copy"}
    h.run()
    assert h.outcome("other").state is State.DONE
