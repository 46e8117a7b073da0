"""What the rows at the end of a path read beside that end. It is found once, when a call begins to run, and kept as
arrays while the call holds its locks: for so long, all of it lies where it lay."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import chain

from pavane.cache import Member, Node, Span
from pavane.cache.slots import join
from pavane.scheduler.attention import layout
from pavane.scheduler.plan import Item

NOT_AGAIN = 1 << 30  # deeper than any path
# A header of at most so many tokens is laid out with what follows it: reading it once would seldom pay for a merge.
HEADER = 32
APART, OWN = 0, 1  # numbers of no encoding
OWN_PART = (OWN, 0, 0, -1, 1)


@dataclass(slots=True, eq=False)
class Reads:
    """`entries` [n, 5] are (number of the encoding, delta, tokens, extents, 1 if it is the first entry of this number),
    those of one delta side by side, 0 at last; APART makes an entry a segment by itself. The last one, with -1 extents,
    stands for the path's own end, which is not in `extents` [all, 2]. Both are bytes of int32, which many at once are
    joined fastest from. Of that end but for its last node, `before` tokens lie right before those of that node, and
    `head` has the extents of the others, start and length by turns.

    Found for a path to some node, and for rows from depth `begin` on; by a call that held `needs`, when nodes of the
    path's context had been cut `splits` times.
    """

    entries: bytes
    extents: bytes
    head: array[int]
    before: int
    begin: int
    needs: list[Span]
    splits: int
    spans: list[Span]  # that have numbers

    def hold(self, item: Item) -> bool:
        """Whether this is also what `item` reads, which leads to the same node."""
        return self.needs is item.call.needs and self.begin <= item.lo and self.splits == item.tail.context.splits


@dataclass(slots=True, eq=False)
class _Encoding:
    number: int
    where: array[int]  # its extents, start and length by turns, while somebody reads it
    length: int
    readers: int = 0


class Encodings:
    """Small numbers for the encodings that are read, so that readers can be counted by arrays."""

    def __init__(self) -> None:
        self._known: dict[Span, _Encoding] = {}
        self._free: list[int] = []
        self.limit = OWN + 1  # all numbers are less

    def reads(self, item: Item) -> Reads:
        """What `item` reads; to be given to `drop` when its call has stopped, before that of others is asked for."""
        context = item.tail.context
        own, begin = _own_part(item)
        above = path(own[0].parent, 0) if own[0].parent is not None else []
        members = sorted(zip(context.members, context.deltas, strict=True), key=_frame)
        spans = [(member.span, delta) for member, delta in members] + [(Span(node, node.lo), 0) for node in above]
        entries, extents, seen = array("i"), array("i"), set()
        for span, delta in spans:
            encoding = self._read(span)
            number, where = encoding.number, encoding.where
            entries.extend((number, delta, encoding.length, len(where) // 2, number not in seen))
            extents += where
            seen.add(number)
        entries.extend(OWN_PART)
        head, before = join([], [extent for node in own[:-1] for extent in node.slots()]), 0
        if head and head[-1].end == own[-1].slots()[0].start:
            before = head.pop().length
        return Reads(
            entries.tobytes(),
            extents.tobytes(),
            array("i", chain.from_iterable(head)),
            before,
            begin,
            item.call.needs,
            context.splits,
            [span for span, _ in spans],
        )

    def drop(self, reads: Reads) -> None:
        for span in reads.spans:
            encoding = self._known[span]
            encoding.readers -= 1
            if not encoding.readers:
                del self._known[span]
                self._free.append(encoding.number)

    def _read(self, span: Span) -> _Encoding:
        encoding = self._known.get(span)
        if encoding is None:
            if not self._free:
                self._free.append(self.limit)
                self.limit += 1
            where = array("i", chain.from_iterable(join([], [e for node in span.nodes() for e in node.slots()])))
            encoding = self._known[span] = _Encoding(self._free.pop(), where, span.length)
        encoding.readers += 1
        return encoding


def reads_apart(item: Item) -> Reads:
    """What `item` reads if each parent of its call is to be a segment by itself; to be found anew for every step."""
    segments = layout(item)[:-1]
    entries = [(APART, delta, 0, len(extents), 0) for extents, delta in segments] + [(APART, 0, 0, OWN_PART[3], 0)]
    extents = [extent for extents, _ in segments for extent in extents]
    return Reads(
        array("i", chain.from_iterable(entries)).tobytes(),
        array("i", chain.from_iterable(extents)).tobytes(),
        array("i"),
        0,
        NOT_AGAIN,
        item.call.needs,
        item.tail.context.splits,
        [],
    )


def _own_part(item: Item) -> tuple[list[Node], int]:
    """The nodes that are laid out as the end of the path to `item`, and from which depth on they are the same."""
    tail, span = item.tail, item.call.span
    first = tail.lo
    if span is not None and tail is span.node and tail.lo - span.lo <= HEADER:
        first = span.lo
    return (path(tail, first), first) if item.lo >= first else (path(tail, item.lo), NOT_AGAIN)


def path(tail: Node, lo: int) -> list[Node]:
    """The nodes of the path to `tail`, from the one that holds depth `lo` on."""
    nodes: list[Node] = []
    node: Node | None = tail
    while node is not None and node.tokens and node.hi > lo:
        nodes.append(node)
        node = node.parent
    return nodes[::-1]


def _frame(entry: tuple[Member, int]) -> tuple[bool, int]:
    """The own frame is the last."""
    return entry[1] == 0, entry[1]
