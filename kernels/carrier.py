"""What copies KV between slots and pages, and how a CPU does it: at once, out of the store into the pages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from pavane.kernels.batch import Int32
from pavane.kernels.host import Found, check_page
from pavane.kernels.pages import PAGE, SlotPages, checksum_weights, pieces


class Leaving(NamedTuple):
    """KV on its way out."""

    pages: Sequence[torch.Tensor]  # as `Found.pages`
    extents: Int32  # [n, 2]: start, length; the slots of its tokens, in order


class Landed(NamedTuple):
    sums: list[list[int]]  # checksums of the pages of each Leaving
    seconds: float  # that copying took


class Departure(Protocol):
    def done(self) -> bool:
        """Everything is in its pages, or has failed. Never waits."""
        ...

    def wait(self) -> Landed:
        """Returns when it is. Raises what went wrong."""
        ...


class Mark(Protocol):
    """A point in the order of what a device does."""

    def done(self) -> bool:
        """What came before has run. Never waits."""
        ...

    def wait(self) -> None:
        """Returns when it has."""
        ...


class Carrier(Protocol):
    @property
    def stalls(self) -> int:
        """See MoveReport; since the start."""
        ...

    def out(self, leaving: Sequence[Leaving]) -> Departure:
        """Called by the thread of the steps: what the caller has the device do from now on may write to the slots."""
        ...

    def mark(self) -> Mark:
        """What the device was told to do so far in the thread of the steps is done."""
        ...

    def back(self, found: Found, extents: Int32, after: Mark) -> float:
        """Writes the tokens from number `found.first` on to the slots of `extents`, as many as these are, once `after`
        is done; returns when they are written: the seconds that it took beside waiting for `after`. Any thread, one at
        a time.

        Raises:
            CorruptEntryError: a page has changed; what was written to the slots is of no use.
        """
        ...


class _Done:
    """A Mark of a device that does at once what it is told."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class _Gone(NamedTuple):
    landed: Landed

    def done(self) -> bool:
        return True

    def wait(self) -> Landed:
        return self.landed


class HostCarrier:
    """For a store in CPU memory. Pages are checked before anything of them is written back."""

    stalls = 0

    def __init__(self, layout: SlotPages) -> None:
        self._layout = layout
        self._weights = checksum_weights(layout.page_words)

    def out(self, leaving: Sequence[Leaving]) -> Departure:
        began = time.perf_counter()
        sums = []
        for pages, extents in leaving:
            rows = [page for run in pages for page in run]
            for page, lane, slot, count in pieces(extents, 0):
                self._layout.read(rows[page], lane, slot, count)
            sums.append([self._checksum(page) for page in rows])
        return _Gone(Landed(sums, time.perf_counter() - began))

    def mark(self) -> Mark:
        return _Done()

    def back(self, found: Found, extents: Int32, after: Mark) -> float:
        after.wait()
        began = time.perf_counter()
        rows = [page for run in found.pages for page in run]
        for number, page in enumerate(rows):
            check_page(found, number, self._checksum(page))
        for page_number, lane, slot, count in pieces(extents, found.first % PAGE):
            self._layout.write(rows[page_number], lane, slot, count)
        return time.perf_counter() - began

    def _checksum(self, page: torch.Tensor) -> int:
        return int(torch.dot(page.view(torch.int64), self._weights))
