"""What a device does in order: copies between it and the host that are queued behind its work, and marks among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Stream(Protocol):
    """The order in which a device works: what is queued is done later than the host goes on. Host memory is page-locked
    here; a copy of any other may wait for all that is queued."""

    def send(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Queues a copy to the device. Until a mark behind it is reached, `source` must stay as it is."""
        ...

    def bring(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Queues a copy to the host, which is there when a mark behind it is reached."""
        ...

    def mark(self) -> Callable[[], None]:
        """Behind all that is queued; what it returns waits until the device has come there, in any thread. Errors of
        the device raise RuntimeError there."""
        ...


class DeviceStream:
    """The current stream of a GPU; on the CPU everything runs at once."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def send(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source, non_blocking=True)

    bring = send

    def mark(self) -> Callable[[], None]:
        if not self._cuda:
            return _nothing
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event.synchronize


def _nothing() -> None:
    """There is nothing to wait for."""
