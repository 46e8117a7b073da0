"""Batches from steps. Where a step is the one before moved on by one token, so is its batch; and where only decodes
run, the batch of the step after can be made before the tokens of this one are known."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pavane.cache import Node, Transfers
from pavane.kernels.batch import NO_TOKEN, Batch, Int32, MoveIn, MoveOut, Moves
from pavane.scheduler.attention import watched_rows
from pavane.scheduler.layout import Own, lay_out, ranges
from pavane.scheduler.plan import Item, Sample, Step
from pavane.scheduler.reads import Encodings, Reads, path, reads_apart
from pavane.scheduler.samples import make_samples
from pavane.scheduler.text import TextRules


@dataclass(frozen=True, slots=True)
class Ahead:
    """A step to run right after the one that runs: each call's next row, whose token is that call's sample of now.

    A call that turns out to have ended owns one discarded row; it writes only where nothing is read before it is
    written by a later step.
    """

    batch: Batch
    items: tuple[Item, ...]  # one row and one sample each


class BatchMaker:
    """Makes the batches of a scheduler, one after the other. `bos` is 1 if a BOS stands before offset 0. With `share`,
    an encoding that several calls read is one segment with the rows of all; without, each call's attention is laid out
    as if it were alone."""

    def __init__(self, text: TextRules, *, bos: int, share: bool) -> None:
        self._text = text
        self._bos = bos
        self._share = share
        self._encodings = Encodings()
        self._reads: dict[Node, Reads] = {}  # of the items of the last step, by their tails
        self._items: list[Item] = []
        self._batch: Batch | None = None
        self._kept: list[int] | None = None  # numbers of the last step's samples in what runs; None: all of them

    def make(self, step: Step) -> Batch:
        """Sets `first_row` of the step's items."""
        batch = None if step.watched else self._moved_on(step)
        if batch is None:
            batch = self._laid_out(step)
        self._items, self._batch = (step.items, batch) if not step.watched else ([], None)
        self._kept = None
        return batch

    def ahead(self, step: Step) -> Ahead:
        """The step after `step`, the last that was made, of the decodes that have a sample in it: each has a slot for
        that, and takes the next one."""
        items, samples = [], []
        for row, sample in enumerate(step.samples):
            call, at, decode = sample.call, sample.item.hi, sample.call.spec.decode
            forced = decode.forced[sample.index + 1] if decode is not None and decode.forced else NO_TOKEN
            items.append(Item(call, sample.item.tail, at, at + 1, row))
            samples.append(Sample(call, items[-1], at, sample.index + 1, forced))
        last, rows = self._batch, len(items)
        if last is not None and rows == len(step.items) == last.n_rows:
            batch = self._next(last, _slots(items), samples)
        else:
            batch = self._laid_out(replace(step, items=items, samples=samples))
        return Ahead(replace(batch, previous=np.array(self._kept or range(rows), dtype=np.int32)), tuple(items))

    def adopt(self, ahead: Ahead, items: list[Item], kept: list[int]) -> None:
        """`ahead` was run, and of its rows only those numbered `kept` count, which are those of `items`."""
        whole = len(kept) == len(ahead.items)
        self._items, self._batch, self._kept = items, ahead.batch if whole else None, kept

    def _moved_on(self, step: Step) -> Batch | None:
        """The last batch with every row one further, or None if the step is not of this kind."""
        last, items = self._batch, step.items
        if last is None or len(items) != len(self._items):
            return None
        for now, before in zip(items, self._items, strict=True):
            if now.tail is not before.tail or now.lo != before.lo + 1 or now.hi != now.lo + 1 or before.hi != now.lo:
                return None
            if not self._reads[now.tail].hold(now):
                return None
        slots = _slots(items)
        for row, item in enumerate(items):
            item.first_row = row
        tokens = np.array([item.tail.tokens[item.lo - item.tail.lo] for item in items], dtype=np.int32)
        previous = np.full(len(items), NO_TOKEN, dtype=np.int32)
        return replace(self._next(last, slots, step.samples), tokens=tokens, previous=previous)

    def _laid_out(self, step: Step) -> Batch:
        watched = {id(part.item) for part in step.watched}
        reads = self._all_reads(step.items, watched)
        tokens, extents = array("i"), array("i")
        counts, rows, begins = array("i"), array("i"), array("i")
        n = 0
        for item, each in zip(step.items, reads, strict=True):
            tail, lo, hi = item.tail, item.lo, item.hi
            item.first_row = n
            begins.append(tail.context.start + lo)
            n += hi - lo
            rows.append(hi - lo)
            size = len(extents)
            if hi - lo == 1 and lo >= tail.lo and not watched:  # nearly always
                left = hi - tail.lo
                tokens.append(tail.tokens[left - 1] if left <= len(tail.tokens) else 0)  # it is a sample to come
                extents += each.head
                before = each.before
                for start, length in tail.extents or ():
                    extents.append(start - before)
                    if length >= left:
                        extents.append(left + before)
                        break
                    extents.append(length + before)
                    left -= length
                    before = 0
                counts.append(len(extents) - size)
                continue
            begin = min(lo, each.begin)
            if watched and id(item) in watched and item.call.span is not None:
                begin = item.call.span.lo
            for node in (tail,) if begin >= tail.lo else path(tail, begin):
                left = (hi if node is tail else node.hi) - node.lo
                tokens += node.tokens[max(lo - node.lo, 0) : left]
                for start, length in node.extents or ():
                    if len(extents) > size and extents[-2] + extents[-1] == start:
                        extents[-1] += min(length, left)
                    else:
                        extents.append(start)
                        extents.append(min(length, left))
                    left -= length
                    if left <= 0:
                        break
            counts.append(len(extents) - size)
        own = Own(
            np.frombuffer(extents, dtype=np.int32).reshape(-1, 2),
            np.frombuffer(counts, dtype=np.int32) // 2,
            np.frombuffer(rows, dtype=np.int32),
        )
        segments = lay_out(reads, own, limit=self._encodings.limit, share=self._share)
        return Batch(
            n_rows=n,
            tokens=np.frombuffer(tokens, dtype=np.int32),
            previous=np.full(n, NO_TOKEN, dtype=np.int32),
            positions=ranges(np.frombuffer(begins, dtype=np.int32) + self._bos, own.rows),
            slots=own.slots(),
            samples=make_samples(step.samples, self._text),
            watched=watched_rows(step.watched),
            **segments._asdict(),
        )

    def _all_reads(self, items: Sequence[Item], watched: set[int]) -> list[Reads]:
        """What each of `items` reads; what those of the last step have read, and these do not, is forgotten. Those that
        are `watched`, by id(), read each parent by itself."""
        known = self._reads
        kept: dict[Node, Reads] = {}
        out: list[Reads | None] = []
        for item in items:
            tail = item.tail
            reads = known.get(tail)
            if reads is not None and (not reads.hold(item) or (watched and id(item) in watched)):
                reads = None
            if reads is not None:
                kept[tail] = reads
            out.append(reads)
        if len(kept) < len(known):
            for tail, reads in known.items():
                if tail not in kept:
                    self._encodings.drop(reads)
        self._reads = kept
        return [self._found(item, watched) if reads is None else reads for item, reads in zip(items, out, strict=True)]

    def _found(self, item: Item, watched: set[int]) -> Reads:
        if id(item) in watched:
            return reads_apart(item)
        reads = self._reads.get(item.tail)
        if reads is None:
            reads = self._reads[item.tail] = self._encodings.reads(item)
        return reads

    def _next(self, last: Batch, slots: Int32, samples: Sequence[Sample]) -> Batch:
        """`last` with every row one further; tokens are still those of before."""
        ends = last.extent_indptr[np.flatnonzero(last.own) + 1]  # of the causal segments, one for each row
        longer = slots == last.slots + 1
        extents, indptr = last.extents.copy(), last.extent_indptr
        extents[ends[longer] - 1, 1] += 1
        if not longer.all():  # another extent begins
            new = np.stack([slots[~longer], np.ones(int((~longer).sum()), dtype=np.int32)], axis=1)
            extents = np.insert(extents, ends[~longer], new, axis=0)
            indptr = (indptr + np.searchsorted(ends[~longer], indptr, side="right")).astype(np.int32)
        return replace(
            last,
            positions=last.positions + 1,
            slots=slots,
            extents=extents,
            extent_indptr=indptr,
            samples=make_samples(samples, self._text),
        )


def make_moves(transfers: Transfers) -> Moves:
    return Moves(
        tuple(transfers.drops),
        tuple(MoveOut(key, np.array(extents, dtype=np.int32)) for key, extents in transfers.leaving),
        tuple(MoveIn(c.ticket, c.entry.key, c.first, np.array(c.extents, dtype=np.int32)) for c in transfers.coming),
    )


def _slots(items: Sequence[Item]) -> Int32:
    """Of the one row of each of `items`."""
    slots = []
    for item in items:
        left = item.lo - item.tail.lo
        for extent in item.tail.extents or ():
            if left < extent.length:
                slots.append(extent.start + left)
                break
            left -= extent.length
        else:
            raise AssertionError(f"call {item.call.id!r} has no slot for its row")
    return np.array(slots, dtype=np.int32)
