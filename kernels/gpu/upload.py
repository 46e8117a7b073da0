"""Many small arrays to the device in one copy, out of page-locked memory that is used again step after step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Int32
from pavane.kernels.gpu.stream import DeviceStream, Stream

_ALIGN = 4  # words: 16 bytes, as vector loads want them
_LEAST = 1 << 14  # words


class Staging:
    """Host memory that a step's copies to the device begin in, page-locked if there is a device. What is taken belongs
    to the taker until the next `step` begins, which waits until all copies of this one have been made: they may be
    queued behind a step that still runs."""

    def __init__(self, device: torch.device, stream: Stream | None = None) -> None:
        self.device = device
        self.stream = stream or DeviceStream(device)
        self._memory = torch.empty(0, dtype=torch.int32)
        self._used = 0
        self._wait = self.stream.mark()

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is copied within it, FlashInfer's own copies included, may be written again within the next one."""
        self._wait()
        self._used = 0
        try:
            yield
        finally:
            self._wait = self.stream.mark()

    def take(self, words: int) -> torch.Tensor:
        """int32 [words], not initialised."""
        if self._used + words > len(self._memory):  # what was taken of the old memory keeps it alive
            size = max(_LEAST, 2 * (self._used + words))
            self._memory = torch.empty(size, dtype=torch.int32, pin_memory=self.device.type == "cuda")
            self._used = 0
        begin = self._used
        self._used += -(-words // _ALIGN) * _ALIGN
        return self._memory[begin : begin + words]

    def hold(self, array: Int32) -> torch.Tensor:
        """A copy of `array`."""
        held = self.take(len(array))
        held.numpy()[:] = array
        return held


class Upload:
    """Memory on the device that grows with what it is given. What `put` returned is overwritten by the next `put`, in
    the order of the stream."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._there = torch.empty(0, dtype=torch.int32, device=staging.device)

    def put(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
        """The arrays (of 32 or 64 bits) on the device, by their names, as flat int32. Arrays of the same sizes in the
        same order lie where they lay before."""
        words = {name: np.ascontiguousarray(array).reshape(-1).view(np.int32) for name, array in arrays.items()}
        ends = np.cumsum([0, *(-(-len(array) // _ALIGN) * _ALIGN for array in words.values())]).tolist()
        end = ends[-1]
        if end > len(self._there):
            self._there = torch.empty(2 * end, dtype=torch.int32, device=self._staging.device)
        host = self._staging.take(end)
        filled = host.numpy()
        for array, place in zip(words.values(), ends, strict=False):
            filled[place : place + len(array)] = array
        self._staging.stream.send(self._there[:end], host)
        places = zip(words.items(), ends, strict=False)
        return {name: self._there[place : place + len(array)] for (name, array), place in places}
