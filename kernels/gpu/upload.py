"""Many small arrays to the device in one copy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pavane.kernels.batch import Int32

_ALIGN = 4  # words: 16 bytes, as vector loads want them


class Upload:
    """A page-locked buffer and its twin on the device, which grow with what they are given.

    What `put` returned is overwritten by the next `put`; before that, the device must be done with the last one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(0, dtype=torch.int32)
        self._there = torch.empty(0, dtype=torch.int32, device=device)

    def put(self, arrays: Mapping[str, Int32], sizes: Mapping[str, int] | None = None) -> dict[str, torch.Tensor]:
        """The arrays (of 32 bits) on the device, by their names, flat; with `sizes`, that many words of each, so that
        the views lie where they lay before: what an array has no words for keeps what was there."""
        sizes = sizes or {name: array.size for name, array in arrays.items()}
        places: dict[str, int] = {}
        end = 0
        for name, size in sizes.items():
            places[name] = end
            end += -(-size // _ALIGN) * _ALIGN
        if end > len(self._host):
            pinned = self._device.type == "cuda"
            self._host = torch.empty(2 * end, dtype=torch.int32, pin_memory=pinned)
            self._there = torch.empty(2 * end, dtype=torch.int32, device=self._device)
        words = self._host.numpy()
        for name, array in arrays.items():
            flat = np.ascontiguousarray(array).view(np.int32).reshape(-1)
            if len(flat) > sizes[name]:
                raise ValueError(f"{name} has {len(flat)} words, and there is room for {sizes[name]}")
            words[places[name] : places[name] + len(flat)] = flat
        self._there[:end].copy_(self._host[:end], non_blocking=True)
        return {name: self._there[place : place + sizes[name]] for name, place in places.items()}
