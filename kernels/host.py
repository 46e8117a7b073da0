"""A second place for KV that has no slots at the moment: the interface of such a tier, and the one in host memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from pavane.kernels.pages import PAGE

Pin = Callable[[torch.Tensor], Callable[[], None]]


class TierError(Exception):
    """An entry cannot be stored or read; the text names it. Its KV has to be computed again."""


class TierFullError(TierError):
    """The tier has no room for the entry."""


class MissingEntryError(TierError):
    """There is no such entry, or not that much of it."""


class CorruptEntryError(TierError):
    """What was stored is not what is there now."""


class Found(NamedTuple):
    """Pages of an entry, from the one that holds token `first` on."""

    key: bytes
    first: int
    pages: Sequence[torch.Tensor]  # int32 [n, page_words] each: runs of neighbours, one after the other
    sums: Sequence[int]  # of each page, as they were stored


class KVTier(Protocol):
    """Keeps pages (see `kernels.pages`) under keys that stand for their content. What is in a page, and what its
    checksum is, is told it; whoever reads one checks it.

    One thread at a time calls `reserve`, `store` and `drop`; another may `find` meanwhile, and what it found stays as
    it is until the key is dropped.
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

    def reserve(self, key: bytes, tokens: int) -> Sequence[torch.Tensor] | None:
        """Where the pages of a new entry are to be written, as `Found.pages`; None if there is such an entry already.
        Raises TierFullError; then there is none."""
        ...

    def store(self, key: bytes, sums: Sequence[int]) -> None:
        """The pages of `key` are written: from now on it is found."""
        ...

    def find(self, key: bytes, first: int, count: int) -> Found:
        """Tokens [first, first + count) of an entry, in whole pages. Raises MissingEntryError."""
        ...

    def drop(self, key: bytes) -> None:
        """Forgets the entry, if there is one."""
        ...

    def __contains__(self, key: bytes) -> bool: ...


@dataclass(slots=True)
class _Entry:
    tokens: int
    pages: tuple[int, ...]
    sums: tuple[int, ...] | None = None  # None until it is stored


class HostTier:
    """A KVTier in CPU memory, allocated once. It is resident as far as it was used, or all of it where it is pinned
    for a device."""

    def __init__(self, page_bytes: int, capacity: int, pin: Pin | None = None) -> None:
        """`capacity` is in bytes. `pin` locks the memory for a device, and returns what unlocks it.

        Raises:
            ValueError: not even one page fits.
            MemoryError: there is not as much memory; from `pin`, it cannot be locked.
        """
        count = capacity // page_bytes
        if count < 1:
            raise ValueError(f"a host tier of {capacity} bytes is too small: a page takes {page_bytes}")
        self._page_bytes = page_bytes
        try:
            self._memory = torch.empty((count, page_bytes // 4), dtype=torch.int32)
        except RuntimeError as error:
            raise MemoryError(f"there are no {count * page_bytes / 1e9:.1f} GB of memory: {error}") from None
        if pin is not None:
            weakref.finalize(self, pin(self._memory)).atexit = False  # the system does it then
        self._free = list(range(count))[::-1]
        self._entries: dict[bytes, _Entry] = {}

    @property
    def page_bytes(self) -> int:
        return self._page_bytes

    @property
    def capacity(self) -> int:
        return len(self._memory) * self._page_bytes

    @property
    def used(self) -> int:
        return (len(self._memory) - len(self._free)) * self._page_bytes

    def reserve(self, key: bytes, tokens: int) -> Sequence[torch.Tensor] | None:
        if key in self._entries:
            return None
        needed = -(-tokens // PAGE)
        if needed > len(self._free):
            raise TierFullError(
                f"no room for the KV of {tokens} tokens ({_name(key)}): {needed} pages needed, {len(self._free)} free"
            )
        pages = tuple(self._free.pop() for _ in range(needed))
        self._entries[key] = _Entry(tokens, pages)
        return self._runs(pages)

    def store(self, key: bytes, sums: Sequence[int]) -> None:
        self._entries[key].sums = tuple(sums)

    def find(self, key: bytes, first: int, count: int) -> Found:
        entry = self._entries.get(key)
        stored = 0 if entry is None or entry.sums is None else entry.tokens
        if entry is None or entry.sums is None or first + count > stored:
            raise MissingEntryError(f"tokens {first} to {first + count} of {_name(key)} asked for, {stored} are stored")
        wanted = slice(first // PAGE, -(-(first + count) // PAGE))
        return Found(key, first, self._runs(entry.pages[wanted]), entry.sums[wanted])

    def drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._free.extend(reversed(entry.pages))  # taken again in the same order

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def _runs(self, pages: Sequence[int]) -> list[torch.Tensor]:
        """The memory of `pages`, neighbours in one piece: few and large copies."""
        runs: list[tuple[int, int]] = []
        for page in pages:
            if runs and runs[-1][1] == page:
                runs[-1] = (runs[-1][0], page + 1)
            else:
                runs.append((page, page + 1))
        return [self._memory[begin:end] for begin, end in runs]


def check_page(found: Found, number: int, checksum: int) -> None:
    """Raises CorruptEntryError if the page `number` of what was found has another checksum than when it was stored."""
    if checksum != found.sums[number]:
        which = found.first // PAGE + number
        raise CorruptEntryError(f"page {which} of {_name(found.key)} is not what was stored: faulty memory?")


def _name(key: bytes) -> str:
    return f"entry {key.hex()}"
