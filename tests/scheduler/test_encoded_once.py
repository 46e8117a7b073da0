"""What is encoded once, and by whom: lazy messages, paths in flight, and what lookups find."""

from __future__ import annotations

import pytest
from support.by_hand import A, B, C, cost, exact, harness, rows, run, tokens_of
from support.harness import decode, prefill

from pavane.scheduler.spec import ParentSpec, State

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
