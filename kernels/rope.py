"""Rotary position embedding in the rotate-half layout, from float64 tables over positions -L..2L."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

RopeType = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeParameters:
    """How a model's rotary frequencies come about; they depend on the model alone, never on the sequence.

    Attributes:
        theta: base of the frequencies theta**(-2i/head_dim).
        factor: how many times longer than trained the context was made; of all types but default.
        original_max_position: positions of the training before that; llama3 and yarn.
        low_freq_factor, high_freq_factor: llama3.
        beta_fast, beta_slow, truncate: yarn; full turns within the original context between which it interpolates, and
            whether the range is rounded outwards to whole dimensions.
        attention_factor: yarn; multiplies cos and sin, of queries and of keys.
        divisors: one per frequency, divides it before anything else; empty: all 1.
    """

    theta: float
    type: RopeType = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    divisors: tuple[float, ...] = ()


def rope_frequencies(rope: RopeParameters, head_dim: int) -> tuple[torch.Tensor, float]:
    """Radians per position, float64 [head_dim/2], and what multiplies cos and sin.

    linear: position interpolation (Chen et al. 2023, arXiv 2306.15595). llama3: `apply_scaling` of Meta's
    llama-models, as `_compute_llama3_parameters` of transformers. yarn: NTK-by-parts of Peng et al. 2023 (arXiv
    2309.00071, section 3.2), as `_compute_yarn_parameters` of transformers.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    frequencies = rope.theta**-exponents
    if rope.divisors:
        frequencies = frequencies / torch.tensor(rope.divisors, dtype=torch.float64)
    if rope.type == "linear":
        return frequencies / rope.factor, 1.0
    if rope.type == "llama3":
        turns = rope.original_max_position * frequencies / (2 * math.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        return _blend(frequencies, rope.factor, smooth.clamp(0, 1)), 1.0
    if rope.type == "yarn":
        low, high = _yarn_range(rope, head_dim)
        ramp = (torch.arange(head_dim // 2, dtype=torch.float64) - low) / max(high - low, 0.001)
        return _blend(frequencies, rope.factor, 1 - ramp.clamp(0, 1)), rope.attention_factor
    return frequencies, 1.0


def _blend(frequencies: torch.Tensor, factor: float, kept: torch.Tensor) -> torch.Tensor:
    """From interpolated (kept = 0) to untouched (kept = 1)."""
    return frequencies * (kept + (1 - kept) / factor)


def _yarn_range(rope: RopeParameters, head_dim: int) -> tuple[float, float]:
    """The dimensions between which YaRN goes over from untouched to interpolated."""

    def dimension(turns: float) -> float:
        wavelength = rope.original_max_position / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, head_dim - 1)


_ROWS = 8192  # computed at once: in float64 a long table would take several times its memory


class RopeTable:
    """scale * cos and scale * sin of p * frequency, computed in float64, stored in `dtype`, for p in -length..2*length.

    Attributes:
        cos, sin: [3 * length + 1, head_dim/2]; position p is row `origin` + p.

    Args:
        frequencies: radians per position, float64 [head_dim/2].
        scale: YaRN's attention factor. Keys are rotated once when they are stored and queries once per segment, so
            that every score has it twice.
    """

    def __init__(
        self, frequencies: torch.Tensor, length: int, scale: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> None:
        self.origin = length
        self.cos, self.sin = (torch.empty((3 * length + 1, len(frequencies)), dtype=dtype) for _ in range(2))
        positions = torch.arange(-length, 2 * length + 1, dtype=torch.float64)
        parts = (torch.split(table, _ROWS) for table in (positions, self.cos, self.sin))
        for part, cos, sin in zip(*parts, strict=True):
            angles = part[:, None] * frequencies
            cos.copy_(angles.cos() * scale)
            sin.copy_(angles.sin() * scale)

    @staticmethod
    def nbytes(length: int, head_dim: int) -> int:
        """What a table in float32 takes."""
        return (3 * length + 1) * head_dim * 4

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin), each [n, 1, head_dim] (sin with the sign of rotate-half), for `positions` int64 [n]."""
        rows = positions + self.origin
        cos, sin = self.cos.index_select(0, rows), self.sin.index_select(0, rows)
        return torch.cat([cos, cos], dim=1)[:, None], torch.cat([-sin, sin], dim=1)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """R(p) x for x [n, heads, head_dim] and cos, sin as `RopeTable.at` gives them."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
