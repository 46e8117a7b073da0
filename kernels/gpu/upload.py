"""Many small arrays to the device in one copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_ALIGN = 4  # words: 16 bytes, as vector loads want them


class Upload:
    """A page-locked buffer and its twin on the device, which grow with what they are given.

    What `put` returned is overwritten by the next `put`; before that, the device must be done with the last one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(0, dtype=torch.int32)
        self._there = torch.empty(0, dtype=torch.int32, device=device)

    def put(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
        """The arrays (of 32 or 64 bits) on the device, by their names, as flat int32. Arrays of the same sizes in the
        same order lie where they lay before."""
        words = {name: np.ascontiguousarray(array).reshape(-1).view(np.int32) for name, array in arrays.items()}
        ends = np.cumsum([0, *(-(-len(array) // _ALIGN) * _ALIGN for array in words.values())]).tolist()
        end = ends[-1]
        if end > len(self._host):
            self._host = torch.empty(2 * end, dtype=torch.int32, pin_memory=self._device.type == "cuda")
            self._there = torch.empty(2 * end, dtype=torch.int32, device=self._device)
        host = self._host.numpy()
        for array, place in zip(words.values(), ends, strict=False):
            host[place : place + len(array)] = array
        self._there[:end].copy_(self._host[:end], non_blocking=True)
        places = zip(words.items(), ends, strict=False)
        return {name: self._there[place : place + len(array)] for (name, array), place in places}
