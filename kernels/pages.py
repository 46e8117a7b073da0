"""Pages, which a tier below the slots keeps: the K and V of PAGE tokens in one contiguous piece of memory, to the bit.

How tokens lie in a page is the business of who copies them; that a page has not changed is seen by its checksum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from pavane.kernels.batch import Int32

PAGE = 16  # tokens


class SlotPages:
    """The slots of one store as parts of pages, and how a CPU copies them.

    A page is int32 [page_words]: for each part of the store [outer, inner, PAGE, words], one after the other. A token's
    place in its page (its lane) has nothing to do with the lane of its slot in the store.
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        """`parts` are a store's memory, int32 [outer, blocks, inner, lanes, words] each: slot s is the lane s % lanes
        of the block s // lanes (see `KVStore.parts`)."""
        self.parts = tuple(parts)
        self._shapes = [(p.shape[0], p.shape[2], PAGE, p.shape[4]) for p in parts]
        self._ends = list(accumulate(math.prod(shape) for shape in self._shapes))
        self.page_words = self._ends[-1]
        self.page_bytes = self.page_words * 4

    def read(self, page: torch.Tensor, lane: int, slot: int, count: int) -> None:
        """Copies the slots [slot, slot + count) to the lanes [lane, lane + count) of `page`."""
        for stored, paged in self._pairs(page, lane, slot, count):
            paged.copy_(stored)

    def write(self, page: torch.Tensor, lane: int, slot: int, count: int) -> None:
        """Copies the lanes [lane, lane + count) of `page` to the slots [slot, slot + count)."""
        for stored, paged in self._pairs(page, lane, slot, count):
            stored.copy_(paged)

    def _pairs(
        self, page: torch.Tensor, lane: int, slot: int, count: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Views of the store and of the page that hold the same tokens."""
        for part, shape, end in zip(self.parts, self._shapes, self._ends, strict=True):
            paged = page[end - math.prod(shape) : end].view(shape)
            lanes, done = part.shape[3], 0
            while done < count:
                block, at = divmod(slot + done, lanes)
                more = min(count - done, lanes - at)
                yield part[:, block, :, at : at + more], paged[:, :, lane + done : lane + done + more]
                done += more


def pieces(extents: Int32, first: int) -> Iterator[tuple[int, int, int, int]]:
    """The slots of `extents` [n, 2] (start, length), which hold the tokens from number `first` on, cut where pages end:
    (page, lane in it, slot, count)."""
    token = first
    for start, length in extents.tolist():
        done = 0
        while done < length:
            page, lane = divmod(token, PAGE)
            count = min(length - done, PAGE - lane)
            yield page, lane, start + done, count
            done += count
            token += count


def checksum_weights(page_words: int) -> torch.Tensor:
    """int64 [page_words / 2], odd: the checksum of a page is multilinear hashing (Carter and Wegman, 1979), the sum of
    its 64-bit words times fixed random odd ones, modulo 2^64, so that a change of one word is always noticed. It can
    be summed in any order, on any device, and takes a CPU half the time of zlib's CRC-32."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (page_words // 2,), generator=generator) * 2 + 1
