"""Quantised weights as integers, scales and minimums: w = scale * q + minimum per group of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix [outputs, inputs].

    Attributes:
        q: uint8 or int8 [outputs, inputs]; of 4 bits: 0..15.
        scale: float16 or float32 [outputs, inputs / group].
        minimum: the same, or None if it is 0 everywhere.
    """

    bits: int  # 4 or 8
    q: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor | None

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.scale.shape[1]

    def dequantise(self) -> torch.Tensor:
        """float32 [outputs, inputs]."""
        outputs, inputs = self.q.shape
        w = self.q.view(outputs, -1, self.group).float() * self.scale.float()[..., None]
        if self.minimum is not None:
            w += self.minimum.float()[..., None]
        return w.view(outputs, inputs)


class Quantised(Protocol):
    """A weight as a file stores it, read when asked for: a matrix `shape` = (outputs, inputs)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def integers(self) -> Integers: ...

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """The dequantised matrix."""
        ...
