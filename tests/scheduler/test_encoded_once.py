"""What is encoded once, and by whom: lazy messages, paths in flight, and what lookups find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.by_hand import A, B, C, cost, exact, harness, rows, run, tokens_of
from support.harness import decode, prefill

from pavane.scheduler.spec import CallSpec, ParentSpec, State

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


# ---- equal headers

H = [20, 21, 22, 23]


def votes(count: int, header: list[int] = H, **fields: Any) -> list[CallSpec]:
    return [decode(f"v{i}", header, "a", "b", max_tokens=3, trailer=(), seed=i, **fields) for i in range(count)]


@pytest.mark.parametrize("bos", [None, 0])
def test_equal_headers_behind_equal_parents_are_encoded_once_within_one_step(bos: int | None) -> None:
    h = harness(bos=bos)
    parents = [prefill("a", A), prefill("b", B)]
    run(h, *parents)
    before = rows(h)
    h.submit(*votes(4))
    h.step()
    assert rows(h) - before == 3 + 4, "of the last token each needs a row of its own"
    h.run()
    told = tokens_of(h, *parents, *votes(4))[2:]
    assert [list(h.outcome(f"v{i}").tokens) for i in range(4)] == told
    assert len({tuple(tokens) for tokens in told}) == 4
    # b stands behind a, where it was not encoded
    assert [cost(h.outcome(f"v{i}").receipt) for i in range(4)] == [(3, 2, 4, 0)] + [(3 + 3, 2, 1, 0)] * 3
    later = run(h, *(replace(vote, id="later") for vote in votes(1)))
    assert cost(later.receipt) == (3 + 3, 2, 1, 0)


@pytest.mark.parametrize(("sees", "header"), [(("b", "a"), H), (("a",), H), (("a", "b"), [9, *H])])
def test_other_headers_and_other_parents_are_not_equal(sees: tuple[str, ...], header: list[int]) -> None:
    h = harness()
    h.submit(prefill("a", A), prefill("b", B), *votes(1), decode("other", header, *sees, max_tokens=1, trailer=()))
    h.run()
    assert h.outcome("other").receipt.encoded == len(header)


def test_headers_that_begin_alike_share_what_is_alike() -> None:
    h = harness()
    h.submit(decode("long", [*H, 30], max_tokens=2), decode("short", H, max_tokens=2), prefill("text", [20, 21, 40]))
    h.run()
    assert [cost(h.outcome(i).receipt) for i in ("long", "short", "text")] == [(0, 0, 5, 0), (3, 0, 1, 0), (2, 0, 1, 0)]


@pytest.mark.parametrize("budget", [1, 2, 64])
def test_a_long_header_is_awaited_over_many_steps(budget: int) -> None:
    h = harness(budget=budget)
    header = list(range(3, 20))
    calls = [decode(f"d{i}", header, max_tokens=2, seed=i) for i in range(3)]
    h.submit(*calls)
    h.run()
    assert rows(h) == 16 + 3 + 3 * (2 + 2)
    assert [cost(h.outcome(c.id).receipt)[2] for c in calls] == [17, 1, 1]
    assert [list(h.outcome(c.id).tokens) for c in calls] == tokens_of(h, *calls)


@pytest.mark.parametrize("end", ["cancel", "preempt", "fail"])
def test_a_header_is_taken_over_when_the_one_that_encodes_it_stops(end: str) -> None:
    h = harness(budget=4)
    calls = [decode(f"d{i}", list(range(3, 20)), max_tokens=2, seed=i) for i in range(3)]
    h.submit(*calls)
    h.step()
    first = h.scheduler.graph.workflow("", "w").calls["d0"]
    if end == "cancel":
        h.scheduler.cancel("", "w", ["d0"], False, h.now)
    elif end == "preempt":
        h.scheduler._steps._preempt(first)
    else:
        h.runner.fail_next = True  # type: ignore[attr-defined]
    h.run()
    assert (first.state is State.DONE) == (end == "preempt")
    if end != "preempt":
        assert [cost(h.outcome(c.id).receipt)[2] for c in calls] == [4, 17 - 4, 1], "a failed step counts nothing"
    for call in calls[end != "preempt" :]:
        outcome = h.outcome(call.id)
        assert list(outcome.tokens) == tokens_of(h, call)[0]
        assert cost(outcome.receipt)[3] == 0
    assert sum(h.outcome(c.id).receipt.encoded for c in calls) == 16 + (3 if end == "preempt" else 2)


def test_a_header_stays_while_others_read_it_and_is_encoded_again_when_it_went() -> None:
    h = harness()
    calls = [decode(f"d{i}", H, max_tokens=n, trailer=()) for i, n in enumerate((2, 12))]
    h.submit(*calls)
    for _ in range(5):
        h.step()
    assert h.outcome("d0").state is State.DONE
    h.cache.evict(200)
    call = h.scheduler.graph.workflow("", "w").calls["d1"]
    assert h.cache.pool.free == 200 - 3 - (1 + 12), "what the one that runs reads, and its own slots"
    h.scheduler._steps._preempt(call)
    h.cache.evict(200)
    assert h.cache.pool.free == 200
    h.run()
    assert [list(h.outcome(c.id).tokens) for c in calls] == tokens_of(h, *calls)
    assert cost(h.outcome("d1").receipt)[:3] == (3, 0, 1)
    assert h.outcome("d1").receipt.reencoded >= 4


def test_a_prefill_finds_the_header_of_an_answer_that_is_being_written() -> None:
    h = harness()
    h.submit(decode("d", H, max_tokens=20))
    h.step()
    h.step()
    assert cost(run(h, prefill("p", [*H[:3], 50])).receipt) == (3, 0, 1, 0)


# ---- what is looked up


def test_sampled_tokens_are_never_looked_up() -> None:
    h = harness()
    twin = {"max_tokens": 4, "seed": 7, "trailer": ()}
    one = run(h, decode("one", B, **twin))
    before = rows(h)
    other = run(h, decode("two", B, **twin))
    assert other.tokens == one.tokens
    assert rows(h) - before == 1 + 3, "the header is there but for its last row; the message is complete by then"
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
