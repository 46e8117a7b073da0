"""A second place for KV that has no slots at the moment: the interface of such a tier, and the one in host memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from pavane.kernels.batch import Int32
from pavane.kernels.pages import PAGE, SlotPages, pieces


class TierError(Exception):
    """An entry cannot be stored or read; the text names it. Its KV has to be computed again."""


class TierFullError(TierError):
    """The tier has no room for the entry."""


class MissingEntryError(TierError):
    """There is no such entry, or not that much of it."""


class CorruptEntryError(TierError):
    """What was stored is not what is there now."""


class KVTier(Protocol):
    """Keeps the KV of runs of tokens under keys that stand for their content.

    One thread calls `put` and `drop`, the same or another `get`; never for one key at the same time.
    """

    @property
    def page_bytes(self) -> int:
        """Of PAGE tokens; an entry takes whole pages."""
        ...

    @property
    def capacity(self) -> int:
        """Bytes."""
        ...

    @property
    def used(self) -> int:
        """Bytes."""
        ...

    def put(self, key: bytes, extents: Int32) -> None:
        """Stores what the slots of `extents` ([n, 2]: start, length; in order) hold. Raises TierError; then there is no
        such entry."""
        ...

    def get(self, key: bytes, first: int, extents: Int32) -> None:
        """Writes the entry's tokens from number `first` on to the slots of `extents`, as many as these are. Raises
        TierError; then nothing was written."""
        ...

    def drop(self, key: bytes) -> None:
        """Forgets the entry, if there is one."""
        ...

    def __contains__(self, key: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens: int
    pages: tuple[int, ...]
    sums: tuple[int, ...]  # checksum of each page


class HostTier:
    """A KVTier in pages of CPU memory, allocated once: page-locked where the store is on a device, else resident only
    as far as it was used.

    Pages are checked before anything of them is written back. The checksum is multilinear hashing (Carter and Wegman,
    1979): the sum of the page's 64-bit words times fixed random odd ones, modulo 2^64, so that a change of one word is
    always noticed; it takes half the time of zlib's CRC-32.
    """

    def __init__(self, layout: SlotPages, capacity: int) -> None:
        """`capacity` is in bytes; ValueError if not even one page fits."""
        count = capacity // layout.page_bytes
        if count < 1:
            raise ValueError(f"a host tier of {capacity} bytes is too small: a page takes {layout.page_bytes}")
        self._layout = layout
        self._memory = torch.empty((count, layout.page_words), dtype=torch.int32, pin_memory=layout.pinned)
        self._words = self._memory.view(torch.int64)
        self._weights = _odd_words(layout.page_words // 2)
        self._free = list(range(count))[::-1]
        self._entries: dict[bytes, _Entry] = {}

    @property
    def page_bytes(self) -> int:
        return self._layout.page_bytes

    @property
    def capacity(self) -> int:
        return len(self._memory) * self._layout.page_bytes

    @property
    def used(self) -> int:
        return (len(self._memory) - len(self._free)) * self._layout.page_bytes

    def put(self, key: bytes, extents: Int32) -> None:
        """See KVTier. An entry that is there already stays as it is."""
        if key in self._entries:
            return
        tokens = int(extents[:, 1].sum())
        needed = -(-tokens // PAGE)
        if needed > len(self._free):
            raise TierFullError(
                f"no room for the KV of {tokens} tokens ({_name(key)}): {needed} pages needed, {len(self._free)} free"
            )
        pages = tuple(self._free.pop() for _ in range(needed))
        for page, lane, slot, count in pieces(extents, 0):
            self._layout.read(self._memory[pages[page]], lane, slot, count)
        self._entries[key] = _Entry(tokens, pages, tuple(map(self._checksum, pages)))

    def get(self, key: bytes, first: int, extents: Int32) -> None:
        entry = self._entries.get(key)
        end = first + int(extents[:, 1].sum())
        if entry is None or end > entry.tokens:
            stored = 0 if entry is None else entry.tokens
            raise MissingEntryError(f"tokens {first} to {end} of {_name(key)} asked for, {stored} are stored")
        for number in range(first // PAGE, -(-end // PAGE)):
            if self._checksum(entry.pages[number]) != entry.sums[number]:
                raise CorruptEntryError(f"page {number} of {_name(key)} is not what was stored: faulty memory?")
        for page, lane, slot, count in pieces(extents, first):
            self._layout.write(self._memory[entry.pages[page]], lane, slot, count)

    def drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._free.extend(entry.pages)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def _checksum(self, page: int) -> int:
        return int(torch.dot(self._words[page], self._weights))


def _odd_words(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1


def _name(key: bytes) -> str:
    return f"entry {key.hex()}"
