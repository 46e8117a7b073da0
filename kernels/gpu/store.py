"""The KV pool on a device."""

from __future__ import annotations

import torch


class DeviceKV:
    """K (rotated where it was encoded) and V: [layers, slots + 1, kv_heads, head_dim] each; the last slot is written by
    padding rows and read by nobody. Never initialised: no slot is read before it is written."""

    def __init__(
        self, layers: int, slots: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (layers, slots + 1, kv_heads, head_dim)
        self.k, self.v = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))

    @property
    def slots(self) -> int:
        return self.k.shape[1] - 1

    @property
    def spare(self) -> int:
        """The slot of padding rows."""
        return self.slots

    @staticmethod
    def slot_bytes(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        return 2 * layers * kv_heads * head_dim * dtype.itemsize

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V where they lie, as `SlotPages` wants them: int32 [layers, 1, 1, slots, words]."""
        return _words(self.k), _words(self.v)


def _words(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(2).view(torch.int32)[:, None, None, :-1]
