"""Batches from steps. Where a step is the one before moved on by one token, so is its batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pavane.kernels.batch import Batch
from pavane.scheduler.plan import Item, Step, make_batch
from pavane.scheduler.samples import make_samples
from pavane.scheduler.text import TextRules


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
        batch = self._moved_on(step)
        if batch is None:
            batch = make_batch(step, self._text, bos=self._bos, share=self._share)
        self._items, self._batch = step.items, batch
        return batch

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
        slots = np.array([_slot(item) for item in items], dtype=np.int32)
        if (slots != last.slots + 1).any():  # another extent begins
            return None
        for row, item in enumerate(items):
            item.first_row = row
        causal = np.flatnonzero(last.own)
        extents = last.extents.copy()
        extents[last.extent_indptr[causal + 1] - 1, 1] += 1
        return replace(
            last,
            tokens=np.array([item.tail.tokens[item.lo - item.tail.lo] for item in items], dtype=np.int32),
            positions=last.positions + 1,
            slots=slots,
            extents=extents,
            samples=make_samples(step.samples, self._text),
        )


def _slot(item: Item) -> int:
    """Of the one row of `item`."""
    left = item.lo - item.tail.lo
    for extent in item.tail.extents or ():
        if left < extent.length:
            return extent.start + left
        left -= extent.length
    raise AssertionError("a row without a slot")
