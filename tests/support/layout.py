"""Batches laid out the obvious way, call by call and from nothing, and what of a batch counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pavane.cache import Extent, Node, Span
from pavane.cache.slots import cut, join
from pavane.kernels.batch import Batch
from pavane.scheduler import layout as scheduler_layout
from pavane.scheduler import reads as scheduler_reads
from pavane.scheduler.attention import layout as layout_by_parents
from pavane.scheduler.plan import Item, Step


@dataclass(frozen=True)
class Segment:
    """Its keys, how many of them are those of its own rows, and who reads it: (slot of the row, delta) each."""

    extents: tuple[Extent, ...]
    own: int
    readers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """What counts: position and slot of the rows, and the segments in any order."""

    rows: list[tuple[int, int]]
    segments: Counter[Segment]


def layout(batch: Batch) -> Layout:
    """Of what was made."""
    segments: Counter[Segment] = Counter()
    for s in range(batch.n_segments):
        extents = [Extent(*e) for e in batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]].tolist()]
        assert join([], extents) == extents, "extents that touch are one"
        pairs = slice(batch.row_indptr[s], batch.row_indptr[s + 1])
        readers = zip(batch.slots[batch.pair_rows[pairs]].tolist(), batch.pair_deltas[pairs].tolist(), strict=True)
        ordered = tuple(readers) if batch.own[s] else tuple(sorted(readers))
        segments[Segment(tuple(extents), int(batch.own[s]), ordered)] += 1
    return Layout(list(zip(batch.positions.tolist(), batch.slots.tolist(), strict=True)), segments)


def expected(step: Step, bos: bool, share: bool) -> Layout:
    """Of what should be. Items whose rows are watched have a segment for each parent. What several others read is a
    segment of its own if it is moved for one of them, or if reading it once saves at least MERGE_COST keys; a short
    header never is."""
    rows = [row for item in step.items for row in _rows(item, bos)]
    watched = {id(part.item) for part in step.watched}
    readers: Counter[Span] = Counter()
    for item in step.items:
        if id(item) not in watched:
            readers.update(set(_reads(item)))
    together: dict[Span, list[tuple[int, int]]] = {}
    segments: Counter[Segment] = Counter()
    for item in step.items:
        slots = [slot for _, slot in _rows(item, bos)]
        if id(item) in watched:
            *parents, (own, _) = layout_by_parents(item)
            segments[Segment(tuple(join([], own)), len(slots), tuple((slot, 0) for slot in slots))] += 1
            for extents, delta in parents:
                segments[Segment(tuple(join([], extents)), 0, tuple(sorted((slot, delta) for slot in slots)))] += 1
            continue
        alone: dict[int, list[Extent]] = {}
        for span, deltas in _reads(item).items():
            for delta in deltas:
                others = readers[span] - 1
                if share and others and (delta or span.length * others >= scheduler_layout.MERGE_COST):
                    together.setdefault(span, []).extend((slot, delta) for slot in slots)
                else:
                    alone.setdefault(delta, []).extend(_extents(span))
        own = alone.pop(0, [])
        for node in _path(item.tail):
            if _is_own(node, item):
                own += cut(node.extents or [], item.hi - node.lo)[0]
        segments[Segment(tuple(join([], own)), len(slots), tuple((slot, 0) for slot in slots))] += 1
        for delta, extents in alone.items():
            segments[Segment(tuple(join([], extents)), 0, tuple(sorted((slot, delta) for slot in slots)))] += 1
    for span, pairs in together.items():
        segments[Segment(tuple(join([], _extents(span))), 0, tuple(sorted(pairs)))] += 1
    return Layout(rows, segments)


def tokens(items: Sequence[Item]) -> list[int]:
    """Of the rows."""
    paths = [(item, Span(item.tail, 0).tokens()) for item in items]
    return [token for item, path in paths for token in path[item.lo : item.hi]]


def _rows(item: Item, bos: bool) -> list[tuple[int, int]]:
    at = item.tail.context.start + bos
    rows = []
    for node in _path(item.tail):
        slots = [slot for extent in node.extents or [] for slot in range(extent.start, extent.end)]
        rows += [(at + d, slots[d - node.lo]) for d in range(max(item.lo, node.lo), min(item.hi, node.hi))]
    return rows


def _reads(item: Item) -> dict[Span, list[int]]:
    """What is complete before its rows, and with which deltas."""
    reads: dict[Span, list[int]] = {}
    for member in item.tail.context.members:
        reads.setdefault(member.span, []).append(member.delta)
    for node in _path(item.tail):
        if not _is_own(node, item):
            reads.setdefault(Span(node, node.lo), []).append(0)
    return reads


def _is_own(node: Node, item: Item) -> bool:
    span = item.call.span
    assert span is not None
    short = item.tail is span.node and item.tail.lo - span.lo <= scheduler_reads.HEADER
    return node.hi > item.lo or (short and node.lo >= span.lo)


def _path(tail: Node) -> list[Node]:
    return Span(tail, 0).nodes()


def _extents(span: Span) -> list[Extent]:
    return [extent for node in span.nodes() for extent in node.slots()]
