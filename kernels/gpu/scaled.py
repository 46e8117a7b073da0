"""Matrices of 8 bits, and their products: the values in float8 (e4m3), with one scale for each row.

A row's scale takes its largest number to the largest that e4m3 holds, 448, so that numbers within 2**-15 of it keep 3
bits of mantissa. Weights have a scale per output and activations one per row, so a product is scaled row by row and
column by column when its sum is done.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
MULTIPLE = 16  # of both sizes of a matrix: what CUDA's kernels for float8 take


class Scaled(NamedTuple):
    """The matrix values * scales."""

    values: torch.Tensor  # float8_e4m3fn [rows, size]
    scales: torch.Tensor  # float32 [rows, 1]


def torch_quantise(x: torch.Tensor) -> Scaled:
    """Of x [rows, size]; a row of zeros has the scale 1, and one with a number that is none gives such."""
    wide = x.float()
    peak = wide.abs().amax(dim=1, keepdim=True)
    scales = torch.where(peak == 0, 1.0, peak / LARGEST)
    return Scaled((wide / scales).clamp(-LARGEST, LARGEST).to(FLOAT8), scales)


def product(x: Scaled, weight: Scaled, bias: torch.Tensor | None) -> torch.Tensor:
    """x weight^T + bias, bfloat16 [rows, outputs], for x [rows, inputs] and weight [outputs, inputs]; sums in float32,
    also between the tensor cores' own short ones."""
    return torch._scaled_mm(
        x.values, weight.values.t(), scale_a=x.scales, scale_b=weight.scales.t(), bias=bias,
        out_dtype=torch.bfloat16, use_fast_accum=False,
    )  # fmt: skip
