"""What a workflow is given: a typed dataclass, read from JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from pavane.clients.checks import string

P = TypeVar("P", bound="Problem")


def texts(about: str, *, least: int, separator: str) -> Any:
    """A field for several texts; `separator` parts them where they are given as one text."""
    return field(metadata={"about": about, "least": least, "separator": separator})


@dataclass(frozen=True)
class Problem:
    """The base of each workflow's problem. Fields are texts, or tuples of texts made by `texts`."""

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one, getattr(self, one.name))

    @classmethod
    def from_json(cls, line: Mapping[str, object]) -> Self:
        """From one line of a file of problems; other fields that it has are passed over. Raises ValueError or TypeError
        that names the field."""
        if not isinstance(line, Mapping):
            raise TypeError(f"a problem is a JSON object such as {cls.example()}, not {line!r}")
        given: dict[str, Any] = {}
        for one in fields(cls):
            value = line.get(one.name)
            if value is None:
                if one.default is MISSING:
                    raise ValueError(f"field {one.name!r} is missing; a problem looks like {cls.example()}")
            else:
                given[one.name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From JSON, or, where one field is all that it needs, from that field's text."""
        if text.lstrip().startswith("{"):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ValueError(f"the problem begins as JSON but is none: {error}") from None
            return cls.from_json(line)
        needed = [one for one in fields(cls) if one.default is MISSING]
        if len(needed) != 1:
            raise ValueError(f"this problem has several parts: write it as JSON, such as {cls.example()}")
        separator = needed[0].metadata.get("separator")
        parts = [part.strip() for part in text.split(separator)] if separator else text
        return cls.from_json({needed[0].name: parts})

    @classmethod
    def example(cls) -> str:
        """The form of a line of JSON."""
        shown = {one.name: ["...", "..."] if one.metadata else "..." for one in fields(cls)}
        return json.dumps(shown)

    def text(self) -> str:
        """All of it."""
        values = [getattr(self, one.name) for one in fields(self)]
        return "\n".join(value if isinstance(value, str) else "\n".join(value) for value in values)


@dataclass(frozen=True)
class TextProblem(Problem):
    """A problem that is one text."""

    problem: str


def load_problems(path: Path, kind: type[P]) -> list[P]:
    """A file with a problem in each line, as JSON. Raises ValueError with the line of what is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            problems.append(kind.from_json(json.loads(line)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: this line is no JSON ({error.msg}, column {error.colno})") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    if not problems:
        raise ValueError(f"{path} has no problems; each line is a JSON object such as {kind.example()}")
    return problems


def _check(one: Field[Any], value: object) -> None:
    if not one.metadata:
        if not string(one.name, value).strip() and one.default is MISSING:
            raise ValueError(f"{one.name} is empty; give it a text")
        return
    least = one.metadata["least"]
    if not isinstance(value, tuple):
        raise TypeError(f"{one.name} must be a list of texts, not {value!r}")
    if len(value) < least:
        raise ValueError(f"{one.name} has {len(value)} texts; at least {least} are needed")
    for i, part in enumerate(value):
        if not string(f"{one.name}[{i}]", part).strip():
            raise ValueError(f"{one.name}[{i}] is empty; give it a text or leave it out")
