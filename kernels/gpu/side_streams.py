"""The streams that KV is carried by beside the steps', and memory that a device can copy to while the host goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from pavane.kernels.carrier import Mark

log = logging.getLogger(__name__)


class Event(Mark, Protocol):
    """A point in a stream. All raise RuntimeError if the device has failed."""

    def since(self, earlier: Event) -> float:
        """Seconds between two points of a stream that are both done."""
        ...


class Stream(Protocol):
    """Runs what is launched in order, some time later; any thread may launch."""

    def launch(self, work: Callable[[], None]) -> None:
        """`work` calls torch's operations, none of which waits for the device."""
        ...

    def record(self) -> Event: ...

    def follow(self, event: Event) -> None:
        """What is launched from now on runs after `event` of another stream."""
        ...


class Streams(NamedTuple):
    step: Stream  # that the forward pass is launched on
    out: Stream
    back: Stream
    pinned: Callable[[int], torch.Tensor]  # int64 [n] in memory that copies to it need not wait for


class _CudaEvent:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        self._event.record(stream)

    def done(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self._event.synchronize()

    def since(self, earlier: Event) -> float:
        assert isinstance(earlier, _CudaEvent)
        return float(earlier._event.elapsed_time(self._event)) / 1000

    def holds_up(self, stream: torch.cuda.Stream) -> None:
        stream.wait_event(self._event)


class _CudaStream:
    """`stream`: None for the calling thread's current one."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device = device
        self._own = stream

    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device) if self._own is None else self._own

    def launch(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream()):
            work()

    def record(self) -> Event:
        return _CudaEvent(self._stream())

    def follow(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        event.holds_up(self._stream())


def cuda_streams(device: torch.device) -> Streams:
    def pinned(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int64, pin_memory=True)

    out, back = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    return Streams(_CudaStream(device, None), _CudaStream(device, out), _CudaStream(device, back), pinned)


def pin(memory: torch.Tensor) -> Callable[[], None]:
    """Locks CPU memory for CUDA devices as it is: what torch allocates as pinned is rounded up to a power of two. The
    result unlocks it. Raises MemoryError."""
    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address, size = memory.data_ptr(), memory.nbytes
    log.info("locking %.1f GB of host memory for the GPU", size / 1e9)  # takes seconds where it is a hundred
    error = cudart.cudaHostRegister(address, size, 1)  # 1: for all devices
    if int(error):
        raise MemoryError(f"the system locks no {size / 1e9:.1f} GB of memory for the GPU (CUDA error {int(error)})")

    def unpin() -> None:
        cudart.cudaHostUnregister(address)

    return unpin
