"""What the rows at the end of a path read beside that end. It is found once, when a call begins to run, and kept as
arrays while the call holds its locks: for so long, all of it lies where it lay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pavane.cache import Node, Span
from pavane.cache.slots import join
from pavane.kernels.batch import Int32
from pavane.scheduler.plan import Item

NOT_AGAIN = 1 << 30  # deeper than any path
OWN_PART = (0, 0, 0, 0, 1)


@dataclass(slots=True, eq=False)
class Reads:
    """`entries` [n, 5] are (number of the encoding, delta, tokens, extents, 1 if it is the first entry of this number),
    those of one delta side by side, 0 at last. The last entry stands for the path's own end, and has no `extents`
    [all, 2] here.

    Found for a path to some node, and for rows from depth `begin` on; by a call that held `needs`, when nodes of the
    path's context had been cut `splits` times.
    """

    entries: Int32
    extents: Int32
    begin: int
    needs: list[Span]
    splits: int
    spans: list[Span]  # that have numbers

    def hold(self, item: Item) -> bool:
        """Whether this is also what `item` reads, which leads to the same node."""
        return self.needs is item.call.needs and self.begin <= item.lo and self.splits == item.tail.context.splits


class Encodings:
    """Small numbers for the encodings that are read, so that readers can be counted by arrays; 0 stands for none."""

    def __init__(self) -> None:
        self._numbers: dict[Span, int] = {}
        self._readers = [0]
        self._free: list[int] = []

    @property
    def limit(self) -> int:
        """All numbers are less."""
        return len(self._readers)

    def reads(self, item: Item) -> Reads:
        """What `item` reads; to be given to `drop` in the end."""
        tail, context = item.tail, item.tail.context
        begin = path(tail, item.lo)[0]
        above = path(begin.parent, 0) if begin.parent is not None else []
        members = sorted(context.members, key=lambda member: (not member.delta, member.delta))
        spans = [member.span for member in members] + [Span(node, node.lo) for node in above]
        deltas = [member.delta for member in members] + [0] * len(above)
        entries, extents, seen = [], [], set()
        for span, delta in zip(spans, deltas, strict=True):
            where = join([], [extent for node in span.nodes() for extent in node.slots()])
            entries.append((self._number(span), delta, span.length, len(where), int(span not in seen)))
            extents += where
            seen.add(span)
        entries.append(OWN_PART)
        return Reads(
            np.array(entries, dtype=np.int32),
            np.array(extents, dtype=np.int32).reshape(-1, 2),
            tail.lo if begin is tail else NOT_AGAIN,
            item.call.needs,
            context.splits,
            spans,
        )

    def drop(self, reads: Reads) -> None:
        for span in reads.spans:
            number = self._numbers[span]
            self._readers[number] -= 1
            if not self._readers[number]:
                del self._numbers[span]
                self._free.append(number)

    def _number(self, span: Span) -> int:
        number = self._numbers.get(span)
        if number is None:
            if not self._free:
                self._free.append(len(self._readers))
                self._readers.append(0)
            number = self._numbers[span] = self._free.pop()
        self._readers[number] += 1
        return number


def path(tail: Node, lo: int) -> list[Node]:
    """The nodes of the path to `tail`, from the one that holds depth `lo` on."""
    nodes: list[Node] = []
    node: Node | None = tail
    while node is not None and len(node) and node.hi > lo:
        nodes.append(node)
        node = node.parent
    return nodes[::-1]
