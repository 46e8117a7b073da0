"""Weights as native/linear.h reads them: panels of sixteen outputs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pavane.kernels.quantised import Integers

PANEL, PADDING = 16, 32  # outputs and inputs are padded with zeros to multiples of these
_FORMATS = {4: 0, 8: 1, 16: 2}


class LinearStruct(ctypes.Structure):
    """Linear of native/linear.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("outputs", "inputs", "format", "group", "wide")),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "minimums", "bias")),
    ]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A weight ready for the kernels; keeps alive what the struct points to."""

    struct: LinearStruct
    tensors: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def pack(weight: torch.Tensor | Integers, bias: torch.Tensor | None = None) -> PackedLinear:
    """Packs [outputs, inputs]; a tensor of floats is kept in bfloat16. `bias` is [outputs]."""
    if isinstance(weight, Integers):
        bits, matrix, scale, minimum = weight.bits, weight.q, weight.scale, weight.minimum
        group, wide = weight.group, scale.dtype is torch.float32
    else:
        bits, matrix, scale, minimum, group, wide = 16, weight.to(torch.bfloat16), None, None, 32, False
    outputs, inputs = matrix.shape
    panels = _panels(matrix)
    if bits == 4:
        nibbles = panels.reshape(len(panels), -1, 4, 2 * PANEL).to(torch.int32)
        words = nibbles[:, :, 0] | nibbles[:, :, 1] << 4 | nibbles[:, :, 2] << 8 | nibbles[:, :, 3] << 12
        panels = words.to(torch.uint16)
    tensors = [panels.contiguous()]
    pointers: list[int | None] = []
    for extra in (None if scale is None else _grouped(scale), None if minimum is None else _grouped(minimum), bias):
        if extra is None:
            pointers.append(None)
            continue
        kept = extra.float().contiguous() if extra is bias else extra
        tensors.append(kept)
        pointers.append(kept.data_ptr())
    struct = LinearStruct(outputs, inputs, _FORMATS[bits], group, wide, tensors[0].data_ptr(), *pointers)
    return PackedLinear(struct, tuple(tensors))


def _panels(matrix: torch.Tensor) -> torch.Tensor:
    """[panels, padded inputs / 2, PANEL, 2]."""
    outputs, inputs = matrix.shape
    if outputs % PANEL or inputs % PADDING:
        matrix = F.pad(matrix, (0, -inputs % PADDING, 0, -outputs % PANEL))
    return matrix.view(-1, PANEL, matrix.shape[1] // 2, 2).permute(0, 2, 1, 3)


def _grouped(scale: torch.Tensor) -> torch.Tensor:
    """[outputs, groups] -> [panels, groups, PANEL]."""
    scale = F.pad(scale, (0, 0, 0, -len(scale) % PANEL))
    return scale.view(-1, PANEL, scale.shape[1]).transpose(1, 2).contiguous()
