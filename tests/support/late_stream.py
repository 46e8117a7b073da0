"""A stream whose copies a device might make as late as it may, and which notices who did not wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from pavane.kernels.gpu.wrappers import Library
from support.flashinfer_standin import PagedStandIn, RaggedStandIn

NOT_THERE = -77


class _Copy(NamedTuple):
    to: torch.Tensor
    source: torch.Tensor
    content: torch.Tensor  # of `source` when it was queued
    brought: bool


class LateStream:
    """Memory of the host that is sent is looked at again when a mark behind it is waited for: had it been changed
    meanwhile, a device that was late would have got something else. What is brought is there only then. `behind`
    counts the most copies that were queued at a time."""

    def __init__(self) -> None:
        self._copies: list[_Copy] = []
        self._made = 0
        self._lock = threading.Lock()
        self.behind = 0

    def send(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source)  # what runs behind it on the device is computed at once here
        self._queue(_Copy(to, source, source.clone(), False))

    def bring(self, to: torch.Tensor, source: torch.Tensor) -> None:
        with self._lock:
            waiting = self._copies[self._made :]
        mine = range(to.data_ptr(), to.data_ptr() + to.nbytes)
        for other in waiting:
            if other.brought:
                assert other.to.data_ptr() not in mine, "brought to where something else is still to come"
        self._queue(_Copy(to, source, source.clone(), True))
        to.fill_(NOT_THERE)

    def mark(self) -> Callable[[], None]:
        with self._lock:
            here = len(self._copies)

        def wait() -> None:
            with self._lock:
                for copy in self._copies[self._made : here]:
                    if copy.brought:
                        copy.to.copy_(copy.content)
                    else:
                        assert torch.equal(copy.source, copy.content), "overwritten before it was sent"
                self._made = max(self._made, here)

        return wait

    def _queue(self, copy: _Copy) -> None:
        with self._lock:
            self._copies.append(copy)
            self.behind = max(self.behind, len(self._copies) - self._made)


def library_on(stream: LateStream) -> Library:
    """FlashInfer's stand-ins, with the page-locked buffer that the real ones fill and send when they plan; they send
    the lengths and places that they are given from where these lie."""

    class Planned:
        def _set_up(self) -> None:
            self._pinned, self._there = (torch.zeros(8, dtype=torch.int32) for _ in range(2))
            self._plans = 0

        def _send(self, *given: torch.Tensor | None) -> None:
            self._plans += 1
            self._pinned.fill_(self._plans)
            stream.send(self._there, self._pinned)
            for array in given:
                if array is not None:
                    stream.send(torch.empty_like(array), array)

    class Paged(PagedStandIn, Planned):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._set_up()

        def plan(self, *args: Any, **options: Any) -> None:
            super().plan(*args, **options)
            assert options["seq_lens"] is not None, "the real one would send lengths out of memory that is not locked"
            self._send(args[0], args[1], args[3], options["seq_lens"])

    class Ragged(RaggedStandIn, Planned):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._set_up()

        def plan(self, *args: Any, **options: Any) -> None:
            super().plan(*args, **options)
            self._send(args[0], args[1])

    return Library(Paged, Ragged)
