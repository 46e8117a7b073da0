"""KV between a device's slots and pages in host memory, beside the steps.

Out: the slots that a step takes over are gathered into staging in the steps' stream, before the step writes them; the
copy to host memory runs in a stream of its own, and nobody waits for it. Staging is a ring; where a step takes over
more than it holds, the steps' stream waits (on the device, not the host) for copies before it. Back: pages are copied
to staging by a third stream, checked there, and scattered into their slots. Checksums are taken on the device, which
reads a page in less time than PCIe brings it; a CPU core takes several times as long.

A page is int32 [PAGE, token_words]: each token's part of each part of the store, one after the other, so that the
slots of a chunk of pages are gathered by one launch for each part, and a run of neighbouring pages is one copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from pavane.kernels.batch import Int32, Int64
from pavane.kernels.carrier import Departure, Landed, Leaving, Mark
from pavane.kernels.gpu.copies import Copies
from pavane.kernels.gpu.side_streams import Event, Streams
from pavane.kernels.host import Found, check_page
from pavane.kernels.pages import PAGE, checksum_weights

CHUNK_BYTES = 32 << 20  # 0.7 ms of PCIe 5 x16, and far more than a launch costs
OUT_CHUNKS = 8
BACK_CHUNKS = 2  # one is checked while the next is copied
STAGING_BYTES = (OUT_CHUNKS + BACK_CHUNKS) * CHUNK_BYTES


class DeviceCarrier:
    """See Carrier. A stall is a chunk that has to wait for room in the staging."""

    def __init__(
        self, parts: Sequence[torch.Tensor], streams: Streams, copies: Copies, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """`parts` as those of SlotPages, of one block and one inner each: int32 [layers, 1, 1, slots, words]."""
        if any(part.shape[1] != 1 or part.shape[2] != 1 for part in parts):
            raise ValueError("a device's KV has to lie slot by slot within each layer")
        self._streams = streams
        self._copies = copies
        self._parts = [part[:, 0, 0] for part in parts]  # [layers, slots, words] each
        widths = [part.shape[0] * part.shape[2] for part in self._parts]
        self._columns = [slice(end - width, end) for end, width in zip(np.cumsum(widths).tolist(), widths, strict=True)]
        token_words = sum(widths)
        self._chunk = max(1, chunk_bytes // (4 * PAGE * token_words))  # pages
        device = parts[0].device
        shape = (OUT_CHUNKS + BACK_CHUNKS, self._chunk * PAGE, token_words)
        self._staging = torch.empty(shape, dtype=torch.int32, device=device)
        self._weights = checksum_weights(PAGE * token_words).to(device)
        self._copied: list[Event | None] = [None] * OUT_CHUNKS  # when the chunk may be written again
        self._turn = 0
        self.stalls = 0

    def out(self, leaving: Sequence[Leaving]) -> Departure:
        step, out, _, pinned = self._streams
        slots = np.concatenate([_whole_pages(_slots_of(one.extents)) for one in leaving])
        counts = [sum(map(len, one.pages)) for one in leaving]
        sums, there = pinned(sum(counts)), _Later()
        step.launch(partial(self._upload, slots, there))
        started = None
        for begin, runs in _chunks([run for one in leaving for run in one.pages], self._chunk):
            rows, count = self._room(), sum(map(len, runs))
            step.launch(partial(self._gather, rows, there, begin * PAGE, count * PAGE))
            out.follow(step.record())
            started = started or out.record()
            out.launch(partial(self._send, rows, runs, sums[begin : begin + count]))
            copied = self._copied[self._turn] = out.record()
            self._turn = (self._turn + 1) % OUT_CHUNKS
        assert started is not None, "KV of no tokens"
        return _Departure(started, copied, sums, counts)

    def mark(self) -> Mark:
        return self._streams.step.record()

    def back(self, found: Found, extents: Int32, after: Mark) -> float:
        began = time.perf_counter()
        stream = self._streams.back
        slots, lane = _slots_of(extents), found.first % PAGE
        chunks = list(_chunks(found.pages, self._chunk))
        there = _Later()
        stream.launch(partial(self._upload, slots, there))
        coming = [self._fetch(0, chunks[0][1])]
        try:
            for number, (begin, runs) in enumerate(chunks):
                if number + 1 < len(chunks):
                    coming.append(self._fetch(number + 1, chunks[number + 1][1]))
                rows, arrived, sums = coming[number]
                arrived.wait()
                for page, checksum in enumerate(sums.tolist(), begin):
                    check_page(found, page, checksum)
                if not number:
                    reached = time.perf_counter()
                    after.wait()
                    began += time.perf_counter() - reached
                at = begin * PAGE
                low, high = max(at, lane), min(at + sum(map(len, runs)) * PAGE, lane + len(slots))
                stream.launch(partial(self._scatter, rows[low - at : high - at], there, low - lane))
        finally:  # also when a page is corrupt: nothing is written to the slots any more
            stream.record().wait()
        return time.perf_counter() - began

    def _room(self) -> torch.Tensor:
        """The next chunk of staging, [tokens, token_words]; the steps' stream waits until it may be written."""
        copied = self._copied[self._turn]
        if copied is not None and not copied.done():
            self.stalls += 1
            self._streams.step.follow(copied)
        return self._staging[self._turn]

    def _fetch(self, number: int, runs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Event, torch.Tensor]:
        """The chunk `number` of an entry: where it is going to be, when it is there, and its pages' checksums then."""
        rows = self._staging[OUT_CHUNKS + number % BACK_CHUNKS]
        sums = self._streams.pinned(sum(map(len, runs)))
        self._streams.back.launch(partial(self._receive, rows, runs, sums))
        return rows, self._streams.back.record(), sums

    def _gather(self, rows: torch.Tensor, slots: _Later, first: int, count: int) -> None:
        for part, staged in zip(self._parts, self._by_part(rows[:count]), strict=True):
            self._copies.gather(part, slots.made[first : first + count], staged)

    def _scatter(self, rows: torch.Tensor, slots: _Later, first: int) -> None:
        for part, staged in zip(self._parts, self._by_part(rows), strict=True):
            self._copies.scatter(part, slots.made[first : first + len(rows)], staged)

    def _by_part(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Views of staged tokens, [tokens, layers, words] each."""
        parts = zip(self._parts, self._columns, strict=True)
        return [rows[:, words].view(len(rows), part.shape[0], part.shape[2]) for part, words in parts]

    def _send(self, rows: torch.Tensor, runs: Sequence[torch.Tensor], sums: torch.Tensor) -> None:
        pages = rows.view(self._chunk, -1)[: len(sums)]
        sums.copy_(self._copies.checksums(pages, self._weights), non_blocking=True)
        for run, staged in _side_by_side(runs, pages):
            run.copy_(staged, non_blocking=True)

    def _receive(self, rows: torch.Tensor, runs: Sequence[torch.Tensor], sums: torch.Tensor) -> None:
        pages = rows.view(self._chunk, -1)[: len(sums)]
        for run, staged in _side_by_side(runs, pages):
            staged.copy_(run, non_blocking=True)
        sums.copy_(self._copies.checksums(pages, self._weights), non_blocking=True)

    def _upload(self, slots: Int64, there: _Later) -> None:
        """In the stream that is current. Host memory of its own, which torch uses again when the copy has run."""
        host = self._streams.pinned(len(slots))
        host.copy_(torch.from_numpy(slots))
        there.made = host.to(self._staging.device, non_blocking=True)


class _Later:
    """What one launch makes and others use."""

    made: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Departure:
    started: Event
    copied: Event
    sums: torch.Tensor
    counts: list[int]  # pages of each entry

    def done(self) -> bool:
        try:
            return self.copied.done()
        except RuntimeError:  # the device has failed, which `wait` says
            return True

    def wait(self) -> Landed:
        self.copied.wait()
        sums = iter(self.sums.tolist())
        return Landed([list(islice(sums, count)) for count in self.counts], self.copied.since(self.started))


def _chunks(runs: Sequence[torch.Tensor], most: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Runs of pages in groups of `most` pages, but for the last: (number of its first page, runs)."""
    begin, chunk, room = 0, list[torch.Tensor](), most
    for run in runs:
        while len(run):
            piece, run = run[:room], run[room:]
            chunk.append(piece)
            room -= len(piece)
            if not room:
                yield begin, chunk
                begin, chunk, room = begin + most, [], most
    if chunk:
        yield begin, chunk


def _side_by_side(runs: Sequence[torch.Tensor], pages: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each run with its part of `pages`."""
    at = 0
    for run in runs:
        yield run, pages[at : at + len(run)]
        at += len(run)


def _slots_of(extents: Int32) -> Int64:
    """The slots of `extents` [n, 2] (start, length), in order."""
    starts, lengths = extents[:, 0].astype(np.int64), extents[:, 1]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _whole_pages(slots: Int64) -> Int64:
    """Filled up with the last slot; what the rest of a page holds is nothing to anybody."""
    return np.pad(slots, (0, -len(slots) % PAGE), mode="edge")
