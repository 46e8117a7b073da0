"""Receipts, computed by hand."""

from __future__ import annotations

from support.by_hand import A, B, C, cost, exact, harness, rows, run, tokens_of
from support.harness import decode, prefill

from pavane.scheduler.spec import ParentSpec


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
