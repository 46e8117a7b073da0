"""How Triton kernels are declared here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit`, which has no types: of what other kernels call. Under TRITON_INTERPRET=1, set before this module is
    imported, kernels run in numpy on CPU tensors."""
    return triton.jit(function)


def launched(*, counts: Sequence[str] = (), anywhere: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Of what is launched. Triton compiles a kernel anew for each pattern of whole numbers that are 1 or multiples of
    16, and of pointers that are multiples of 16 bytes; a server would stop for that in the middle of its work. So
    `counts` names the numbers that change from step to step, and `anywhere` the pointers to parts of larger arrays:
    these make no difference, and one compilation serves a model."""

    def decorate(function: Callable[..., Any]) -> Any:
        return triton.jit(do_not_specialize=[*counts], do_not_specialize_on_alignment=[*anywhere])(function)

    return decorate


def power_of_two(n: int) -> int:
    """The smallest one that is not below `n` >= 1: the length of a Triton block."""
    return 1 << (n - 1).bit_length()
