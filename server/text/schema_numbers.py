"""JSON schemas are read, and numbers refused that llguidance does not take as they are.

It keeps numbers as doubles and cuts the bounds of integers to 64 bits: a large constant would be generated with other
digits, and a range of which both ends are cut to -2**63 makes it recurse until the stack is full: the process ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

EXACT = 2**53  # integers up to here are doubles
LARGEST = 2**63 - 1  # beyond EXACT, but taken as it is; for many "no bound"


class NumberError(Exception):
    """A number that would not be what it says."""


def parse(text: str) -> object:
    """A JSON schema as an object.

    Raises:
        ValueError, RecursionError: it is not JSON.
        NumberError: a number in it is too large.
    """
    return _DECODER.decode(text)


def in_grammar(text: str) -> Iterator[object]:
    """The JSON schemas within a Lark grammar, where they are JSON. Raises NumberError."""
    for begin in re.finditer(r"%json\s*", text):
        try:
            schema, _ = _DECODER.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            continue  # the parser of grammars says it better, or it is no schema but a part of some text
        yield schema


def _integer(digits: str) -> int:
    value = int(digits)
    if abs(value) > EXACT and value != LARGEST:
        raise _refused(digits)
    return value


def _fraction(digits: str) -> float:
    value = float(digits)
    if abs(value) > LARGEST:
        raise _refused(digits)
    return value


def _constant(name: str) -> float:
    raise ValueError(f"there is no number {name}")


def _refused(digits: str) -> NumberError:
    shown = digits if len(digits) <= 40 else f"{digits[:40]}..."
    return NumberError(
        f"has the number {shown}; leave out bounds that large, and take integers from -2**53 to 2**53 or strings"
    )


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_constant)
