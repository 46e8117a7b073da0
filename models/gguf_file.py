"""Reading GGUF files: metadata as plain values, tensors dequantised one at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import numpy.typing as npt
import torch

from pavane.models.errors import ModelError

# Elements dequantised at once: bounds what a large embedding matrix needs beside its result.
_BLOCK_ELEMENTS = 1 << 24

_UNQUANTISED = ("F64", "I8", "I16", "I32", "I64")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as stored: `shape` in torch's order (outermost first), `data` a view of the mapped file."""

    name: str
    shape: tuple[int, ...]
    quantisation: gguf.GGMLQuantizationType
    data: npt.NDArray[Any]

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        """The dequantised tensor, `shape` elements of `dtype`, in memory of its own.

        Raises:
            ModelError: the type cannot be dequantised, or a value is not finite in `dtype`.
        """
        if self.quantisation.name in _UNQUANTISED:
            raise ModelError(f"tensor {self.name} has type {self.quantisation.name}; convert the model to F16 or Q8_0")
        out = torch.empty(self.shape, dtype=dtype)
        rows = out if out.dim() > 1 else out[None]
        stored = self.data if out.dim() > 1 else self.data[None]
        step = max(1, _BLOCK_ELEMENTS // max(1, rows[0].numel()))
        for begin in range(0, len(rows), step):
            rows[begin : begin + step] = torch.from_numpy(self._dequantise(stored[begin : begin + step]))
        if not bool(torch.isfinite(out.sum(dtype=torch.float64))) and not bool(torch.isfinite(out).all()):
            raise ModelError(
                f"tensor {self.name} has values that are not finite in {dtype}; download the file again, or use a "
                "wider dtype"
            )
        return out

    def _dequantise(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            values = gguf.dequantize(stored, self.quantisation)
        except NotImplementedError as error:  # how the library says that it does not know the type
            raise ModelError(
                f"tensor {self.name} has type {self.quantisation.name}, which cannot be dequantised; convert the model "
                "to F16 or Q8_0"
            ) from error
        # F32 is a view of the read-only file, which torch would take for writable memory.
        return values if values.flags.writeable else values.copy()


@dataclass(frozen=True)
class GgufFile:
    """The metadata (str, int, float, bool, or lists of these) and tensors of one file."""

    fields: dict[str, object]
    tensors: dict[str, GgufTensor]


class _Reader(gguf.GGUFReader):
    """The reader takes what lies beyond the end of the file for empty and then may read on without end."""

    def _get(self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Any = None) -> npt.NDArray[Any]:
        values = super()._get(offset, dtype, count, override_order)
        if len(values) != count:
            raise ValueError(f"the file ends before byte {offset} + {count} values")
        return values


def open_gguf(path: Path) -> GgufFile:
    """Map a GGUF file into memory and read its metadata.

    Raises:
        ModelError: there is no such file, or it is not GGUF, truncated or corrupt.
    """
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; give the path of a GGUF file")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file; give one, or a Hugging Face folder")
    try:
        # Offsets of a corrupt file may overflow.
        with np.errstate(over="raise"):
            reader = _Reader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, OSError) as error:
        raise ModelError(f"{path} is truncated or corrupt ({error}); download it again") from error
    if reader.byte_order != "I":
        raise ModelError(f"{path} has the other byte order than this machine; convert the model for it")
    tensors = {
        tensor.name: GgufTensor(
            name=tensor.name,
            shape=tuple(reversed(cast(list[int], tensor.shape.tolist()))),
            quantisation=tensor.tensor_type,
            data=tensor.data,
        )
        for tensor in reader.tensors
    }
    return GgufFile(fields=fields, tensors=tensors)
