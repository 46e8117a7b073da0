"""Slots of the KV pool, handed out in extents: one slot holds K and V of one token in every layer."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """The slots start, start + 1, ... start + length - 1."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class OutOfSlotsError(Exception):
    """Fewer slots are free than were asked for; the caller evicts first, so this is a programmer's error."""


class SlotPool:
    """Free slots as maximal extents, in buckets by the power of two below their length.

    Allocation and release take O(log size) per extent. Requests are served from one extent where one is long enough
    (the shortest bucket that surely fits), else from the longest ones.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._length: dict[int, int] = {}
        self._start_by_end: dict[int, int] = {}
        self._buckets: list[dict[int, None]] = [{} for _ in range(size.bit_length() + 1)]
        if size:
            self._put(0, size)

    def allocate(self, count: int, after: int | None = None) -> list[Extent]:
        """Takes `count` slots; those directly at `after` first, so that what grows there stays in one extent."""
        if count > self.free:
            raise OutOfSlotsError(f"{count} slots asked for, {self.free} of {self.size} free")
        taken: list[Extent] = []
        if after is not None and count and after in self._length:
            taken.append(self._take(after, min(count, self._length[after])))
            count -= taken[0].length
        while count:
            start = self._find(count)
            extent = self._take(start, min(count, self._length[start]))
            taken.append(extent)
            count -= extent.length
        return taken

    def release(self, extents: list[Extent]) -> None:
        for start, length in extents:
            self.free += length
            before = self._start_by_end.get(start)
            if before is not None:
                length += self._drop(before)
                start = before
            if start + length in self._length:
                length += self._drop(start + length)
            self._put(start, length)

    def free_extents(self) -> list[Extent]:
        return [Extent(start, length) for start, length in sorted(self._length.items())]

    def _find(self, count: int) -> int:
        for bucket in self._buckets[count.bit_length() :]:  # every extent in these is long enough
            if bucket:
                return next(iter(bucket))
        same = self._buckets[count.bit_length() - 1]
        for start in same:
            if self._length[start] >= count:
                return start
        for bucket in reversed(self._buckets):
            if bucket:
                return next(iter(bucket))
        raise OutOfSlotsError("the free count and the free extents disagree")

    def _take(self, start: int, count: int) -> Extent:
        length = self._drop(start)
        if length > count:
            self._put(start + count, length - count)
        self.free -= count
        return Extent(start, count)

    def _put(self, start: int, length: int) -> None:
        self._length[start] = length
        self._start_by_end[start + length] = start
        self._buckets[length.bit_length() - 1][start] = None

    def _drop(self, start: int) -> int:
        length = self._length.pop(start)
        del self._start_by_end[start + length]
        del self._buckets[length.bit_length() - 1][start]
        return length


def length_of(extents: list[Extent]) -> int:
    return sum(extent.length for extent in extents)


def cut(extents: list[Extent], count: int) -> tuple[list[Extent], list[Extent]]:
    """The first `count` slots, and the rest."""
    head: list[Extent] = []
    for i, extent in enumerate(extents):
        if count >= extent.length:
            head.append(extent)
            count -= extent.length
            continue
        tail = extents[i + 1 :]
        if count:
            head.append(Extent(extent.start, count))
            tail = [Extent(extent.start + count, extent.length - count), *tail]
        else:
            tail = extents[i:]
        return head, tail
    return head, []


def join(extents: list[Extent], more: list[Extent]) -> list[Extent]:
    """Both in order, adjacent ones merged."""
    out = list(extents)
    for extent in more:
        if out and out[-1].end == extent.start:
            out[-1] = Extent(out[-1].start, out[-1].length + extent.length)
        else:
            out.append(extent)
    return out
