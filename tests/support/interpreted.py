"""Where tests run Triton kernels: on a GPU if there is one, else in Triton's interpreter, in numpy on CPU tensors."""

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8e4nv": torch.float8_e4m3fn}


def _convert_float(values: Any, source: Any, target: Any, rounding: object) -> Any:
    """Bits of `values` in another format, rounded to nearest even as a GPU does. Triton 3.6 cuts bfloat16 off, and
    loses what carries into the exponent of float8."""
    given = torch.from_numpy(np.ascontiguousarray(values).view(f"u{values.itemsize}")).view(_DTYPES[source.name])
    made = given.to(_DTYPES[target.name])
    return made.view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32}[made.itemsize]).numpy().reshape(values.shape)


def _create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: object, max_num_imprecise_acc: object) -> Any:
    """As a tensor core, up to the order of its sums: products of what the operands are, added up wider than float32.
    Triton 3.6 multiplies the bits of bfloat16; and a BLAS may treat the rows of a matrix differently."""
    del input_precision, max_num_imprecise_acc
    left, right = (torch.from_numpy(_wide(x)) for x in (a, b))
    total = (left @ right + torch.from_numpy(d.data)).to(torch.float32).numpy()
    return type(d)(total.astype(d.data.dtype), d.dtype.scalar)


def _wide(operand: Any) -> Any:
    """float64."""
    if operand.dtype.scalar.name == "bf16":
        return torch.from_numpy(np.ascontiguousarray(operand.data)).view(torch.bfloat16).double().numpy()
    return np.ascontiguousarray(operand.data).astype(np.float64)


def _mend() -> None:
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        """Triton 3.6 makes whole numbers of scalars by int(array of one element), which numpy has refused since 2.4."""
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._convert_float = _convert_float
    interpreter.InterpreterBuilder.create_dot = _create_dot
    interpreter._patch_lang_tensor = patch_with_index


if DEVICE.type == "cpu" and find_spec("triton"):
    _mend()
