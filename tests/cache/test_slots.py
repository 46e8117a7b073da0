"""The pool of slots against a set."""

from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pavane.cache.slots import Extent, OutOfSlotsError, SlotPool, cut, join, length_of

SIZE = 37


def slots_of(extents: list[Extent]) -> list[int]:
    return [slot for extent in extents for slot in range(extent.start, extent.end)]


class PoolMachine(RuleBasedStateMachine):
    """The model: the set of free slots, and who holds the others."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(SIZE)
        self.free = set(range(SIZE))
        self.held: list[list[Extent]] = []

    @rule(count=st.integers(0, SIZE + 2), at=st.none() | st.integers(0, SIZE))
    def allocate(self, count: int, at: int | None) -> None:
        if count > len(self.free):
            with pytest.raises(OutOfSlotsError):
                self.pool.allocate(count, at)
            return
        longest = max((extent.length for extent in self.pool.free_extents()), default=0)
        begins = {extent.start for extent in self.pool.free_extents()}
        taken = self.pool.allocate(count, at)
        slots = slots_of(taken)
        assert len(slots) == len(set(slots)) == count
        assert set(slots) <= self.free
        if count and at in begins:
            assert slots[0] == at, "what grows there stays in one extent"
        elif 0 < count <= longest:
            assert len(taken) == 1, "one extent is long enough"
        self.free -= set(slots)
        if taken:
            self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        extents = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(extents)
        self.free |= set(slots_of(extents))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_a_part(self, data: st.DataObject) -> None:
        i = data.draw(st.integers(0, len(self.held) - 1))
        keep, rest = cut(self.held[i], data.draw(st.integers(0, length_of(self.held[i]))))
        assert slots_of(keep) + slots_of(rest) == slots_of(self.held[i])
        self.pool.release(rest)
        self.free |= set(slots_of(rest))
        self.held[i : i + 1] = [keep] if keep else []

    @invariant()
    def equal(self) -> None:
        extents = self.pool.free_extents()
        assert self.pool.free == len(self.free)
        assert slots_of(extents) == sorted(self.free)
        assert all(a.end < b.start for a, b in pairwise(extents)), "neighbours not merged"


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_an_empty_pool_has_nothing() -> None:
    pool = SlotPool(0)
    assert pool.allocate(0) == []
    assert pool.free_extents() == []
    with pytest.raises(OutOfSlotsError):
        pool.allocate(1)


def test_the_shortest_extents_that_surely_fit_are_taken() -> None:
    pool = SlotPool(64)
    extents = pool.allocate(64)
    assert extents == [Extent(0, 64)]
    pool.release([Extent(0, 20), Extent(30, 4), Extent(50, 14)])
    assert pool.allocate(3) == [Extent(30, 3)]
    assert pool.allocate(12, after=50) == [Extent(50, 12)]


@pytest.mark.parametrize("count", [1, 7, 15, 16, 31, 33, 500, 1000])
def test_an_extent_of_the_very_length_is_taken_before_a_longer_one(count: int) -> None:
    pool = SlotPool(10_000)
    pool.allocate(10_000)
    pool.release([Extent(0, 4000), Extent(6000, count)])
    assert pool.allocate(count) == [Extent(6000, count)]


@pytest.mark.parametrize(("short", "long"), [(16, 17), (32, 35), (500, 511)])
def test_of_one_class_the_one_that_is_long_enough_is_taken(short: int, long: int) -> None:
    pool = SlotPool(2000)
    pool.allocate(2000)
    pool.release([Extent(0, short), Extent(700, long)])
    assert pool.allocate(long) == [Extent(700, long)]
    assert pool.allocate(short) == [Extent(0, short)]


@pytest.mark.parametrize("size", range(1, 70))
def test_one_extent_serves_every_request_up_to_its_length(size: int) -> None:
    for count in range(1, size + 1):
        pool = SlotPool(size)
        assert pool.allocate(count) == [Extent(0, count)]
        assert pool.free_extents() == ([Extent(count, size - count)] if count < size else [])


def test_many_extents_that_are_just_too_short_cost_nothing() -> None:
    """63 slots in a pool whose free extents are 100,000 of 60: of one class, and none is long enough."""
    pool = SlotPool(10_000_000)
    pool.allocate(10_000_000)
    pool.release([Extent(start, 60) for start in range(0, 10_000_000, 100)])
    begin = perf_counter()
    for _ in range(100):
        assert length_of(pool.allocate(63)) == 63
    assert perf_counter() - begin < 0.1, "100 scans of all take a second"


def test_a_request_longer_than_any_extent_is_put_together() -> None:
    pool = SlotPool(16)
    pool.allocate(16)
    pool.release([Extent(0, 3), Extent(5, 4), Extent(12, 4)])
    taken = pool.allocate(10)
    assert length_of(taken) == 10
    assert all(extent.length in (2, 3, 4) for extent in taken)
    assert pool.free == 1


def test_cut_at_every_place_and_join_back() -> None:
    extents = [Extent(4, 3), Extent(9, 1), Extent(20, 2)]
    for count in range(8):
        head, tail = cut(extents, count)
        assert slots_of(head) == slots_of(extents)[:count]
        assert slots_of(tail) == slots_of(extents)[count:]
        assert all(extent.length > 0 for extent in head + tail)
        assert join(head, tail) == extents


def test_join_merges_only_what_follows() -> None:
    assert join([Extent(0, 2)], [Extent(2, 3)]) == [Extent(0, 5)]
    assert join([Extent(2, 3)], [Extent(0, 2)]) == [Extent(2, 3), Extent(0, 2)]
    given = [Extent(0, 1)]
    join(given, [Extent(1, 1)])
    assert given == [Extent(0, 1)], "the argument is not changed"
