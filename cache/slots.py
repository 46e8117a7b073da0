"""Slots of the KV pool, handed out in extents: one slot holds K and V of one token in every layer."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

LOOKED_AT = 16  # extents of a request's own class, of which some are long enough


class Extent(NamedTuple):
    """The slots start, start + 1, ... start + length - 1."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


_length = itemgetter(1)


class OutOfSlotsError(Exception):
    """Fewer slots are free than were asked for; the caller evicts first, so this is a programmer's error."""


class SlotPool:
    """Free slots as maximal extents, in classes of nearly equal length: eight to each power of two.

    Requests are served from one extent where one is found that is long enough: among the first few of the request's
    own class, else in the next class, of which every extent is; else from the longest ones. The cost does not depend on
    how many extents there are. (Classes and the bit mask of those in use are TLSF's: Masmano et al., ECRTS 2004.)
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._length: dict[int, int] = {}
        self._start_by_end: dict[int, int] = {}
        # Not plain dicts: the first key of one whose first keys were deleted is found by a scan.
        self._classes: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(_class(size) + 1)]
        self._in_use = 0  # bit i: class i has extents
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
        own = _class(count)
        if own < len(self._classes):
            for start in islice(self._classes[own], LOOKED_AT):
                if self._length[start] >= count:
                    return start
        longer = self._in_use >> (own + 1)
        if longer:
            return next(iter(self._classes[own + (longer & -longer).bit_length()]))
        if not self._in_use:
            raise OutOfSlotsError("the free count and the free extents disagree")
        return next(iter(self._classes[self._in_use.bit_length() - 1]))

    def _take(self, start: int, count: int) -> Extent:
        length = self._drop(start)
        if length > count:
            self._put(start + count, length - count)
        self.free -= count
        return Extent(start, count)

    def _put(self, start: int, length: int) -> None:
        self._length[start] = length
        self._start_by_end[start + length] = start
        index = _class(length)
        self._classes[index][start] = None
        self._in_use |= 1 << index

    def _drop(self, start: int) -> int:
        length = self._length.pop(start)
        del self._start_by_end[start + length]
        index = _class(length)
        extents = self._classes[index]
        del extents[start]
        if not extents:
            self._in_use &= ~(1 << index)
        return length


def _class(length: int) -> int:
    """0, 1, ... 15 by themselves, then eight classes from each power of two to the next."""
    shift = max(0, length.bit_length() - 4)
    return 8 * shift + (length >> shift)


def length_of(extents: list[Extent]) -> int:
    return sum(map(_length, extents))


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
