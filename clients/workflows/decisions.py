"""Answers that decide something: JSON by constraint, read from their tokens alone, so that a script replays them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pavane.clients.results import Result

LEAST_TOKENS = 16  # that a decision may have: its first field fits


def json_object(**properties: Mapping[str, object]) -> dict[str, object]:
    """The schema of an object that has exactly these properties, in this order: what decides goes first."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def field_of(answer: Result, name: str) -> str | bool | None:
    """The value of a string or truth value in the answer's JSON; None if max_tokens has cut it off."""
    found = re.search(rf'"{name}": (true|false|"(?:[^"\\]|\\.)*")', answer.text)
    return json.loads(found[1]) if found is not None else None


def decision(answer: Result, name: str) -> str | bool:
    """... that must be there. Raises ValueError if it is not."""
    value = field_of(answer, name)
    if value is None:
        raise ValueError(f"{answer.id}: {answer.text!r} has no {name}; allow it more tokens")
    return value
