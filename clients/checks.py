"""Checks of single values, in words that say what they should be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

UINT32 = 2**32 - 1
UINT64 = 2**64 - 1
MAX_ATTEMPTS = 16
MAX_READERS = 100_000
MAX_LABELS, MAX_LABEL_CHARS = 16, 256
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_T = TypeVar("_T")


def check_id(what: str, value: str) -> str:
    """`value`, if it is a legal id. Raises ValueError otherwise."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{what} must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, not {value!r}")
    return value


def duration(what: str, value: float) -> Duration:
    """Seconds as a protobuf Duration. Raises TypeError or ValueError if that is not more than 0."""
    nanos = round(number(what, value, 0.0, 1e9) * 1e9)
    if nanos <= 0:
        raise ValueError(f"{what} must be more than 0 seconds, not {value!r}")
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def token_ids(what: str, ids: Sequence[int]) -> list[int]:
    """`ids`, if it is a non-empty sequence of token ids. Raises ValueError otherwise."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence) or not ids:
        raise ValueError(f"{what} must be a non-empty list of token ids, not {ids!r}")
    return [integer(f"a token id in {what}", i, UINT32) for i in ids]


def choice(what: str, value: str, choices: dict[str, _T]) -> _T:
    """The meaning of a word. Raises ValueError if it has none."""
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def string(what: str, value: object) -> str:
    """`value`, if it is a string that UTF-8 can write. Raises TypeError or ValueError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has half a surrogate pair at {error.start} ({value[error.start]!r}), which UTF-8 cannot write; "
            'decode it with errors="replace" where it comes from'
        ) from None
    return value


def integer(what: str, value: object, most: int, least: int = 0) -> int:
    """`value`, if it is an integer from `least` to `most`. Raises TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an integer, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{what} must be from {least} to {most}, not {value}")
    return value


def priority(what: str, value: object) -> int:
    """`value`, if it is an integer that an int32 can hold. Raises TypeError or ValueError otherwise."""
    return integer(what, value, 2**31 - 1, least=-(2**31))


def labels(value: object) -> dict[str, str]:
    """`value`, if it maps at most 16 strings to strings, of at most 256 characters each. Raises TypeError or ValueError
    otherwise."""
    if not isinstance(value, Mapping):
        raise TypeError(f"labels must map strings to strings, not {value!r}")
    if len(value) > MAX_LABELS:
        raise ValueError(f"labels has {len(value)} entries; at most {MAX_LABELS} are allowed")
    made = {string("a label's name", key): string(f"label {key!r}", text) for key, text in value.items()}
    for key, text in made.items():
        if not key or max(len(key), len(text)) > MAX_LABEL_CHARS:
            raise ValueError(
                f"label {key[:80]!r}: its name must have 1 to {MAX_LABEL_CHARS} characters, its value at most as many"
            )
    return made


def number(what: str, value: object, least: float, most: float = float("inf")) -> float:
    """`value`, if it is a finite number from `least` to `most`. Raises TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, not {value!r}")
    if not least <= value <= most or value == float("inf"):
        raise ValueError(f"{what} must be from {least:g} to {most:g}, not {value!r}")
    return float(value)
