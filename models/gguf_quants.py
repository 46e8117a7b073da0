"""The block formats of GGUF that the kernels read as they are, after ggml's definitions (ggml-common.h, ggml-quants.c).

A block holds 32 weights, a "K" block 256 in sub-blocks with small integer scales of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.quantised import Integers
from pavane.models.errors import ModelError

Bytes = npt.NDArray[np.uint8]
Decoded = tuple[int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]  # bits, q, scale, minimum


def _half(blocks: Bytes, at: int) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)


def _nibbles(packed: Bytes) -> Bytes:
    """[..., n] bytes -> [..., 2n]: the low halves, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(packed: Bytes) -> Bytes:
    return np.unpackbits(packed, axis=-1, bitorder="little") * np.uint8(16)


def _q4_0(b: Bytes) -> Decoded:
    d = _half(b, 0)
    return 4, _nibbles(b[:, 2:]), d, d * np.float16(-8)


def _q4_1(b: Bytes) -> Decoded:
    return 4, _nibbles(b[:, 4:]), _half(b, 0), _half(b, 2)


def _q5_0(b: Bytes) -> Decoded:
    return 8, (_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6])).astype(np.int8) - np.int8(16), _half(b, 0), None


def _q5_1(b: Bytes) -> Decoded:
    return 8, (_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8])).astype(np.int8), _half(b, 0), _half(b, 2)


def _q8_0(b: Bytes) -> Decoded:
    return 8, np.ascontiguousarray(b[:, 2:]).view(np.int8), _half(b, 0), None


def _k_scales(b: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Scale and minimum of the eight sub-blocks of Q4_K and Q5_K: six bits each, in bytes 4 to 16."""
    first, second, third = (b[:, at : at + 4] for at in (4, 8, 12))
    scale = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    d, dmin = _half(b, 0).astype(np.float32), _half(b, 2).astype(np.float32)
    return d * scale, -(dmin * minimum)


def _q4_k(b: Bytes) -> Decoded:
    return 4, _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 256), *_k_scales(b)


def _q5_k(b: Bytes) -> Decoded:
    high = (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4  # bit i belongs to sub-block i
    q = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | high
    return 8, q.reshape(-1, 256).astype(np.int8), *_k_scales(b)


def _q6_k(b: Bytes) -> Decoded:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)  # of each half of the block
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None] & 3
    q = (low | high << 4).reshape(-1, 256).astype(np.int8) - np.int8(32)
    scale = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32) * _half(b, 208).astype(np.float32)
    return 8, q, scale, None


_DECODERS: dict[str, Callable[[Bytes], Decoded]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip


def readable(quantisation: gguf.GGMLQuantizationType) -> bool:
    """Whether `decode` knows this type."""
    return quantisation.name in _DECODERS


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix as it lies in the mapped file: nothing is copied before it is decoded."""

    name: str
    quantisation: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    data: Bytes  # [outputs, bytes of a row]

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """The dequantised matrix. Raises ModelError like `integers`."""
        return self.integers().dequantise().to(dtype)

    def rows(self, order: torch.Tensor) -> Blocks:
        """The rows `order` of the matrix."""
        return replace(self, data=self.data[order.numpy()])

    def first_rows(self, count: int) -> Blocks:
        """The matrix without its rows from `count` on."""
        return replace(self, shape=(count, *self.shape[1:]), data=self.data[:count])

    def integers(self) -> Integers:
        """Raises ModelError if a scale is not finite."""
        outputs, inputs = self.shape
        _, size = gguf.GGML_QUANT_SIZES[self.quantisation]
        blocks = np.ascontiguousarray(self.data).reshape(-1, size)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            bits, q, scale, minimum = _DECODERS[self.quantisation.name](blocks)
        if not (np.isfinite(scale).all() and (minimum is None or np.isfinite(minimum).all())):
            raise ModelError(f"tensor {self.name} has scales that are not finite; download the file again")
        return Integers(
            bits,
            torch.from_numpy(np.ascontiguousarray(q).reshape(outputs, inputs)),
            torch.from_numpy(np.ascontiguousarray(scale).reshape(outputs, -1)),
            None if minimum is None else torch.from_numpy(np.ascontiguousarray(minimum).reshape(outputs, -1)),
        )
