"""Batches from steps. Where a step is the one before moved on by one token, so is its batch; and where only decodes
run, the batch of the step after can be made before the tokens of this one are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pavane.cache import Transfers
from pavane.kernels.batch import NO_TOKEN, Batch, Int32, MoveIn, MoveOut, Moves
from pavane.scheduler.plan import Item, Sample, Step, make_batch
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
    """Makes the batches of a scheduler, one after the other."""

    def __init__(self, text: TextRules, *, bos: int, share: bool) -> None:
        """See `make_batch`."""
        self._text = text
        self._bos = bos
        self._share = share
        self._items: list[Item] = []
        self._batch: Batch | None = None

    def make(self, step: Step) -> Batch:
        batch = None if step.watched else self._moved_on(step)
        if batch is None:
            batch = make_batch(step, self._text, bos=self._bos, share=self._share)
        self._items, self._batch = step.items, batch
        if step.watched:
            self.forget()
        return batch

    def forget(self) -> None:
        """What running calls read may lie elsewhere from now on: the next batch is made from nothing."""
        self._items, self._batch = [], None

    def ahead(self, step: Step) -> Ahead | None:
        """The step after `step`, the last that was made, if each of its calls is a decode that goes on unless its next
        token says otherwise, and nothing but that token decides what follows."""
        last = self._batch
        if last is None or len(step.samples) != len(step.items):
            return None
        items, samples = [], []
        for row, (item, sample) in enumerate(zip(step.items, step.samples, strict=True)):
            call = item.call
            decode = call.spec.decode
            if decode is None or decode.edits or decode.one_pass or sample.item is not item or item.rows != 1:
                return None
            if call.generated + 1 >= call.max_tokens:
                return None
            forced = decode.forced[sample.index + 1] if decode.forced else NO_TOKEN
            items.append(Item(call, item.tail, item.lo + 1, item.hi + 1, row))
            samples.append(Sample(call, items[-1], sample.depth + 1, sample.index + 1, forced))
        slots = _slots(items)
        if slots is None:
            return None
        batch = self._next(last, slots, samples)
        return Ahead(replace(batch, previous=np.arange(len(items), dtype=np.int32)), tuple(items))

    def adopt(self, ahead: Ahead, items: list[Item]) -> None:
        """`ahead` was run, and of its rows those of `items` count."""
        self._items, self._batch = items, ahead.batch if len(items) == len(ahead.items) else None

    def _moved_on(self, step: Step) -> Batch | None:
        """The last batch with every row one further, or None if the step is not of this kind.

        What running calls read is locked, so that all they read but the token before lies where it lay.
        """
        last, items = self._batch, step.items
        if last is None or len(items) != len(self._items):
            return None
        for now, before in zip(items, self._items, strict=True):
            if now.tail is not before.tail or now.call is not before.call or now.lo != before.lo + 1:
                return None
            if now.rows != 1 or before.rows != 1:
                return None
        slots = _slots(items)
        assert slots is not None
        for row, item in enumerate(items):
            item.first_row = row
        tokens = np.array([item.tail.tokens[item.lo - item.tail.lo] for item in items], dtype=np.int32)
        previous = np.full(len(items), NO_TOKEN, dtype=np.int32)
        return replace(self._next(last, slots, step.samples), tokens=tokens, previous=previous)

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


def _slots(items: Sequence[Item]) -> Int32 | None:
    """Of the one row of each of `items`; None if one of them has no slot yet."""
    slots = []
    for item in items:
        left = item.lo - item.tail.lo
        for extent in item.tail.extents or ():
            if left < extent.length:
                slots.append(extent.start + left)
                break
            left -= extent.length
        else:
            return None
    return np.array(slots, dtype=np.int32)
