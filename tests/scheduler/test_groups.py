"""Groups: the first k of n as a parent; what of the rest is cancelled, who fails with whom."""

from __future__ import annotations

import pytest
from support.harness import FakeRunner, Harness, decode, digest, edge, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec, GroupSpec, State


def group(id: str, members: tuple[str, ...], need: int, *, cancel_rest: bool = False) -> GroupSpec:
    return GroupSpec(id, digest(id, members, need, cancel_rest), members, need, cancel_rest)


def answers(*lengths: int) -> list[CallSpec]:
    return [decode(f"a{i}", [3], max_tokens=n, seed=i) for i, n in enumerate(lengths)]


def submit(h: Harness, calls: list[CallSpec], *groups: GroupSpec) -> None:
    h.scheduler.submit("", "w", calls, h.now, groups)
    h.collect()


def parents(h: Harness, name: str) -> list[str]:
    return [use.id for use in h.outcome(name).receipt.parents]


def test_the_first_are_read_in_the_order_of_the_members() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [*answers(30, 4, 20, 2), prefill("end", [5], "g")], group("g", ("a0", "a1", "a2", "a3"), 2))
    h.run()
    assert parents(h, "end") == ["a1", "a3"]
    assert h.outcome("a0").state is State.DONE, "nobody asked for the rest to be cancelled"


def test_the_rest_is_cancelled_and_its_slots_are_free_within_a_step() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, answers(200, 3, 200), group("g", ("a0", "a1", "a2"), 1, cancel_rest=True))
    while h.outcome("a1").state is not State.DONE:
        assert h.step()
    assert {h.outcome(name).state for name in ("a0", "a2")} == {State.CANCELLED}
    assert not h.scheduler.running
    h.scheduler.close("", "w", h.now)
    h.cache.evict(400)
    assert h.cache.pool.free == 400


def test_of_those_that_end_in_one_step_the_members_order_decides() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [*answers(3, 3, 3), prefill("end", [5], "g")], group("g", ("a2", "a0", "a1"), 2))
    h.run()
    assert parents(h, "end") == ["a2", "a0"]


def test_a_group_with_too_few_left_fails_its_readers_by_name() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [*answers(50, 50, 50), prefill("end", [5], "g")], group("g", ("a0", "a1", "a2"), 2))
    h.step()
    h.scheduler.cancel("", "w", ["a0"], False, h.now)
    assert h.outcome("end").state is State.BLOCKED
    h.scheduler.cancel("", "w", ["a1"], False, h.now)
    failure = h.outcome("end").failure
    assert failure is not None
    assert failure.reason is Reason.PARENT_FAILED
    assert "group 'g' cannot have the 2 answers it needs: 2 of its 3 members" in failure.text
    submit(h, [prefill("late", [5], "g")])
    assert h.outcome("late").state is State.FAILED


def test_a_group_may_come_after_its_members_and_before_later_readers() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, answers(2, 9))
    h.run()
    submit(h, [], group("g", ("a1", "a0"), 1))
    submit(h, [prefill("end", [5], "g")])
    h.run()
    assert parents(h, "end") == ["a0"]


def test_placement_goes_to_the_first_winner_and_fidelity_to_all() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [prefill("x", [4, 4]), *answers(2, 2)], group("g", ("a0", "a1"), 2))
    submit(h, [prefill("end", [5], "x", edge("g").__class__("g", offset=40))])
    submit(h, [prefill("exact", [5], "x", edge("g").__class__("g", exact=True))])
    h.run()
    uses = h.outcome("end").receipt.parents
    assert [use.placed_at for use in uses] == [0, 40, 45]
    assert [use.exact for use in h.outcome("exact").receipt.parents] == [False, True, True]


def test_a_parent_that_is_also_a_winner_is_read_once() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [*answers(2, 2), prefill("end", [5], "g", "a0")], group("g", ("a0", "a1"), 2))
    h.run()
    assert parents(h, "end") == ["a1", "a0"]


def test_winners_that_were_released_stay_until_the_group_goes() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, answers(2, 2), group("g", ("a0", "a1"), 1))
    h.scheduler.release("", "w", ["a0", "a1"], h.now)
    h.run()
    submit(h, [prefill("end", [5], edge("g").__class__("g", last_use=True))])
    h.run()
    assert parents(h, "end") == ["a0"]
    with pytest.raises(RequestError, match="'g' was released"):
        submit(h, [prefill("later", [5], "g")])
    retained, _ = h.scheduler.held()
    assert len(retained) == 1  # of the reader alone


def test_cancel_of_a_group_cancels_its_members_and_what_is_below() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, [*answers(50, 50), prefill("end", [5], "g"), prefill("after", [5], "end")], group("g", ("a0", "a1"), 1))
    h.step()
    assert set(h.scheduler.cancel("", "w", ["g"], True, h.now)) == {"a0", "a1", "end", "after"}


@pytest.mark.parametrize(
    ("bad", "calls", "reason", "text"),
    [
        (group("g", ("a0",), 2), [], Reason.INVALID_GROUP, "needs 2 of 1 members; need is in 1..1"),
        (group("g", ("a0",), 0), [], Reason.INVALID_GROUP, "need is in 1..1"),
        (group("g", ("a0", "a0"), 1), [], Reason.INVALID_PARENT, "names member 'a0' twice"),
        (group("g", ("nobody",), 1), [], Reason.UNKNOWN_MESSAGE, "no message 'nobody'"),
        (group("a0", ("a1",), 1), [], Reason.ID_REUSED, "'a0' is taken already"),
        (group("g", ("x",), 1), [prefill("x", [4], "g")], Reason.CYCLE, "wait for each other"),
        (group("g", ("a0",), 1), [prefill("x", [], copy_of="g")], Reason.INVALID_GROUP, "where only a message"),
        (group("g", ("a0",), 1), [prefill("x", [], "g", copy_of="g")], Reason.INVALID_GROUP, "where only a message"),
    ],
)
def test_bad_groups(bad: GroupSpec, calls: list[CallSpec], reason: Reason, text: str) -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, answers(2, 2))
    with pytest.raises(RequestError, match=text) as caught:
        submit(h, calls, bad)
    assert caught.value.reason is reason
    assert "g" not in h.scheduler.graph.workflow("", "w").digests
    h.run()


def test_a_group_is_no_message() -> None:
    h = Harness(FakeRunner(400), 400)
    submit(h, answers(2), group("g", ("a0",), 1))
    with pytest.raises(RequestError, match="'g' is a group, not a message"):
        h.outcome("g")
    submit(h, [], group("g", ("a0",), 1))  # again, with the same bytes
    with pytest.raises(RequestError, match="taken"):
        submit(h, [], group("g", ("a0",), 1, cancel_rest=True))
