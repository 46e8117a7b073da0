"""How Triton kernels are declared here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit`, which has no types. Under TRITON_INTERPRET=1, set before this module is imported, kernels run in
    numpy on CPU tensors."""
    return triton.jit(function)


def power_of_two(n: int) -> int:
    """The smallest one that is not below `n` >= 1: the length of a Triton block."""
    return 1 << (n - 1).bit_length()
