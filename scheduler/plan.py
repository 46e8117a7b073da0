"""From the work of a step to its Batch. Python loops run over calls and encodings, never over tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from pavane.cache import Extent, Node, Span, cut
from pavane.kernels.batch import NO_TOKEN, Batch, Int32
from pavane.scheduler.attention import WatchedRows, layout, watched_rows
from pavane.scheduler.calls import Call, Use, Workflow
from pavane.scheduler.samples import make_samples
from pavane.scheduler.scoring import ScoreRows
from pavane.scheduler.text import TextRules

# What one more segment costs a step, in keys read: measured on a CPU, docs/log.md.
MERGE_COST = 256


@dataclass(slots=True)
class Item:
    """Rows of one call: the tokens at depths [lo, hi) of the path that leads to `tail`."""

    call: Call
    tail: Node
    lo: int
    hi: int
    first_row: int = 0

    @property
    def rows(self) -> int:
        return self.hi - self.lo


@dataclass(slots=True)
class Sample:
    """A token to take after the row that encodes depth `depth` of the call's path; `index` counts in the content."""

    call: Call
    item: Item
    depth: int
    index: int
    forced: int = NO_TOKEN


@dataclass(slots=True)
class Step:
    """What one step does, as it is being put together, and until it is committed."""

    budget: int  # rows that may still be added
    pairs: int  # (row, segment) pairs that may still be added
    items: list[Item] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    scores: list[ScoreRows] = field(default_factory=list)
    watched: list[WatchedRows] = field(default_factory=list)
    busy: set[Call] = field(default_factory=set)  # have rows in this step
    finishing: list[Call] = field(default_factory=list)  # complete once it has run
    mended: dict[Call, None] = field(default_factory=dict)  # have the piece they wanted once it has run

    first: list[tuple[Node, int, int]] = field(default_factory=list)  # paths, and depths computed for the first time
    counted: list[tuple[Call | Use | Workflow, str, int]] = field(default_factory=list)  # tokens on receipts

    def count(self, receipt: Call | Use | Workflow, name: str, tokens: int) -> None:
        """Adds `tokens` to the attribute `name`, unless the step fails."""
        if tokens:
            setattr(receipt, name, getattr(receipt, name) + tokens)
            self.counted.append((receipt, name, tokens))

    def uncount(self) -> None:
        """The step has failed."""
        for receipt, name, tokens in self.counted:
            setattr(receipt, name, getattr(receipt, name) - tokens)

    def room(self, call: Call, node: Node) -> int:
        """Rows of `node`'s path that fit; at least one in an empty step."""
        rows = min(self.budget, self.pairs // _segments_of(call, node))
        return max(rows, 0 if self.items else 1)

    def add(self, call: Call, node: Node, lo: int, hi: int) -> Item:
        self.budget -= hi - lo
        self.pairs -= (hi - lo) * _segments_of(call, node)
        self.busy.add(call)
        last = self.items[-1] if self.items else None
        if call.asks_attention and last is not None and last.tail is not node:
            last = None  # its own tokens are laid out apart
        if last is not None and last.call is call and last.hi == lo and (last.tail is node or last.tail is node.parent):
            last.tail, last.hi = node, hi
            return last
        item = Item(call, node, lo, hi)
        self.items.append(item)
        return item


@dataclass(slots=True)
class _Segment:
    extents: list[Extent]
    items: list[tuple[Item, int]]  # who reads it, rotated by which delta
    own: int = 0


def _segments_of(call: Call, node: Node) -> int:
    return len(call.uses) + 2 if call.asks_attention else node.context.segments


def make_batch(step: Step, text: TextRules, *, bos: int, share: bool) -> Batch:
    """`bos` is 1 if a BOS stands before offset 0. With `share`, an encoding that several calls read moved is one
    segment with the rows of all; without, each call's attention is laid out as if it were alone."""
    rows = 0
    tokens: list[Int32] = []
    slots: list[Int32] = []
    positions: list[Int32] = []
    for item in step.items:
        item.first_row = rows
        rows += item.rows
        for node in _path(item.tail, item.lo):
            lo, hi = max(item.lo - node.lo, 0), min(item.hi, node.hi) - node.lo
            tokens.append(np.frombuffer(node.tokens[lo:hi], dtype=np.int32))
            slots.extend(_expand(cut(cut(node.extents or [], hi)[0], lo)[1]))
        at = item.tail.context.start + bos
        positions.append(np.arange(at + item.lo, at + item.hi, dtype=np.int32))
    segments = _segments(step.items, share, {id(part.item) for part in step.watched})
    readers = [(item, delta) for segment in segments for item, delta in segment.items]
    counts = [sum(item.rows for item, _ in segment.items) for segment in segments]
    pair_rows = [np.arange(item.first_row, item.first_row + item.rows, dtype=np.int32) for item, _ in readers]
    return Batch(
        n_rows=rows,
        tokens=np.concatenate(tokens),
        previous=np.full(rows, NO_TOKEN, dtype=np.int32),
        positions=np.concatenate(positions),
        slots=np.concatenate(slots),
        n_segments=len(segments),
        extents=np.fromiter(chain.from_iterable(e for s in segments for e in s.extents), dtype=np.int32).reshape(-1, 2),
        extent_indptr=_indptr([len(segment.extents) for segment in segments]),
        row_indptr=_indptr(counts),
        pair_rows=np.concatenate(pair_rows),
        pair_deltas=np.repeat(
            np.array([delta for _, delta in readers], dtype=np.int32), [item.rows for item, _ in readers]
        ),
        own=np.array([segment.own for segment in segments], dtype=np.int32),
        samples=make_samples(step.samples, text),
        watched=watched_rows(step.watched),
    )


def _segments(items: Sequence[Item], share: bool, apart: set[int]) -> list[_Segment]:
    """What several calls read becomes a segment of its own if it is moved for one of them (which needs one anyway), or
    if reading it once saves more than one more merge costs. Items `apart`, by id(), read each parent by itself."""
    paths = [_path(item.tail, 0) for item in items]
    readers: Counter[Span] = Counter()
    if share and len(items) > 1:
        for item, path in zip(items, paths, strict=True):
            readers.update({m.span for m in item.tail.context.members})
            readers.update(Span(node, node.lo) for node in path if node.hi <= item.lo)
    shared: dict[Span, _Segment] = {}
    out: list[_Segment] = []
    for item, path in zip(items, paths, strict=True):
        if id(item) in apart:
            out.extend(_Segment(_joined(extents), [(item, delta)]) for extents, delta in layout(item))
            out[-1].own = item.rows
            continue
        alone: dict[int, list[Extent]] = {0: []}
        for member in item.tail.context.members:
            count = readers[member.span]
            if count > 1 and (member.delta or _worth_a_merge(member.span.length, count)):
                _read(shared, member.span, item, member.delta)
            else:
                alone.setdefault(member.delta, []).extend(_extents(member.span))
        causal = alone.pop(0)
        for node in path:
            span = Span(node, node.lo)
            if readers[span] > 1 and _worth_a_merge(len(node), readers[span]):
                _read(shared, span, item, 0)
            else:
                causal += cut(node.slots(), item.hi - node.lo)[0] if node.hi > item.hi else node.slots()
        out.extend(_Segment(_joined(alone[delta]), [(item, delta)]) for delta in sorted(alone))
        out.append(_Segment(_joined(causal), [(item, 0)], own=item.rows))
    return [*shared.values(), *out]


def _worth_a_merge(length: int, readers: int) -> bool:
    return length * (readers - 1) >= MERGE_COST


def _read(shared: dict[Span, _Segment], span: Span, item: Item, delta: int) -> None:
    segment = shared.get(span)
    if segment is None:
        segment = shared[span] = _Segment(_extents(span), [])
    segment.items.append((item, delta))


def _path(tail: Node, lo: int) -> list[Node]:
    """The nodes of the path to `tail`, from the one that holds depth `lo` on."""
    path: list[Node] = []
    node: Node | None = tail
    while node is not None and len(node) and node.hi > lo:
        path.append(node)
        node = node.parent
    return path[::-1]


def _extents(span: Span) -> list[Extent]:
    return _joined([e for node in span.nodes() for e in node.slots()])


def _joined(extents: list[Extent]) -> list[Extent]:
    out: list[Extent] = []
    for extent in extents:
        if out and out[-1].end == extent.start:
            out[-1] = Extent(out[-1].start, out[-1].length + extent.length)
        else:
            out.append(extent)
    return out


def _expand(extents: list[Extent]) -> list[Int32]:
    return [np.arange(e.start, e.end, dtype=np.int32) for e in extents]


def _indptr(counts: list[int]) -> Int32:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
